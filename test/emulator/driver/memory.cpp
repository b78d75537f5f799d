// Device allocations and pinned host memory. Freeing memory waits for the device, as the driver's calls do; memory that queued
// copies still need is reported, since that wait is not guaranteed.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace emulator::driver {

namespace {

struct PinnedBuffer : HostBuffer {
  Mapping mapping;
  bool visible_to_kernels = false;
};

std::map<uint64_t, Mapping> allocations;
std::map<uint64_t, PinnedBuffer> pinned;
uint64_t in_use = 0;

uint64_t rounded(uint64_t size) { return (size + 511) / 512 * 512; }

void check_slack(const Mapping& mapping, const char* what) {
  if (mapping.slack_intact()) return;
  char text[160];
  snprintf(text, sizeof text, "bytes beside a %s of %llu bytes were overwritten", what, (unsigned long long)mapping.size);
  report("out-of-bounds", "", text);
}

template <class Map>
auto holding(Map& map, uint64_t address) {
  auto next = map.upper_bound(address);
  if (next == map.begin()) return map.end();
  auto found = std::prev(next);
  return address < found->first + found->second.size ? found : map.end();
}

Status free_pinned(uint64_t address, bool registered, Status unknown) {
  const auto found = pinned.find(address);
  if (found == pinned.end() || found->second.registered != registered) return unknown;
  report_early_free({address, found->second.size});
  wait_all();
  if (found->second.visible_to_kernels) remove_allocation(address);
  if (!registered) {
    check_slack(found->second.mapping, "pinned buffer");
    found->second.mapping.discard();
  }
  pinned.erase(found);
  return context().sticky;
}

}  // namespace

bool inside_allocation(uint64_t address, uint64_t size) {
  const auto found = holding(allocations, address);
  if (found == allocations.end()) return inside_module_global(address, size);
  return size <= found->second.address + found->second.size - address;
}

const HostBuffer* find_pinned(uint64_t address, uint64_t size) {
  const auto found = holding(pinned, address);
  if (found == pinned.end() || address + size > found->first + found->second.size) return nullptr;
  return &found->second;
}

uint64_t memory_in_use() { return in_use; }

void count_memory(LiveObjects* live) {
  live->allocations = allocations.size();
  live->pinned = pinned.size();
}

void clear_memory() {
  for (auto& [address, mapping] : allocations) {
    remove_allocation(address);
    mapping.discard();
  }
  allocations.clear();
  in_use = 0;
  for (auto& [address, buffer] : pinned) {
    if (buffer.visible_to_kernels) remove_allocation(address);
    if (!buffer.registered) buffer.mapping.discard();
  }
  pinned.clear();
}

}  // namespace emulator::driver

using namespace emulator::driver;

API int cuMemGetInfo_v2(size_t* free, size_t* total) {
  BEGIN_CALL(Needs::context);
  if (!free || !total) return invalid_value;
  *total = driver_settings().memory;
  *free = *total > in_use ? *total - in_use : 0;
  return success;
}

API int cuMemAlloc_v2(uint64_t* address, size_t size) {
  BEGIN_CALL(Needs::context);
  if (!address || !size) return invalid_value;
  if (const Status status = forbid_capture()) return status;
  if (size > driver_settings().memory || in_use + rounded(size) > driver_settings().memory) return out_of_memory;
  Mapping mapping;
  if (!map_filled(size, true, &mapping)) return out_of_memory;
  in_use += rounded(size);
  allocations[mapping.address] = mapping;
  emulator::add_allocation(mapping.address, size);
  *address = mapping.address;
  return success;
}

API int cuMemFree_v2(uint64_t address) {
  BEGIN_CALL(Needs::context);
  if (!address) return success;
  const auto found = allocations.find(address);
  if (found == allocations.end()) return invalid_value;
  if (const Status status = forbid_capture()) return status;
  wait_all();
  emulator::remove_allocation(address);
  check_slack(found->second, "device allocation");
  in_use -= rounded(found->second.size);
  found->second.discard();
  allocations.erase(found);
  return context().sticky;
}

API int cuMemGetAddressRange_v2(uint64_t* base, size_t* size, uint64_t address) {
  BEGIN_CALL(Needs::context);
  const auto found = holding(allocations, address);
  if (found == allocations.end()) return not_found;
  if (base) *base = found->second.address;
  if (size) *size = found->second.size;
  return success;
}

namespace {
Status allocate_pinned(void** pointer, size_t size, unsigned flags) {
  if (!pointer || !size || flags & ~7u) return invalid_value;
  if (const Status status = forbid_capture()) return status;
  PinnedBuffer buffer;
  if (!map_filled(size, false, &buffer.mapping)) return out_of_memory;
  buffer.address = buffer.mapping.address;
  buffer.size = size;
  buffer.flags = flags;
  pinned[buffer.address] = buffer;
  *pointer = reinterpret_cast<void*>(buffer.address);
  return success;
}
}  // namespace

API int cuMemHostAlloc(void** pointer, size_t size, unsigned flags) {
  BEGIN_CALL(Needs::context);
  return allocate_pinned(pointer, size, flags);
}

API int cuMemAllocHost_v2(void** pointer, size_t size) {
  BEGIN_CALL(Needs::context);
  return allocate_pinned(pointer, size, 0);
}

API int cuMemFreeHost(void* pointer) {
  BEGIN_CALL(Needs::context);
  if (!pointer) return success;
  if (const Status status = forbid_capture()) return status;
  return free_pinned(uint64_t(pointer), false, invalid_value);
}

API int cuMemHostRegister_v2(void* pointer, size_t size, unsigned flags) {
  BEGIN_CALL(Needs::context);
  if (!pointer || !size || flags & ~15u) return invalid_value;
  if (const Status status = forbid_capture()) return status;
  const Range range{uint64_t(pointer), size};
  for (const auto& [address, buffer] : pinned)
    if (range.overlaps({address, buffer.size})) return host_memory_already_registered;
  PinnedBuffer buffer;
  buffer.address = range.address;
  buffer.size = size;
  buffer.flags = flags;
  buffer.registered = true;
  pinned[range.address] = buffer;
  return success;
}

API int cuMemHostUnregister(void* pointer) {
  BEGIN_CALL(Needs::context);
  if (!pointer) return invalid_value;
  if (const Status status = forbid_capture()) return status;
  return free_pinned(uint64_t(pointer), true, host_memory_not_registered);
}

API int cuMemHostGetDevicePointer_v2(uint64_t* device, void* pointer, unsigned flags) {
  BEGIN_CALL(Needs::context);
  if (!device || flags) return invalid_value;
  const auto found = holding(pinned, uint64_t(pointer));
  if (found == pinned.end()) return invalid_value;
  PinnedBuffer& buffer = found->second;
  if (!buffer.visible_to_kernels) emulator::add_allocation(buffer.address, buffer.size);
  buffer.visible_to_kernels = true;
  *device = uint64_t(pointer);
  return success;
}

API int cuMemHostGetFlags(unsigned* flags, void* pointer) {
  BEGIN_CALL(Needs::context);
  if (!flags) return invalid_value;
  const HostBuffer* buffer = find_pinned(uint64_t(pointer), 1);
  if (!buffer) return invalid_value;
  *flags = buffer->flags;
  return success;
}
