// Streams and their queues. Eager: work runs in the call that queues it. Lazy: work runs only when something waits for it, and
// only what that wait covers, so that a forgotten wait gives a wrong result every time.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace emulator::driver {

namespace {

std::list<Watch> watches;  // of all queued work

struct Streams {
  std::vector<std::shared_ptr<Stream>> live;
  std::shared_ptr<Stream> legacy = std::make_shared<Stream>();
  Streams() {
    legacy->legacy = true;
    live.push_back(legacy);
  }
};
Streams& streams() {
  static Streams all;
  return all;
}

uint64_t hash_bytes(const Range& range) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(range.address);
  uint64_t hash = 0x9e3779b97f4a7c15ull;
  size_t i = 0;
  for (; i + 8 <= range.size; i += 8) {
    uint64_t word;
    memcpy(&word, bytes + i, 8);
    hash = (hash ^ word) * 0xff51afd7ed558ccdull;
    hash ^= hash >> 32;
  }
  for (; i < range.size; i++) hash = (hash ^ bytes[i]) * 0xff51afd7ed558ccdull;
  return hash;
}

bool watched(const Range& range, bool only_writes) {
  return std::any_of(watches.begin(), watches.end(), [&](const Watch& watch) {
    return (watch.writes || !only_writes) && watch.range.overlaps(range);
  });
}

// Detects changes by the host between here and the copy: sources by their hash, targets because they are poisoned.
void watch(const Operation& operation, Entry* entry) {
  const auto add = [&](const Range& range, bool writes) {
    if (!range.size) return;
    Watch each{range, writes, false, 0, operation.name};
    each.verify = !watched(range, !writes);  // other queued work may legally change a source or read a target
    if (each.verify) {
      if (writes) memset(reinterpret_cast<void*>(range.address), 0xff, range.size);
      each.hash = hash_bytes(range);
    }
    watches.push_back(each);
    entry->watches.push_back(std::prev(watches.end()));
  };
  add(operation.host_source, false);
  for (const Range& range : operation.more_sources) add(range, false);
  add(operation.host_target, true);
  for (const Range& range : operation.more_targets) add(range, true);
}

void end_watch(const Watch& watch) {
  if (!watch.verify || hash_bytes(watch.range) == watch.hash) return;
  char text[256];
  snprintf(text, sizeof text, "the host changed pinned memory at 0x%llx (%llu bytes) while %s that %s it was queued",
           (unsigned long long)watch.range.address, (unsigned long long)watch.range.size, watch.operation.c_str(),
           watch.writes ? "writes" : "reads");
  report(watch.writes ? "early-write" : "early-reuse", watch.operation, text);
}

double now_milliseconds() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

void run_entry(Entry& entry) {
  for (const Point& point : entry.after) run_until(*point.stream, point.sequence);
  for (const auto& each : entry.watches) {
    end_watch(*each);
    watches.erase(each);
  }
  if (entry.operation && entry.operation->run && !context().sticky) entry.operation->run();
  if (entry.record) {
    entry.record->done = true;
    entry.record->milliseconds = now_milliseconds();
  }
}

void push(const std::shared_ptr<Stream>& stream, Entry entry) {
  // The legacy stream and blocking streams wait for each other, in call order.
  if (stream->legacy) {
    for (const auto& other : streams().live)
      if (other->blocking()) entry.after.push_back({other, other->submitted});
  } else if (stream->blocking()) {
    entry.after.push_back({streams().legacy, streams().legacy->submitted});
  }
  std::erase_if(entry.after, [](const Point& point) { return point.stream->completed >= point.sequence; });
  stream->submitted++;
  stream->queue.push_back(std::move(entry));
  if (!driver_settings().lazy) run_until(*stream, stream->submitted);
}

}  // namespace

std::map<std::string, uint64_t>& executed() {
  static std::map<std::string, uint64_t> counts;
  return counts;
}

const std::vector<std::shared_ptr<Stream>>& all_streams() { return streams().live; }

std::shared_ptr<Stream> find_stream(Handle handle) {
  if (!handle || handle == Handle(1)) return streams().legacy;
  for (const auto& stream : streams().live)
    if (stream.get() == handle && !stream->destroyed) return stream;
  return nullptr;
}

void run_until(Stream& stream, uint64_t sequence) {
  while (stream.completed < sequence && !stream.queue.empty()) {
    Entry entry = std::move(stream.queue.front());
    stream.queue.pop_front();
    run_entry(entry);
    stream.completed++;
  }
}

