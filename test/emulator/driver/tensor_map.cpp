// cuTensorMapEncodeTiled, with the driver's checks of its arguments. Leaves out what the copies of runtime/bulk_copy.cpp do: other
// element types, ranks, swizzles and fills.
#include <cstring>

#include "driver.h"

using namespace emulator::driver;

// CUtensorMapDataType, CUtensorMapSwizzle
enum { BFLOAT16 = 9, SWIZZLE_128B = 3 };

API int cuTensorMapEncodeTiled(emulator::TensorMap* map, int type, uint32_t rank, uint64_t address, const uint64_t* extent,
                               const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                               int interleave, int swizzle, int promotion, int fill) {
  BEGIN_CALL(Needs::context);
  if (!map || uint64_t(map) % 64 || !extent || !strides || !box || !element_strides) return invalid_value;
  if (promotion < 0 || promotion > 3) return invalid_value;
  if (address % 16 || strides[0] % 16 || strides[0] >= 1ull << 40) return invalid_value;
  for (uint32_t i = 0; i < rank; i++)
    if (extent[i] == 0 || extent[i] > 1ull << 32 || box[i] == 0 || box[i] > 256) return invalid_value;
  if (type != BFLOAT16 || rank != 2 || interleave != 0 || swizzle != SWIZZLE_128B || fill != 0) return not_supported;
  if (element_strides[0] != 1 || element_strides[1] != 1) return not_supported;
  if (box[0] * 2 > 128 || box[0] * 2 % 16) return invalid_value;  // the swizzle's width
  *map = emulator::TensorMap{emulator::TensorMap::MAGIC, address, extent[0], extent[1], strides[0], box[0], box[1], {}};
  return success;
}
