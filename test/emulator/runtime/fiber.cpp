// Fibers: a stack for each active CUDA thread, and the switch between two of them.
#include <sys/mman.h>

#include <cstring>
#include <new>

#include "state.h"

namespace emulator {
namespace {

constexpr size_t STACK = 256 << 10, GUARD = 4096, AT_ONCE = 64;
// Thread records and the first frames of their stacks have the same offset in each stack; without individual shifts, they would
// all fall into the same few sets of the cache.
constexpr size_t SHIFT = 64, SHIFTS = 64;

struct FiberRecord : Thread {
  char* stack_top;
};

}  // namespace

extern "C" {
void emulator_switch(void** save, void* load) __attribute__((visibility("hidden")));
void emulator_start() __attribute__((visibility("hidden")));
void emulator_fiber_main(Thread* thread) __attribute__((visibility("hidden")));
void emulator_fiber_main(Thread* thread) {
  fiber_main(thread);
}
}

// Saves only what a called function has to preserve. The rounding mode is the default at every switch.
#if defined(__x86_64__)
constexpr size_t SAVED = 7, THREAD_SLOT = 3;  // r15 r14 r13 r12 rbx rbp, address
asm(R"(
.text
.p2align 4
.globl emulator_switch
.hidden emulator_switch
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.globl emulator_start
.hidden emulator_start
emulator_start:
  movq %r12, %rdi
  call emulator_fiber_main
  ud2
)");
#elif defined(__aarch64__)
constexpr size_t SAVED = 20, THREAD_SLOT = 0;  // x19 … x30, d8 … d15
asm(R"(
.text
.p2align 4
.globl emulator_switch
.hidden emulator_switch
emulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.globl emulator_start
.hidden emulator_start
emulator_start:
  mov x0, x19
  bl emulator_fiber_main
  brk #0
)");
#else
#error "the emulator's fibers know x86-64 and aarch64"
#endif

void switch_fiber(void** save, void* load) {
  emulator_switch(save, load);
}

void reset_fiber(Thread* thread) {
  void** stack = (void**)static_cast<FiberRecord*>(thread)->stack_top - SAVED;
  memset(stack, 0, SAVED * sizeof(void*));
#if defined(__x86_64__)
  stack[SAVED - 1] = (void*)&emulator_start;
#else
  stack[11] = (void*)&emulator_start;  // x30
#endif
  stack[THREAD_SLOT] = thread;
  thread->stack_pointer = stack;
}

Thread* new_fiber(Worker& worker) {
  size_t number = worker.fibers.size();
  if (!worker.stacks_left) {
    void* memory =
        mmap(nullptr, AT_ONCE * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    worker.free_stacks = (char*)memory;
    worker.stacks_left = AT_ONCE;
  }
  char* base = worker.free_stacks;
  worker.free_stacks += STACK;
  worker.stacks_left--;
  mprotect(base, GUARD, PROT_NONE);
  char* top = base + STACK - (number * 37 % SHIFTS) * SHIFT - (sizeof(FiberRecord) + 63) / 64 * 64;
  auto* record = new (top) FiberRecord();
  record->stack_top = top;
  record->block = &worker.block;
  record->runtime = &runtime_table;
  record->geometry = &worker.block.geometry;
  worker.fibers.push_back(record);
  reset_fiber(record);
  return record;
}

}  // namespace emulator