Status check_implicit(Stream& stream) {
  if (!stream.legacy) return success;
  for (const auto& other : streams().live) {
    if (!other->blocking() || !other->capture) continue;
    invalidate(other->capture);
    return capture_implicit;
  }
  return success;
}

Status submit(const std::shared_ptr<Stream>& stream, std::shared_ptr<const Operation> operation,
              std::vector<Point> after) {
  if (stream->capture) return add_node(*stream, std::move(operation));
  if (const Status status = check_implicit(*stream)) return status;
  Entry entry;
  entry.after = std::move(after);
  if (driver_settings().lazy) watch(*operation, &entry);
  entry.operation = std::move(operation);
  push(stream, std::move(entry));
  return success;
}

void record(const std::shared_ptr<Stream>& stream, std::shared_ptr<Record> record) {
  record->point = {stream, stream->submitted + 1};
  Entry entry;
  entry.record = std::move(record);
  push(stream, std::move(entry));
}

void wait_for(const std::shared_ptr<Stream>& stream, const Point& point) {
  Entry entry;
  entry.after.push_back(point);
  push(stream, std::move(entry));
}

void wait_stream(const std::shared_ptr<Stream>& stream) {
  if (stream->legacy) push(stream, {});  // including everything it implicitly waits for
  run_until(*stream, stream->submitted);
}

void wait_all() {
  for (const auto& stream : std::vector(streams().live)) run_until(*stream, stream->submitted);
  std::erase_if(streams().live, [](const auto& stream) { return stream->destroyed; });
}

void report_early_free(const Range& range) {
  for (const Watch& watch : watches) {
    if (!watch.range.overlaps(range)) continue;
    report("early-free", watch.operation, "pinned memory is freed while " + watch.operation + " that uses it is queued");
  }
}

void count_streams(LiveObjects* live) {
  live->streams = size_t(std::count_if(streams().live.begin(), streams().live.end(), [](const auto& stream) {
    return !stream->legacy && !stream->destroyed;
  }));
  count_events(live);
}

void clear_streams() {
  clear_events();
  for (const auto& stream : streams().live) {
    stream->queue.clear();
    stream->completed = stream->submitted;
    stream->capture = nullptr;
  }
  watches.clear();
  std::erase_if(streams().live, [](const auto& stream) { return !stream->legacy; });
}

}  // namespace emulator::driver

using namespace emulator::driver;

namespace {
Status create_stream(Handle* handle, unsigned flags) {
  if (!handle || flags & ~1u) return invalid_value;
  auto stream = std::make_shared<Stream>();
  stream->flags = flags;
  streams().live.push_back(stream);
  *handle = stream.get();
  return success;
}
}  // namespace

API int cuStreamCreate(Handle* handle, unsigned flags) {
  BEGIN_CALL(Needs::context);
  return create_stream(handle, flags);
}

API int cuStreamCreateWithPriority(Handle* handle, unsigned flags, int) {
  BEGIN_CALL(Needs::context);
  return create_stream(handle, flags);
}

// Its queued work still runs, whenever something waits for it.
API int cuStreamDestroy_v2(Handle handle) {
  BEGIN_CALL(Needs::context);
  const auto stream = find_stream(handle);
  if (!stream || stream->legacy) return invalid_handle;
  if (stream->capture) invalidate(stream->capture);
  stream->capture = nullptr;
  stream->destroyed = true;
  if (stream->queue.empty()) std::erase(streams().live, stream);
  return success;
}

API int cuStreamSynchronize(Handle handle) {
  BEGIN_CALL(Needs::context);
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (stream->capture) {
    invalidate(stream->capture);
    return capture_unsupported;
  }
  if (const Status status = check_implicit(*stream)) return status;
  wait_stream(stream);
  return context().sticky;
}

// Lazy work makes progress only here: the first query returns not ready after running what it asked about.
API int cuStreamQuery(Handle handle) {
  BEGIN_CALL(Needs::context);
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (stream->capture) {
    invalidate(stream->capture);
    return capture_unsupported;
  }
  if (const Status status = check_implicit(*stream)) return status;
  if (stream->completed == stream->submitted) return success;
  wait_stream(stream);
  return context().sticky ? context().sticky : not_ready;
}

API int cuStreamGetFlags(Handle handle, unsigned* flags) {
  BEGIN_CALL(Needs::context);
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (!flags) return invalid_value;
  *flags = stream->flags;
  return success;
}
