// Copies and fills. Pinned memory is read and written when the copy runs. Pageable memory is staged: it is read during the
// call, and a copy into it waits (CUDA driver API, "API synchronization behavior").
#include <cstring>

#include "driver.h"

namespace emulator::driver {

namespace {

const Handle legacy_stream = nullptr;

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

std::shared_ptr<Operation> copy_operation(const char* name, uint64_t target, uint64_t source, size_t size) {
  auto operation = std::make_shared<Operation>();
  operation->type = NodeType::copy;
  operation->name = name;
  operation->run = [=] {
    memmove(pointer(target), pointer(source), size);
    note_written(target, size);
  };
  return operation;
}

Status refuse_capture(Stream& stream) {
  if (!stream.capture) return success;
  invalidate(stream.capture);
  return capture_unsupported;
}

// `waits`: the synchronous call, which returns only after reading a pinned source.
Status host_to_device(uint64_t target, const void* source, size_t size, Handle handle, bool waits) {
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (!size) return success;
  const uint64_t from = uint64_t(source);
  if (!source || !inside_allocation(target, size) || inside_allocation(from, 1)) return invalid_value;
  if (find_pinned(from, size)) {
    auto operation = copy_operation("cuMemcpyHtoD", target, from, size);
    if (!waits) operation->host_source = {from, size};
    const Status status = submit(stream, std::move(operation));
    if (!status && waits) wait_stream(stream);
    return status;
  }
  if (const Status status = refuse_capture(*stream)) return status;
  if (!driver_settings().lazy) return submit(stream, copy_operation("cuMemcpyHtoD", target, from, size));
  auto staged = std::make_shared<std::vector<char>>(static_cast<const char*>(source), static_cast<const char*>(source) + size);
  auto operation = copy_operation("cuMemcpyHtoD", target, uint64_t(staged->data()), size);
  operation->run = [run = std::move(operation->run), staged] { run(); };
  return submit(stream, std::move(operation));
}

Status device_to_host(void* target, uint64_t source, size_t size, Handle handle, bool waits) {
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (!size) return success;
  const uint64_t to = uint64_t(target);
  if (!target || !inside_allocation(source, size) || inside_allocation(to, 1)) return invalid_value;
  auto operation = copy_operation("cuMemcpyDtoH", to, source, size);
  waits |= !find_pinned(to, size);
  if (waits) {
    if (const Status status = refuse_capture(*stream)) return status;
  } else {
    operation->host_target = {to, size};
  }
  const Status status = submit(stream, std::move(operation));
  if (status || !waits) return status;
  wait_stream(stream);
  return context().sticky;
}

Status device_to_device(uint64_t target, uint64_t source, size_t size, Handle handle) {
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (!size) return success;
  if (!inside_allocation(target, size) || !inside_allocation(source, size)) return invalid_value;
  return submit(stream, copy_operation("cuMemcpyDtoD", target, source, size));
}

Status any_copy(uint64_t target, uint64_t source, size_t size, Handle handle, bool waits) {
  const bool to_device = inside_allocation(target, 1), from_device = inside_allocation(source, 1);
  if (to_device && from_device) return device_to_device(target, source, size, handle);
  if (to_device) return host_to_device(target, pointer(source), size, handle, waits);
  if (from_device) return device_to_host(pointer(target), source, size, handle, waits);
  return invalid_value;
}

template <class T>
Status fill(uint64_t target, T value, size_t count, Handle handle) {
  const auto stream = find_stream(handle);
  if (!stream) return invalid_handle;
  if (!count) return success;
  if (target % sizeof(T) || count > SIZE_MAX / sizeof(T) || !inside_allocation(target, count * sizeof(T)))
    return invalid_value;
  auto operation = std::make_shared<Operation>();
  operation->type = NodeType::set;
  operation->name = "cuMemset";
  operation->run = [=] {
    for (size_t i = 0; i < count; i++) memcpy(pointer(target + i * sizeof(T)), &value, sizeof(T));
    note_written(target, count * sizeof(T));
  };
  return submit(stream, std::move(operation));
}

}  // namespace

void note_written(uint64_t address, uint64_t size) {
  if (settings().check && inside_allocation(address, size)) mark_written(address, size);
}

}  // namespace emulator::driver

using namespace emulator::driver;

// Calls without a stream use the legacy stream; all of them are forbidden while a capture excludes it.
#define BEGIN_SYNCHRONOUS_CALL     \
  BEGIN_CALL(Needs::context);      \
  if (const Status status = forbid_capture()) return status

API int cuMemcpyHtoD_v2(uint64_t target, const void* source, size_t size) {
  BEGIN_SYNCHRONOUS_CALL;
  return host_to_device(target, source, size, legacy_stream, true);
}

API int cuMemcpyDtoH_v2(void* target, uint64_t source, size_t size) {
  BEGIN_SYNCHRONOUS_CALL;
  return device_to_host(target, source, size, legacy_stream, true);
}

API int cuMemcpyDtoD_v2(uint64_t target, uint64_t source, size_t size) {
  BEGIN_SYNCHRONOUS_CALL;
  return device_to_device(target, source, size, legacy_stream);
}

API int cuMemcpy(uint64_t target, uint64_t source, size_t size) {
  BEGIN_SYNCHRONOUS_CALL;
  return any_copy(target, source, size, legacy_stream, true);
}

API int cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t size, Handle stream) {
  BEGIN_CALL(Needs::context);
  return host_to_device(target, source, size, stream, false);
}

API int cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t size, Handle stream) {
  BEGIN_CALL(Needs::context);
  return device_to_host(target, source, size, stream, false);
}

API int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t size, Handle stream) {
  BEGIN_CALL(Needs::context);
  return device_to_device(target, source, size, stream);
}

API int cuMemcpyAsync(uint64_t target, uint64_t source, size_t size, Handle stream) {
  BEGIN_CALL(Needs::context);
  return any_copy(target, source, size, stream, false);
}

API int cuMemsetD8_v2(uint64_t target, uint8_t value, size_t count) {
  BEGIN_SYNCHRONOUS_CALL;
  return fill(target, value, count, legacy_stream);
}

API int cuMemsetD16_v2(uint64_t target, uint16_t value, size_t count) {
  BEGIN_SYNCHRONOUS_CALL;
  return fill(target, value, count, legacy_stream);
}

API int cuMemsetD32_v2(uint64_t target, uint32_t value, size_t count) {
  BEGIN_SYNCHRONOUS_CALL;
  return fill(target, value, count, legacy_stream);
}

API int cuMemsetD8Async(uint64_t target, uint8_t value, size_t count, Handle stream) {
  BEGIN_CALL(Needs::context);
  return fill(target, value, count, stream);
}

API int cuMemsetD16Async(uint64_t target, uint16_t value, size_t count, Handle stream) {
  BEGIN_CALL(Needs::context);
  return fill(target, value, count, stream);
}

API int cuMemsetD32Async(uint64_t target, uint32_t value, size_t count, Handle stream) {
  BEGIN_CALL(Needs::context);
  return fill(target, value, count, stream);
}
