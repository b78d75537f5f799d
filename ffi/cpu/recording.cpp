// Runs a recorded list of kernel calls, such as a decode step, in one call from TypeScript. A recorded call is the kernel's
// position in CPU_OPS, then each argument in 64 bits (ffi/bindings/recorded-calls.ts writes them). The kernels are those of
// the path in use when the list runs. Leaves out what to record and when to yield.
#include <string.h>
#include <time.h>

#include <utility>

#include "ops.h"

#define DECLARE(name, parameters, arguments) void name parameters;
extern "C" {
CPU_OPS(DECLARE)
}
#undef DECLARE

namespace {

// An argument is in the low bytes of its word.
template <class T>
T argument(const uint64_t* word) {
  T value;
  memcpy(&value, word, sizeof value);
  return value;
}

template <class... P, size_t... I>
void call_with(void (*kernel)(P...), const uint64_t* words, std::index_sequence<I...>) {
  kernel(argument<P>(words + I)...);
}

template <class... P>
void call(void (*kernel)(P...), const uint64_t* words) {
  call_with(kernel, words, std::index_sequence_for<P...>());
}

template <class... P>
constexpr int32_t parameter_count(void (*)(P...)) {
  return sizeof...(P);
}

struct Entry {
  void (*run)(const uint64_t* words);
  int32_t parameters;
};
#define ENTRY(name, parameters, arguments) {[](const uint64_t* words) { call(name, words); }, parameter_count(name)},
const Entry entries[] = {CPU_OPS(ENTRY)};
#undef ENTRY

int64_t nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Runs the calls in words [from, to), and stops after the call during which `microseconds` run out: at least one is run.
// Returns where it stopped.
int32_t calls_run(const uint64_t* words, int32_t from, int32_t to, int32_t microseconds) {
  const int64_t end = nanoseconds() + (int64_t)microseconds * 1000;
  do {
    const Entry& entry = entries[words[from]];
    entry.run(words + from + 1);
    from += 1 + entry.parameters;
  } while (from < to && nanoseconds() < end);
  return from;
}
}
#pragma GCC visibility pop
