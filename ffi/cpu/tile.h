// The one inner loop of every matrix product: a tile of rows by 16 columns, or by several panels of 16 side by side,
//   C[r][0..15] (+)= Σ_k A[r][k] · B[k][0..15],   k ascending, one fused multiply-add each.
// An element's sum is one chain over k that starts at zero (or at C), so its bits depend neither on the tile's shape, nor on
// which other rows share it, nor on where the k range is cut when the chain is carried through C. Promise 2 relies on it.
#pragma once
#include "simd.h"

namespace KERNEL_PATH {

// Rows that fill the register file next to a row of B.
static constexpr int MR = W == 16 ? 14 : W == 8 ? 6 : 3;
// Vectors of sums that the register file holds next to a row of B and an element of A.
static constexpr int SUMS = W == 16 ? 24 : 12;

// Elements of B, 2 KiB.
static constexpr int AHEAD = 1024;

// C is float with row stride ldc; A[r][k] is at a[r * row_stride + k * k_stride]; B rows are ldb apart. from_c: the chain
// continues from C; otherwise it starts at zero. next_c and next_b lead from a panel to the one beside it.
template <int ROWS, int PANELS = 1, class TB>
INLINE void tile_rows(float* c, int64_t ldc, const float* a, int64_t row_stride, int64_t k_stride, const TB* b,
                      int64_t ldb, int64_t depth, bool from_c, int64_t next_c = 0, int64_t next_b = 0) {
  V acc[PANELS][ROWS][PV];
#pragma GCC unroll 4
  for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
      for (int v = 0; v < PV; v++) acc[p][r][v] = zero();
  if (from_c) {
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < PV; v++) acc[p][r][v] = load(c + p * next_c + r * ldc + v * W);
  }
  for (int64_t k = 0; k < depth; k++) {
    // A bfloat16 weight streams from memory, and the processor's own prefetching stops at the end of a page.
    if constexpr (sizeof(TB) == 2 && PANELS == 1) __builtin_prefetch(b + AHEAD);
    if constexpr (PANELS <= 2) {
      V bk[PANELS][PV];
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 4
        for (int v = 0; v < PV; v++) bk[p][v] = load(b + p * next_b + v * W);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r++) {
        V ark = set1(a[r * row_stride]);
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 4
          for (int v = 0; v < PV; v++) acc[p][r][v] = fma(ark, bk[p][v], acc[p][r][v]);
      }
    } else {  // few rows: their elements stay in registers rather than B's
      V ak[ROWS];
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; r++) ak[r] = set1(a[r * row_stride]);
#pragma GCC unroll 4
      for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 4
        for (int v = 0; v < PV; v++) {
          V bk = load(b + p * next_b + v * W);
#pragma GCC unroll 16
          for (int r = 0; r < ROWS; r++) acc[p][r][v] = fma(ak[r], bk, acc[p][r][v]);
        }
    }
    a += k_stride;
    b += ldb;
  }
#pragma GCC unroll 4
  for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
      for (int v = 0; v < PV; v++) store(c + p * next_c + r * ldc + v * W, acc[p][r][v]);
}

// tile_rows for a number of rows known at run time: up to MR, or as many as fit with two panels; more panels serve two rows.
template <int PANELS = 1, class TB>
static __attribute__((noinline)) void tile(int64_t rows, float* c, int64_t ldc, const float* a, int64_t row_stride,
                                           int64_t k_stride, const TB* b, int64_t ldb, int64_t depth, bool from_c,
                                           int64_t next_c = 0, int64_t next_b = 0) {
#define ROWS_CASE(R)                                                                                        \
  case R:                                                                                                   \
    if constexpr (R <= MR && R * PANELS * PV <= SUMS && (PANELS <= 2 || R <= 2))                            \
      tile_rows<R, PANELS>(c, ldc, a, row_stride, k_stride, b, ldb, depth, from_c, next_c, next_b);         \
    break;
  switch (rows) {
    ROWS_CASE(1) ROWS_CASE(2) ROWS_CASE(3) ROWS_CASE(4) ROWS_CASE(5) ROWS_CASE(6) ROWS_CASE(7)
    ROWS_CASE(8) ROWS_CASE(9) ROWS_CASE(10) ROWS_CASE(11) ROWS_CASE(12) ROWS_CASE(13) ROWS_CASE(14)
  }
#undef ROWS_CASE
}

// Any number of rows.
template <class TB>
INLINE void tiles(int64_t rows, float* c, int64_t ldc, const float* a, int64_t row_stride, int64_t k_stride,
                  const TB* b, int64_t ldb, int64_t depth, bool from_c) {
  for (int64_t r = 0; r < rows; r += MR)
    tile(smaller(MR, rows - r), c + r * ldc, ldc, a + r * row_stride, row_stride, k_stride, b, ldb, depth, from_c);
}

}  // namespace KERNEL_PATH
