// Before the gradient of attention: stats (H, T) = −lse, in the unit of the exponent that follows, and dout · out; and
// tiles, units = the work list (attention_backward.cuh), which block 0 makes while the others compute the statistics.
#include "attention_backward.cuh"

constexpr int STAT_ROWS = STAT_BLOCK, STAT_HEADS = STAT_BLOCK;  // whole sectors of lse are read and of stats written
constexpr int WARPS = THREADS / WARP;
static_assert(WARPS == STAT_ROWS, "a warp has a row");

// Products of bfloat16 take powers of 2 and round dout, so dout · out is of the rounded dout: then a row of dS sums to
// zero as the exact one does.
template <class T>
struct Products;
template <>
struct Products<float> {
  static constexpr float EXPONENT = 1.0f;
  static INLINE float operand(float x) { return x; }
};
template <>
struct Products<bf16> {
  static constexpr float EXPONENT = 1.4426950408889634f;
  static INLINE float operand(float x) { return low_half(to_bf16(x)); }
};

// Units of all tiles of a segment, whose lists have n, n − 1, … entries, as far as they are longer than `shorter`:
// Σ ceil(m / chunk) for m = shorter + 1 … n.
INLINE int units_up_to(int n, int chunk) {
  const int whole = n / chunk, rest = n % chunk;
  return chunk * (whole * (whole + 1) / 2) + rest * (whole + 1);
}
INLINE int units_between(int shorter, int n, int chunk) {
  return units_up_to(n, chunk) - units_up_to(shorter, chunk);
}
// Slots of the same tiles: the units of those that were cut.
INLINE int slots_between(int shorter, int n, int chunk) {
  return n <= chunk ? 0 : units_between(max(shorter, chunk), n, chunk);
}

