// Events: a point in a stream, or nodes of a graph being captured. Times are those of the emulation, not of a device.
#include <unordered_map>

#include "driver.h"

namespace emulator::driver {

namespace {

std::unordered_map<Handle, std::shared_ptr<Event>> events;

// Null once everything that the event marks has run.
std::shared_ptr<Record> outstanding(const Event& event) {
  return event.record && !event.record->done ? event.record : nullptr;
}

void run_record(const Record& record) { run_until(*record.point.stream, record.point.sequence); }

}  // namespace

std::shared_ptr<Event> find_event(Handle handle) {
  const auto found = events.find(handle);
  return found == events.end() ? nullptr : found->second;
}

void count_events(LiveObjects* live) { live->events = events.size(); }

void clear_events() { events.clear(); }

}  // namespace emulator::driver

using namespace emulator::driver;

namespace {
constexpr unsigned disable_timing = 2;
}

API int cuEventCreate(Handle* handle, unsigned flags) {
  BEGIN_CALL(Needs::context);
  if (!handle || flags & ~7u) return invalid_value;
  auto event = std::make_shared<Event>();
  event->flags = flags;
  *handle = event.get();
  events[event.get()] = std::move(event);
  return success;
}

API int cuEventDestroy_v2(Handle handle) {
  BEGIN_CALL(Needs::context);
  return events.erase(handle) ? success : invalid_handle;
}

namespace {
Status record_event(Handle handle, Handle stream_handle) {
  const auto event = find_event(handle);
  const auto stream = find_stream(stream_handle);
  if (!event || !stream) return invalid_handle;
  if (stream->capture) {
    if (stream->capture->invalid) return capture_invalidated;
    event->record = nullptr;
    event->capture = stream->capture;
    event->nodes = stream->tail;
    return success;
  }
  if (const Status status = check_implicit(*stream)) return status;
  event->capture = nullptr;
  event->record = std::make_shared<Record>();
  record(stream, event->record);
  return success;
}
}  // namespace

API int cuEventRecord(Handle handle, Handle stream) {
  BEGIN_CALL(Needs::context);
  return record_event(handle, stream);
}

API int cuEventRecordWithFlags(Handle handle, Handle stream, unsigned flags) {
  BEGIN_CALL(Needs::context);
  if (flags & ~1u) return invalid_value;
  return record_event(handle, stream);
}

API int cuEventQuery(Handle handle) {
  BEGIN_CALL(Needs::context);
  const auto event = find_event(handle);
  if (!event) return invalid_handle;
  if (event->capture) {
    invalidate(event->capture);
    return captured_event;
  }
  const auto waiting = outstanding(*event);
  if (!waiting) return success;
  run_record(*waiting);  // time passes: the next query finds it done
  return context().sticky ? context().sticky : not_ready;
}

API int cuEventSynchronize(Handle handle) {
  BEGIN_CALL(Needs::context);
  const auto event = find_event(handle);
  if (!event) return invalid_handle;
  if (event->capture) {
    invalidate(event->capture);
    return captured_event;
  }
  if (const auto waiting = outstanding(*event)) run_record(*waiting);
  return context().sticky;
}

namespace {
Status elapsed(float* milliseconds, Handle start_handle, Handle end_handle) {
  const auto start = find_event(start_handle), end = find_event(end_handle);
  if (!start || !end) return invalid_handle;
  if (!milliseconds) return invalid_value;
  if (start->capture || end->capture) return captured_event;
  if (!start->record || !end->record || (start->flags | end->flags) & disable_timing) return invalid_handle;
  if (!start->record->done || !end->record->done) return not_ready;
  *milliseconds = float(end->record->milliseconds - start->record->milliseconds);
  return success;
}
}  // namespace

API int cuEventElapsedTime(float* milliseconds, Handle start, Handle end) {
  BEGIN_CALL(Needs::context);
  return elapsed(milliseconds, start, end);
}

API int cuEventElapsedTime_v2(float* milliseconds, Handle start, Handle end) {
  BEGIN_CALL(Needs::context);
  return elapsed(milliseconds, start, end);
}

// The event's latest recording so far; later recordings don't matter. An event never recorded causes no wait.
API int cuStreamWaitEvent(Handle stream_handle, Handle handle, unsigned flags) {
  BEGIN_CALL(Needs::context);
  const auto stream = find_stream(stream_handle);
  const auto event = find_event(handle);
  if (!event || !stream) return invalid_handle;
  if (flags & ~1u) return invalid_value;
  if (event->capture) return join_capture(*stream, *event);
  if (stream->capture) {
    if (!event->record) return success;
    invalidate(stream->capture);
    return capture_isolation;
  }
  if (const auto waiting = outstanding(*event)) wait_for(stream, waiting->point);
  return success;
}
