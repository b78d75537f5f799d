#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__linux__)
#include <sys/resource.h>
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include <atomic>

namespace {

struct Job {
  void (*body)(void*, int64_t);
  void* context;
  int64_t count;
};

constexpr int MAX_THREADS = 256;
constexpr int SPINS = 4000;  // about 50 µs: kernels follow each other faster than a sleeping thread wakes

// In cache lines of their own: waiting threads read one while working threads change another.
alignas(64) std::atomic<uint32_t> generation{0};  // counts jobs; a worker waits for it to change
alignas(64) std::atomic<int64_t> next_index{0};
alignas(64) std::atomic<int> running{0};
alignas(64) Job job;
int thread_count = 1;
int started = 1;  // the calling thread is number 0
std::atomic<bool> busy{false};
thread_local bool inside = false;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

void work(const Job& j) {
  for (int64_t i; (i = next_index.fetch_add(1, std::memory_order_relaxed)) < j.count;) j.body(j.context, i);
}

void* worker(void* argument) {
  // Its number, and the generation at its start: earlier jobs do not count on it.
  int number = (int)((uintptr_t)argument & 0xffff);
  uint32_t seen = (uint32_t)((uintptr_t)argument >> 16);
  inside = true;
  for (;;) {
    int spins = 0;
    while (generation.load(std::memory_order_acquire) == seen) {
      if (++spins < SPINS) relax();
      else generation.wait(seen, std::memory_order_acquire);
    }
    seen = generation.load(std::memory_order_acquire);
    // Every worker reports, even one with no work in this job: the next job starts when none can still see this one.
    if (number < thread_count) work(job);
    running.fetch_sub(1, std::memory_order_release);
  }
  return nullptr;
}

constexpr size_t HUGE_PAGE = 2 << 20;

struct Scratch {
  void* memory[4] = {};
  size_t bytes[4] = {};
  ~Scratch() {
    for (void* m : memory) free(m);
  }
};
thread_local Scratch scratch;
std::atomic<int64_t> scratch_total{0};

constexpr int64_t POPULATED_AT_ONCE = 4 * (int64_t)HUGE_PAGE;

// The i-th piece of the memory; what it holds stays.
void populate(void* address, int64_t bytes, int64_t i) {
  char* from = (char*)address + i * POPULATED_AT_ONCE;
  int64_t size = bytes - i * POPULATED_AT_ONCE;
  if (size > POPULATED_AT_ONCE) size = POPULATED_AT_ONCE;
#if defined(__linux__)
  constexpr int POPULATE_WRITE = 23;  // MADV_POPULATE_WRITE, since Linux 5.14
  if (madvise(from, size, POPULATE_WRITE) == 0) return;
#endif
  for (int64_t at = 0; at < size; at += 4096) __atomic_fetch_or(from + at, 0, __ATOMIC_RELAXED);
}

struct Beside {
  void* address;
  int64_t bytes;
} beside;
pthread_t beside_thread;
bool is_beside = false;
std::atomic<bool> end_beside{false};

// The first prompts are read meanwhile, which two threads do faster than three on two cores.
constexpr int BEFORE_POPULATING_MS = 500;

void* populate_beside(void*) {
  const timespec wait = {0, 5000000};
  for (int ms = 0; ms < BEFORE_POPULATING_MS && !end_beside.load(); ms += 5) nanosleep(&wait, nullptr);
#if defined(__linux__)
  setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 15);  // of this thread: kernels wait for their slowest one
#endif
  for (int64_t i = 0; i * POPULATED_AT_ONCE < beside.bytes && !end_beside.load(); i++)
    populate(beside.address, beside.bytes, i);
  return nullptr;
}

}  // namespace

void parallel_for(int64_t count, void (*body)(void*, int64_t), void* context) {
  if (count <= 0) return;
  bool idle = false;
  // A nested call, or one from a second JavaScript thread, runs only on its own thread, with the same results.
  if (thread_count == 1 || count == 1 || inside || !busy.compare_exchange_strong(idle, true)) {
    for (int64_t i = 0; i < count; i++) body(context, i);
    return;
  }
  job = Job{body, context, count};
  next_index.store(0, std::memory_order_relaxed);
  running.store(started - 1, std::memory_order_relaxed);
  generation.fetch_add(1, std::memory_order_release);
  generation.notify_all();
  inside = true;
  work(job);
  inside = false;
  for (int spins = 0; running.load(std::memory_order_acquire) != 0;) {
    if (++spins < SPINS) relax();
    else sched_yield();
  }
  busy.store(false);
}

int thread_total() { return thread_count; }

void* thread_scratch(int slot, size_t bytes) {
  if (scratch.bytes[slot] < bytes) {
    free(scratch.memory[slot]);
    size_t rounded = (bytes + 4095) & ~(size_t)4095;
    scratch_total.fetch_add((int64_t)(rounded - scratch.bytes[slot]));
    if (posix_memalign(&scratch.memory[slot], rounded < HUGE_PAGE ? 64 : HUGE_PAGE, rounded) != 0) abort();
#if defined(MADV_HUGEPAGE)
    if (rounded >= HUGE_PAGE) madvise(scratch.memory[slot], rounded, MADV_HUGEPAGE);
#endif
    scratch.bytes[slot] = rounded;
  }
  return scratch.memory[slot];
}

#pragma GCC visibility push(default)
extern "C" {

void memory_populated(void);

// Threads that kernels use from now on, the calling one included; returns the number in use.
int32_t threads_set(int32_t n) {
  if (n < 1) n = 1;
  if (n > MAX_THREADS) n = MAX_THREADS;
  thread_count = n;
  while (started < n) {
    void* argument = (void*)((uintptr_t)generation.load() << 16 | (uintptr_t)started);
    pthread_t id;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    if (pthread_create(&id, &attributes, worker, argument) != 0) {
      thread_count = started;
      break;
    }
    pthread_attr_destroy(&attributes);
    started++;
  }
  return thread_count;
}

// Cores that this process may run on.
int32_t threads_available(void) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? (int32_t)online : 1;
}

// Makes new anonymous memory resident on a thread of its own, soon, while other work uses it: by whole huge pages, since two
// threads that touch the same one both zero it, and one of them in vain.
void memory_populate(void* address, int64_t bytes) {
  memory_populated();
  beside = Beside{address, bytes};
  is_beside = pthread_create(&beside_thread, nullptr, populate_beside, nullptr) == 0;
}

// Ends that thread, before its memory is freed.
void memory_populated(void) {
  if (!is_beside) return;
  end_beside.store(true);
  pthread_join(beside_thread, nullptr);
  end_beside.store(false);
  is_beside = false;
}

// Bytes of scratch memory that all threads hold.
int64_t scratch_bytes(void) { return scratch_total.load(); }
}
#pragma GCC visibility pop
