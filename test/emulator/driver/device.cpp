// The one emulated device: its name, limits and attributes by compute capability. These are the figures that the driver reports
// for a card of that generation; nothing here depends on the host machine.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

#include "driver.h"

namespace emulator::driver {

namespace {

struct Card {
  int compute_capability, multiprocessors;
  int shared_optin, shared_per_multiprocessor;    // bytes
  int threads_per_multiprocessor, blocks_per_multiprocessor;
  int clock, memory_clock, bus_width;             // kHz, kHz, bits
  int l2;                                         // bytes
};

// A100, RTX 3090, RTX 4090, H100 SXM, B200, RTX 5090. Shared memory and threads: CUDA C++ Programming Guide, "Technical
// Specifications per Compute Capability".
const Card cards[] = {
    {80, 108, 166912, 167936, 2048, 32, 1410000, 1593000, 5120, 40 << 20},
    {86, 82, 101376, 102400, 1536, 16, 1695000, 9751000, 384, 6 << 20},
    {89, 128, 101376, 102400, 1536, 24, 2520000, 10501000, 384, 72 << 20},
    {90, 132, 232448, 233472, 2048, 32, 1980000, 2619000, 5120, 50 << 20},
    {100, 148, 232448, 233472, 2048, 32, 1965000, 3996000, 8192, 126 << 20},
    {120, 170, 101376, 102400, 1536, 24, 2407000, 14001000, 512, 96 << 20},
};

const Card& card() {
  for (const Card& each : cards)
    if (each.compute_capability == driver_settings().compute_capability) return each;
  return cards[0];
}

}  // namespace

int device_attribute(int attribute) {
  const Card& c = card();
  switch (attribute) {
    case 1: return 1024;            // threads per block
    case 2: case 3: return 1024;    // block x, y
    case 4: return 64;              // block z
    case 5: return 2147483647;      // grid x
    case 6: case 7: return 65535;   // grid y, z
    case 8: return 49152;           // shared memory per block without opting in
    case 9: return 65536;           // constant memory
    case 10: return 32;             // warp size
    case 11: return 2147483647;     // pitch
    case 12: return 65536;          // registers per block
    case 13: return c.clock;
    case 14: return 512;            // texture alignment
    case 15: return 1;              // copies overlap kernels
    case 16: return c.multiprocessors;
    case 19: return 1;              // can map host memory
    case 31: return 1;              // concurrent kernels
    case 33: return 1;              // PCI bus
    case 36: return c.memory_clock;
    case 37: return c.bus_width;
    case 38: return c.l2;
    case 39: return c.threads_per_multiprocessor;
    case 40: return 2;              // copy engines
    case 41: return 1;              // unified addressing
    case 75: return driver_settings().compute_capability / 10;
    case 76: return driver_settings().compute_capability % 10;
    case 78: return 1;              // stream priorities
    case 79: case 80: return 1;     // L1 caches
    case 81: return c.shared_per_multiprocessor;
    case 82: return 65536;          // registers per multiprocessor
    case 90: return 1;              // compute preemption
    case 95: return 1;              // cooperative launch
    case 97: return c.shared_optin;
    case 99: return 1;              // host registration
    case 106: return c.blocks_per_multiprocessor;
    case 111: return 1024;          // shared memory that the driver keeps per block
    default: return attribute >= 1 && attribute < 162 ? 0 : -1;
  }
}

}  // namespace emulator::driver

using namespace emulator::driver;

API int cuDriverGetVersion(int* version) {
  BEGIN_CALL(Needs::nothing);
  if (!version) return invalid_value;
  *version = 13000;
  return success;
}

API int cuDeviceGet(int* device, int ordinal) {
  BEGIN_CALL(Needs::initialized);
  if (!device) return invalid_value;
  if (ordinal != 0) return invalid_device;
  *device = 0;
  return success;
}

API int cuDeviceGetCount(int* count) {
  BEGIN_CALL(Needs::initialized);
  if (!count) return invalid_value;
  *count = 1;
  return success;
}

API int cuDeviceGetName(char* name, int length, int device) {
  BEGIN_CALL(Needs::initialized);
  if (!name || length <= 0) return invalid_value;
  if (device != 0) return invalid_device;
  const int capability = driver_settings().compute_capability;
  snprintf(name, size_t(length), "Emulated GPU sm_%d", capability);
  return success;
}

namespace {
Status write_uuid(unsigned char* uuid, int device) {
  if (!uuid) return invalid_value;
  if (device != 0) return invalid_device;
  // Each process has a GPU of its own, unless EMULATOR_GPU names one that several have.
  memset(uuid, 0, 16);
  if (const char* name = getenv("EMULATOR_GPU"))
    memcpy(uuid, name, strnlen(name, 16));
  else
    snprintf(reinterpret_cast<char*>(uuid), 16, "emulated %d", getpid());
  return success;
}
}  // namespace

API int cuDeviceGetUuid(unsigned char* uuid, int device) {
  BEGIN_CALL(Needs::initialized);
  return write_uuid(uuid, device);
}

API int cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  BEGIN_CALL(Needs::initialized);
  return write_uuid(uuid, device);
}

API int cuDeviceGetPCIBusId(char* id, int length, int device) {
  BEGIN_CALL(Needs::initialized);
  if (!id || length <= 0) return invalid_value;
  if (device != 0) return invalid_device;
  snprintf(id, size_t(length), "0000:01:00.0");
  return success;
}

API int cuDeviceGetAttribute(int* value, int attribute, int device) {
  BEGIN_CALL(Needs::initialized);
  if (!value) return invalid_value;
  if (device != 0) return invalid_device;
  const int found = device_attribute(attribute);
  if (found < 0) return invalid_value;
  *value = found;
  return success;
}

API int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  BEGIN_CALL(Needs::initialized);
  if (!bytes) return invalid_value;
  if (device != 0) return invalid_device;
  *bytes = driver_settings().memory;
  return success;
}

API int cuDeviceComputeCapability(int* major, int* minor, int device) {
  BEGIN_CALL(Needs::initialized);
  if (!major || !minor) return invalid_value;
  if (device != 0) return invalid_device;
  *major = driver_settings().compute_capability / 10;
  *minor = driver_settings().compute_capability % 10;
  return success;
}
