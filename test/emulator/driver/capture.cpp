// Stream capture: calls become nodes of a graph. A call that the driver forbids during a capture ends it.
#include <algorithm>
#include <set>

#include "driver.h"

namespace emulator::driver {

namespace {

enum Mode { global = 0, thread_local_ = 1, relaxed = 2 };

std::vector<std::shared_ptr<Capture>> active() {
  std::vector<std::shared_ptr<Capture>> captures;
  for (const auto& stream : all_streams())
    if (stream->capture && stream->capture->origin == stream.get()) captures.push_back(stream->capture);
  return captures;
}

void leave(const Capture* capture) {
  for (const auto& stream : all_streams()) {
    if (stream->capture.get() != capture) continue;
    stream->capture = nullptr;
    stream->tail.clear();
  }
}

// Work of a joined stream that nothing in the origin stream waits for.
bool unjoined(const Capture& capture) {
  const auto& nodes = capture.graph->nodes;
  std::set<uint32_t> reached(capture.origin->tail.begin(), capture.origin->tail.end());
  for (size_t i = nodes.size(); i-- > 0;) {
    if (!reached.contains(uint32_t(i))) return true;
    reached.insert(nodes[i].dependencies.begin(), nodes[i].dependencies.end());
  }
  return false;
}

}  // namespace

void invalidate(const std::shared_ptr<Capture>& capture) { capture->invalid = true; }

Status forbid_capture() {
  Status status = success;
  for (const auto& capture : active()) {
    if (capture->mode == relaxed) continue;
    if (capture->mode == thread_local_ && capture->thread != std::this_thread::get_id()) continue;
    invalidate(capture);
    status = capture_unsupported;
  }
  return status;
}

Status add_node(Stream& stream, std::shared_ptr<const Operation> operation) {
  if (stream.capture->invalid) return capture_invalidated;
  auto& nodes = stream.capture->graph->nodes;
  nodes.push_back({std::move(operation), stream.tail});
  stream.tail = {uint32_t(nodes.size() - 1)};
  return success;
}

Status join_capture(Stream& stream, const Event& event) {
  if (event.capture->invalid) return capture_invalidated;
  if (stream.legacy) {
    invalidate(event.capture);
    return capture_implicit;
  }
  if (stream.capture && stream.capture != event.capture) {
    invalidate(event.capture);
    invalidate(stream.capture);
    return capture_merge;
  }
  stream.capture = event.capture;
  for (const uint32_t node : event.nodes)
    if (std::find(stream.tail.begin(), stream.tail.end(), node) == stream.tail.end()) stream.tail.push_back(node);
  return success;
}

}  // namespace emulator::driver

using namespace emulator::driver;

API int cuStreamBeginCapture_v2(Handle handle, int mode) {
  BEGIN_CALL(Needs::context);
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (mode < global || mode > relaxed) return invalid_value;
  if (stream->legacy) return capture_unsupported;
  if (stream->capture) return illegal_state;
  auto capture = std::make_shared<Capture>();
  capture->mode = mode;
  capture->origin = stream.get();
  capture->thread = std::this_thread::get_id();
  stream->capture = std::move(capture);
  stream->tail.clear();
  return success;
}

API int cuStreamEndCapture(Handle handle, Handle* graph) {
  BEGIN_CALL(Needs::context);
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (!graph) return invalid_value;
  *graph = nullptr;
  const auto capture = stream->capture;
  if (!capture) return illegal_state;
  if (capture->origin != stream.get()) {
    invalidate(capture);
    return capture_unmatched;
  }
  if (capture->mode != relaxed && capture->thread != std::this_thread::get_id()) return capture_wrong_thread;
  const Status status = capture->invalid ? capture_invalidated : unjoined(*capture) ? capture_unjoined : success;
  leave(capture.get());
  if (status) return status;
  *graph = register_graph(capture->graph);
  return success;
}

// CUstreamCaptureStatus: 0 none, 1 active, 2 invalidated
API int cuStreamIsCapturing(Handle handle, int* status) {
  BEGIN_CALL(Needs::context);
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (!status) return invalid_value;
  *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
  return success;
}

API int cuThreadExchangeStreamCaptureMode(int* mode) {
  BEGIN_CALL(Needs::context);
  static thread_local int current = global;
  if (!mode || *mode < global || *mode > relaxed) return invalid_value;
  std::swap(*mode, current);
  return success;
}
