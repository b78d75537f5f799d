// The table through which translated code calls the runtime, and the simple calls: trap, printf, assert, clock.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>

#include "check.h"
#include "state.h"

namespace emulator {
namespace {

void enter_frame(Thread*, Frame* frame) {
  memset((void*)frame->low, 0xff, frame->high - frame->low);
  memset(frame->written, 0, frame->high - frame->low);
}

void yield(Thread* me) {
  run_others(me);
}

u64 clock_ticks() {
  return (u64)std::chrono::steady_clock::now().time_since_epoch().count();
}

void trap(Thread* me, int site) {
  report_fault(me, site, "trap", "reached");
  abandon(*me->block->worker, Outcome::launch_failed);
}

void assert_fail(Thread* me, const char* message, const char* file, u32 line, const char* function) {
  report_fault(me, -1, "assert", "%s:%u: %s: %s", file, line, function, message);
  abandon(*me->block->worker, Outcome::launch_failed);
}

// Device printf: arguments are packed, each aligned to its size; floats have become doubles.
u32 print(Thread*, const char* format, const char* arguments) {
  std::string text;
  u32 printed = 0;
  size_t offset = 0;
  auto next = [&](size_t size) {
    offset = (offset + size - 1) / size * size;
    const char* at = arguments + offset;
    offset += size;
    printed++;
    return at;
  };
  for (const char* at = format; *at; at++) {
    if (*at != '%') {
      text += *at;
      continue;
    }
    size_t length = strcspn(at + 1, "diouxXcsfFeEgGaAp%") + 2;
    if (!at[length - 1]) break;
    std::string one(at, length);
    char conversion = one.back(), piece[512] = "";
    bool wide = one.find("ll") != std::string::npos || one.find('l') != std::string::npos;
    if (conversion == '%') snprintf(piece, sizeof piece, "%%");
    else if (conversion == 's') snprintf(piece, sizeof piece, one.c_str(), *(const char* const*)next(8));
    else if (conversion == 'p') snprintf(piece, sizeof piece, one.c_str(), *(void* const*)next(8));
    else if (strchr("fFeEgGaA", conversion)) snprintf(piece, sizeof piece, one.c_str(), *(const double*)next(8));
    else if (wide) snprintf(piece, sizeof piece, one.c_str(), *(const long long*)next(8));
    else snprintf(piece, sizeof piece, one.c_str(), *(const int*)next(4));
    text += piece;
    at += length - 1;
  }
  fwrite(text.data(), 1, text.size(), stdout);
  fflush(stdout);
  return printed;
}

}  // namespace

const Runtime runtime_table = {
    checked_access, enter_frame, barrier,     barrier_arrive, barrier_reduce, syncwarp,    shuffle,
    vote,           match,       redux,       activemask,     matrices,       async_copy,  async_commit,
    async_wait,     bulk_copy,   proxy_fence, mbarrier_init,  mbarrier_arrive, mbarrier_wait, warpgroup_product,
    warpgroup_sync, warpgroup_commit, warpgroup_wait, warpgroup_hazard, set_registers,
    yield,          clock_ticks, trap,        print,          assert_fail,
};

}  // namespace emulator
