// Launches: the driver's limits, parameters copied during the call, faults that end the context.
#include <cstring>

#include "driver.h"

namespace emulator::driver {

namespace {

Status check_shape(const Function& function, Dim3 grid, Dim3 block, uint32_t shared) {
  const auto exceeds = [](uint32_t value, int attribute) {
    return value == 0 || value > uint32_t(device_attribute(attribute));
  };
  if (exceeds(grid.x, 5) || exceeds(grid.y, 6) || exceeds(grid.z, 7)) return invalid_value;
  if (exceeds(block.x, 2) || exceeds(block.y, 3) || exceeds(block.z, 4)) return invalid_value;
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads > 1024 || shared > uint32_t(function.dynamic_shared_limit)) return invalid_value;
  if (function.kernel->max_threads && threads > function.kernel->max_threads) return launch_out_of_resources;
  return success;
}

// CU_LAUNCH_PARAM_END, _BUFFER_POINTER, _BUFFER_SIZE
enum Extra : uintptr_t { end = 0, buffer_pointer = 1, buffer_size = 2 };

Status pack(const Kernel& kernel, void** parameters, void** extra, std::vector<char>* block) {
  block->assign(kernel.parameter_bytes, 0);
  if (parameters) {
    if (extra) return invalid_value;
    for (uint32_t i = 0; i < kernel.parameter_count; i++) {
      if (!parameters[i]) return invalid_value;
      memcpy(block->data() + kernel.parameters[i].offset, parameters[i], kernel.parameters[i].size);
    }
    return success;
  }
  if (!extra) return kernel.parameter_count ? invalid_value : success;
  const void* buffer = nullptr;
  size_t size = 0;
  for (; uintptr_t(*extra) != end; extra += 2) {
    if (uintptr_t(extra[0]) == buffer_pointer) buffer = extra[1];
    else if (uintptr_t(extra[0]) == buffer_size) size = *static_cast<size_t*>(extra[1]);
    else return invalid_value;
  }
  if (size != kernel.parameter_bytes || (size && !buffer)) return invalid_value;
  memcpy(block->data(), buffer, size);
  return success;
}

Status status_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::done: return success;
    case Outcome::illegal_address: return illegal_address;
    case Outcome::misaligned_address: return misaligned_address;
    case Outcome::launch_failed: return launch_failed;
  }
  return launch_failed;
}

}  // namespace
}  // namespace emulator::driver

using namespace emulator::driver;

API int cuLaunchKernel(Handle handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                       unsigned block_y, unsigned block_z, unsigned shared, Handle stream_handle, void** parameters,
                       void** extra) {
  BEGIN_CALL(Needs::context);
  const auto function = find_function(handle);
  const auto stream = find_stream(stream_handle);
  if (!function || !stream) return invalid_handle;
  const emulator::Dim3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
  if (const Status status = check_shape(*function, grid, block, shared)) return status;
  auto packed = std::make_shared<std::vector<char>>();
  if (const Status status = pack(*function->kernel, parameters, extra, packed.get())) return status;
  auto operation = std::make_shared<Operation>();
  operation->type = NodeType::kernel;
  operation->name = function->kernel->name;
  operation->run = [kernel = function->kernel, grid, block, shared, packed, held = std::weak_ptr(function)] {
    if (held.expired()) {
      emulator::report("unloaded-kernel", "", "a graph runs a kernel whose module was unloaded");
      set_sticky(invalid_handle);
      return;
    }
    executed()[kernel->name]++;
    set_sticky(status_of(emulator::launch(kernel, grid, block, shared, packed->data())));
  };
  return submit(stream, std::move(operation));
}
