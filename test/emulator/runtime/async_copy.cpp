// cp.async: the destination is poisoned when issued and copied at the wait, so that a missing wait reads NaN.
#include <cstring>

#include "check.h"
#include "state.h"

namespace emulator {

void async_copy(Thread* me, u32 to, u64 from, u32 bytes, u32 source_bytes, int site) {
  Worker& worker = *me->block->worker;
  if (worker.check) worker.checker->async_issued(me, to, from, bytes, source_bytes, site);
  memset(me->shared + to, 0xff, bytes);
  CopyQueue& queue = worker.copies[me->flat];
  queue.copies.push_back({from, to, (u16)bytes, (u16)std::min(source_bytes, bytes), site, queue.group});
}

void async_commit(Thread* me) {
  me->block->worker->copies[me->flat].group++;
}

void async_wait(Thread* me, u32 groups_left) {
  Worker& worker = *me->block->worker;
  CopyQueue& queue = worker.copies[me->flat];
  size_t done = 0;
  for (; done < queue.copies.size() && queue.copies[done].group + groups_left < queue.group; done++) {
    const PendingCopy& copy = queue.copies[done];
    if (worker.check) worker.checker->async_done(me, copy.to, copy.bytes, copy.site);
    memset(me->shared + copy.to + copy.source_bytes, 0, (size_t)copy.bytes - copy.source_bytes);
    memcpy(me->shared + copy.to, (const void*)copy.from, copy.source_bytes);
  }
  queue.copies.erase(queue.copies.begin(), queue.copies.begin() + (long)done);
}

void forget_copies(Thread* me) {
  Worker& worker = *me->block->worker;
  CopyQueue& queue = worker.copies[me->flat];
  if (!queue.copies.empty()) {
    if (worker.check) report_fault(me, queue.copies[0].site, "async-copy", "the thread exits and never waits for it");
    queue.copies.clear();
  }
  queue.group = 0;
}

}  // namespace emulator
