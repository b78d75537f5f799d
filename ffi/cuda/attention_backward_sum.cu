// dk, dv of the key tiles that were cut into several units (attention_backward.cuh says which): the sums that the units
// left in their slots, added in order. slots (slots, Hkv, 2, 64, Dp), dk's rows before dv's.
#include "attention_backward.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_backward_sum(DQKV_TYPE* __restrict__ dk, DQKV_TYPE* __restrict__ dv, const float* __restrict__ slots,
                           const int4* __restrict__ tiles, const int* __restrict__ segments, int Hkv, int Dh, int Dp,
                           int ldd) {
  const Tile tile = tile_at(tiles, blockIdx.x);
  if (tile.segment < 0 || tile.units == 1) return;
  const Segment s = segment_at(segments, tile.segment);
  const int h = blockIdx.y, rows = smaller(TILE, s.length - tile.index * TILE);
  const bool values = blockIdx.z == 1;
  DQKV_TYPE* y = (values ? dv : dk) + (i64)(s.start + tile.index * TILE) * ldd + h * Dh;
  const bool vectors = aligned<4>(y) && ldd % 4 == 0 && Dh % 4 == 0;
  const i64 slot_floats = (i64)Hkv * 2 * TILE * Dp;
  const float* first = slots + tile.first_slot * slot_floats + (i64)(2 * h + values) * TILE * Dp;
  const int width = ceil_div(Dh, 4);
  for (int i = threadIdx.x; i < rows * width; i += THREADS) {
    const int row = i / width, d = i % width * 4;
    const float* from = first + row * Dp + d;
    Unit<4> sum = load_vector<4>(from);
    // Four at once cost more registers than NVRTC 12.0 grants on sm_80, and units are few.
#pragma unroll 2
    for (int u = 1; u < tile.units; u++) {
      const Unit<4> more = load_vector<4>(from + u * slot_floats);
#pragma unroll
      for (int j = 0; j < 4; j++) sum.at[j] += more.at[j];
    }
    store_unit(y + (i64)row * ldd + d, sum, Dh - d, vectors);
  }
}
