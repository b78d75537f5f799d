// What the kernels of packed attention for sm_90a share. Two warpgroups of consumers have 64 rows each of a tile of
// ROWS rows; a third warpgroup has the producer, which lets the copy engine fetch tiles ahead of use. Tiles in shared
// memory are panels of warpgroup.cuh. HEAD_DIM, THREADS, ROWS, STAGES and BOX, the rows that the copy engine fetches at
// once, are macros.
#pragma once
#include "warpgroup.cuh"

constexpr int WARPGROUP = 4 * WARP, CONSUMERS = ROWS / 64, CONSUMER_WARPS = 4 * CONSUMERS;
constexpr int PANELS = HEAD_DIM / PANEL_COLUMNS, CHUNKS = HEAD_DIM / 8;
static_assert(CONSUMERS == 2 && THREADS == 3 * WARPGROUP, "two warpgroups of consumers, one with the producer");

// Bytes of a panel of N rows, and of N rows of a head.
template <int N>
constexpr int panel_bytes() {
  return N * PANEL_ROW_BYTES;
}
template <int N>
constexpr int tile_bytes() {
  return PANELS * panel_bytes<N>();
}

// A place in the ring of stages, and the parity of the phase in which it is filled.
struct Place {
  int stage = 0, parity = 0;
  INLINE void advance() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

// ---- the producer

// Issues copies of N rows of a head that starts at `column`.
template <int N>
INLINE void copy_rows(u32 shared, const TensorMap* matrix, int column, int row, u32 barrier) {
#pragma unroll
  for (int panel = 0; panel < PANELS; panel++)
#pragma unroll
    for (int part = 0; part < N; part += BOX)
      copy_tile(shared + panel * panel_bytes<N>() + part * PANEL_ROW_BYTES, matrix, column + panel * PANEL_COLUMNS,
                row + part, barrier);
}

// Zeros in the rows from `count` on of a tile of N, which belong to another segment: weights of 0 would not make up for
// its infinities. By the whole warp; publish_shared() and a barrier must follow.
template <int N>
INLINE void clear_rows(char* shared, int count) {
  for (int row = count; row < N; row++)
    for (int chunk = threadIdx.x % WARP; chunk < CHUNKS; chunk += WARP) {
      const int at = chunk / 8 * panel_bytes<N>() + row * PANEL_ROW_BYTES + chunk % 8 * 16;
      *(uint4*)(shared + at) = make_uint4(0, 0, 0, 0);
    }
}

// ---- the consumers

// Issues scores = rows · columns, transposed: 64 rows of a tile of ROWS, N columns, all of the head's elements.
template <int N>
INLINE void score(float (&scores)[N / 8][4], u32 rows, u32 columns) {
  const u32 left = place_of(rows, 16), right = place_of(columns, 16);
#pragma unroll
  for (int k = 0; k < HEAD_DIM / 16; k++) {
    const u32 column = k % 4 * 32;
    product(scores, operand(left + (k / 4 * panel_bytes<ROWS>() + column) / 16),
            operand(right + (k / 4 * panel_bytes<N>() + column) / 16), k > 0);
  }
}

// Issues sums += weights · N rows of a head.
template <int N>
INLINE void weigh(float (&sums)[HEAD_DIM / 8][4], const u32 (&weights)[N / 16][4], u32 rows) {
  const u32 place = place_of(rows, panel_bytes<N>());
#pragma unroll
  for (int k = 0; k < N / 16; k++) product(sums, weights[k], operand(place + k * PANEL_ROW_BYTES), true);
}

// The fragments of scores are, rounded and paired, those of a left operand.
template <int N>
INLINE void pack(u32 (&weights)[N / 16][4], const float (&scores)[N / 8][4]) {
#pragma unroll
  for (int k = 0; k < N / 16; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float* pair = scores[2 * k + i / 2] + i % 2 * 2;
      weights[k][i] = pack_bf16(pair[0], pair[1]);
    }
}

// A warp's 16 rows of sums, rows g and g + 8 times `factor`, by way of shared memory of its own, so that 16 bytes are
// written at once. `count`: rows that exist.
INLINE void write_rows(bf16* out, i64 ld, const float (&sums)[HEAD_DIM / 8][4], const float (&factor)[2], char* staging,
                       int count) {
  const int lane = threadIdx.x % WARP;
  __syncwarp();  // no lane reads the tile before any longer
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++) {
      const float f = factor[half], *x = sums[n] + 2 * half;
      *(u32*)(staging + swizzled<CHUNKS>(half * 8 + lane / 4, n) + lane % 4 * 4) = pack_bf16(x[0] * f, x[1] * f);
    }
  __syncwarp();  // all of the warp's rows are there
#pragma unroll
  for (int i = lane; i < 16 * CHUNKS; i += WARP) {
    const int row = i / CHUNKS, chunk = i % CHUNKS;
    if (row < count) *(uint4*)(out + row * ld + chunk * 8) = *(const uint4*)(staging + swizzled<CHUNKS>(row, chunk));
  }
}