// lists (2·S): {tiles, tiles of visitors, first visitor, end of visitors}, then {first tile, unit and slot}.
INLINE void make_work_list(int4* tiles, int4* units, int4* lists, const int* segments, int S, int max_tiles,
                               int max_slots) {
  __shared__ int slots_asked, tile_count, unit_count;
  const int thread = threadIdx.x, lane = thread % WARP;
  int4* firsts = lists + S;
  for (int i = thread; i < S; i += THREADS) {
    const Segment s = segment_at(segments, i);
    int4 list = make_int4(ceil_div(s.length, TILE), 0, S, 0);
    for (int c = 0; c < S; c++) {
      const Segment visitor = segment_at(segments, c);
      if (!visits(visitor, s)) continue;
      list.y += ceil_div(visitor.length, TILE);
      list.z = min(list.z, c);
      list.w = c + 1;
    }
    lists[i] = list;
  }

  int chunk = 16;
  for (;; chunk *= 2) {
    if (thread == 0) slots_asked = 0;
    __syncthreads();
    int asked = 0;
    for (int i = thread; i < S; i += THREADS) asked += slots_between(lists[i].y, lists[i].x + lists[i].y, chunk);
    atomicAdd(&slots_asked, asked);
    __syncthreads();
    const bool fits = slots_asked <= max_slots;
    __syncthreads();
    if (fits) break;
  }

  if (thread < WARP) {
    int tile = 0, unit = 0, slot = 0;
    for (int from = 0; from < S; from += WARP) {
      const int i = from + lane;
      const int4 list = i < S ? lists[i] : make_int4(0, 0, 0, 0);
      const int n = list.x + list.y;
      const int own_tiles = list.x, own_units = units_between(list.y, n, chunk);
      const int own_slots = slots_between(list.y, n, chunk);
      const int tile_sum = lanes_scan(own_tiles);
      const int unit_sum = lanes_scan(own_units);
      const int slot_sum = lanes_scan(own_slots);
      if (i < S)
        firsts[i] = make_int4(tile + tile_sum - own_tiles, unit + unit_sum - own_units, slot + slot_sum - own_slots, 0);
      tile += __shfl_sync(ALL_LANES, tile_sum, WARP - 1);
      unit += __shfl_sync(ALL_LANES, unit_sum, WARP - 1);
      slot += __shfl_sync(ALL_LANES, slot_sum, WARP - 1);
    }
    if (lane == 0) {
      tile_count = tile;
      unit_count = unit;
    }
  }
  __syncthreads();

  for (int t = thread; t < max_tiles; t += THREADS) {
    if (t >= tile_count) {
      tiles[t] = make_int4(-1, 0, 0, 0);
      continue;
    }
    int s = 0;  // the last segment whose first tile is not beyond t; empty ones before it have the same first tile
    for (int low = 1, high = S; low < high;) {
      const int middle = (low + high) / 2;
      if (firsts[middle].x <= t) {
        s = middle;
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const int4 list = lists[s], first = firsts[s];
    const int index = t - first.x, longest = list.x + list.y, n = longest - index;
    const int count = ceil_div(n, chunk);
    const int unit = first.y + units_between(n, longest, chunk), slot = first.z + slots_between(n, longest, chunk);
    tiles[t] = make_int4(s, index, slot, count);
    for (int u = 0; u < count; u++) {
      units[2 * (unit + u)] = make_int4(s, index, u * chunk, min((u + 1) * chunk, n));
      units[2 * (unit + u) + 1] = make_int4(count > 1 ? slot + u : -1, list.z, list.w, 0);
    }
  }
  for (int i = 2 * unit_count + thread; i < 2 * (max_tiles + max_slots); i += THREADS)
    units[i] = make_int4(-1, 0, 0, 0);
}

// Four blocks a multiprocessor: told so, the compiler takes up to 64 registers for the work list and spills none.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
    attention_backward_prepare(float2* __restrict__ stats, int4* __restrict__ tiles, int4* __restrict__ units,
                               int4* lists, const DOUT_TYPE* __restrict__ dout, const OUT_TYPE* __restrict__ out,
                               const float* __restrict__ lse, const int* __restrict__ segments, int S, int T, int H,
                               int Dh, int lddout, int ldout, int max_tiles, int max_slots) {
  __shared__ float exponents[STAT_HEADS][STAT_ROWS], deltas[STAT_HEADS][STAT_ROWS];  // row r of head h at [h][r ^ h]
  if (blockIdx.x == 0) {
    make_work_list(tiles, units, lists, segments, S, max_tiles, max_slots);
    return;
  }
  const int head_blocks = ceil_div(H, STAT_HEADS), block = blockIdx.x - 1;
  const int first_row = block / head_blocks * STAT_ROWS, first_head = block % head_blocks * STAT_HEADS;
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const int row = first_row + warp;
  if (row < T) {
    const int heads = smaller(STAT_HEADS, H - first_head);
    const DOUT_TYPE* a = dout + (i64)row * lddout + first_head * Dh;
    const OUT_TYPE* b = out + (i64)row * ldout + first_head * Dh;
    const bool wide_a = aligned<4>(a) && Dh % 4 == 0, wide_b = aligned<4>(b) && Dh % 4 == 0;
#pragma unroll 4
    for (int h = 0; h < heads; h++) {
      float sum = 0;
      for (int d = lane * 4; d < Dh; d += WARP * 4) {
        const Unit<4> x = load_unit<4>(a + h * Dh + d, Dh - d, wide_a);
        const Unit<4> y = load_unit<4>(b + h * Dh + d, Dh - d, wide_b);
#pragma unroll
        for (int i = 0; i < 4; i++) sum += Products<X_TYPE>::operand(x.at[i]) * y.at[i];
      }
      sum = lanes_reduce(sum, Add());
      if (lane == 0) deltas[h][warp ^ h] = sum;
    }
    if (lane < heads)
      exponents[lane][warp ^ lane] = -lse[(i64)row * H + first_head + lane] * Products<X_TYPE>::EXPONENT;
  }
  __syncthreads();
  if (threadIdx.x < STAT_HEADS * STAT_ROWS) {
    const int h = threadIdx.x / STAT_ROWS, r = threadIdx.x % STAT_ROWS;
    if (first_head + h < H && first_row + r < T)
      stats[(i64)(first_head + h) * T + first_row + r] = make_float2(exponents[h][r ^ h], deltas[h][r ^ h]);
  }
}
