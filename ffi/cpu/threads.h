// The pool of threads that all kernels share, and each thread's scratch memory. Compiled once, for every path.
// Work is handed out by index; which thread takes an index never changes a result, because each index has its own summation
// order.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Calls body(context, i) for every i in [0, count), on all threads; returns when all are done.
void parallel_for(int64_t count, void (*body)(void* context, int64_t index), void* context);

// Threads that parallel_for uses, the calling one included. How work is split may depend on it, a sum's order never.
int thread_total();

// At least `bytes` of this thread's scratch memory (64-byte aligned) in slot 0…3; contents are lost when it grows.
void* thread_scratch(int slot, size_t bytes);

// parallel_for over a lambda. Kept in an unnamed namespace per path: each path compiles its own.
namespace {
template <class Body>
inline void parallel(int64_t count, const Body& body) {
  if (count == 1) {
    body((int64_t)0);
    return;
  }
  parallel_for(
      count, [](void* context, int64_t index) { (*(const Body*)context)(index); }, (void*)&body);
}
}  // namespace
