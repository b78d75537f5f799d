// Pairs of bfloat16, as the instructions for products take them: rounding to them, pairing rows, and transposing.
// A pair is 32 bits; the element with the smaller index of the reduction is in the low half.
#pragma once
#include "simd.h"

namespace KERNEL_PATH {

static_assert(W == 16);
static constexpr int32_t BFLOAT16 = 1;  // the type code
typedef uint32_t Pairs __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

// The tests' emulated instructions (test/ops/emulation) are functions on the same vectors.
#if defined(EMULATED_BF16)
typedef Pairs PairRegister;
typedef Pairs IndexRegister;
typedef Halves HalfRegister;
#else
typedef __m512bh PairRegister;
typedef __m512i IndexRegister;
typedef __m256i HalfRegister;
#endif

// Elements of the reduction that operands are padded to, on both paths: what a tile multiplies at once.
static constexpr int64_t GROUP = 32;
INLINE int64_t whole_groups(int64_t depth) { return ceil_div(depth, GROUP) * GROUP; }

// Elements between rows, for rows of `depth`: an odd number of cache lines, which spreads them over all sets of a cache.
INLINE int64_t row_stride(int64_t depth) { return (ceil_div(depth, GROUP) | 1) * GROUP; }

INLINE Pairs permuted(Pairs a, Pairs index, Pairs b) {
  return (Pairs)_mm512_permutex2var_epi32((IndexRegister)a, (IndexRegister)index, (IndexRegister)b);
}

// a0 b0 a1 b1 …: the lower and the upper half.
INLINE Pairs interleaved_low(Pairs a, Pairs b) {
  return permuted(a, Pairs{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}, b);
}
INLINE Pairs interleaved_high(Pairs a, Pairs b) {
  return permuted(a, Pairs{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31}, b);
}

// The lower halves of both, and the upper ones.
INLINE Pairs lower_halves(Pairs a, Pairs b) {
  return permuted(a, Pairs{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}, b);
}
INLINE Pairs upper_halves(Pairs a, Pairs b) {
  return permuted(a, Pairs{8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31}, b);
}

// Two vectors as 32 bfloat16, rounded to nearest even; subnormal numbers become zero, as they do in products.
INLINE Pairs rounded_halves(V first, V second) { return (Pairs)_mm512_cvtne2ps_pbh(second, first); }

// What rounding left out, rounded likewise: the sum of both has 16 bits or more.
INLINE Pairs remaining_halves(V first, V second, Pairs rounded) {
  uint64_t halves[8];
  memcpy(halves, &rounded, 64);
  return rounded_halves(sub(first, load((const bf16*)halves)), sub(second, load((const bf16*)halves + W)));
}

// Rows p and p + 1 of 16 columns each, side by side in one vector, to pairs of a column.
INLINE Pairs paired(Pairs both_rows) {
  const Pairs order = {0x00100000, 0x00110001, 0x00120002, 0x00130003, 0x00140004, 0x00150005, 0x00160006, 0x00170007,
                       0x00180008, 0x00190009, 0x001a000a, 0x001b000b, 0x001c000c, 0x001d000d, 0x001e000e, 0x001f000f};
  return (Pairs)_mm512_permutexvar_epi16((IndexRegister)order, (IndexRegister)both_rows);
}

// 16 adjacent elements as bfloat16; those from n on are zero.
INLINE Halves halves(const bf16* p, int64_t n) {
  Halves h = {};
  if (n >= PANEL) memcpy(&h, p, sizeof h);
  else if (n > 0) memcpy(&h, p, (size_t)n * 2);
  return h;
}
// In registers: a load waits until two narrower stores to the same place have left the core.
INLINE Pairs side_by_side(Halves first, Halves second) {
  return (Pairs)_mm512_inserti64x4(_mm512_castsi256_si512((HalfRegister)first), (HalfRegister)second, 1);
}

// Past the caches, to a whole cache line (stream_fence).
INLINE void stream(bf16* p, Pairs x) {
#if defined(EMULATED_BF16)
  if ((uintptr_t)p % 64 != 0) __builtin_trap();  // as the instruction faults
  memcpy(p, &x, sizeof x);
#else
  _mm512_stream_si512((__m512i*)p, (__m512i)x);
#endif
}

// 32 adjacent elements as bfloat16.
INLINE Pairs whole_row(const bf16* p) {
  Pairs row;
  memcpy(&row, p, sizeof row);
  return row;
}
INLINE Pairs whole_row(const float* p) { return rounded_halves(load(p), load(p + PANEL)); }

// The same; those from n on are zero.
INLINE Pairs whole_row(const bf16* p, int64_t n) {
  if (n < GROUP) [[unlikely]] return side_by_side(halves(p, n), halves(p + PANEL, n - PANEL));
  Pairs row;
  memcpy(&row, p, sizeof row);
  return row;
}
INLINE Pairs whole_row(const float* p, int64_t n) {
  return rounded_halves(n > 0 ? load_upto(p, (int)n) : zero(), n > PANEL ? load_upto(p + PANEL, (int)(n - PANEL)) : zero());
}

// A row of 16 columns paired with the row after it.
INLINE Pairs row_pairs(const bf16* row, int64_t ld) {
  return paired(side_by_side(halves(row, PANEL), halves(row + ld, PANEL)));
}
INLINE Pairs row_pairs(const float* row, int64_t ld) { return paired(rounded_halves(load(row), load(row + ld))); }

// The same for row k of a block. Rows from `rows` and columns from `columns` on are zero.
INLINE Pairs row_pairs(const bf16* block, int64_t ld, int64_t k, int64_t rows, int64_t columns) {
  if (k + 1 < rows && columns >= PANEL) return row_pairs(block + k * ld, ld);
  const Halves low = k < rows ? halves(block + k * ld, columns) : Halves{};
  const Halves high = k + 1 < rows ? halves(block + (k + 1) * ld, columns) : Halves{};
  return paired(side_by_side(low, high));
}
INLINE Pairs row_pairs(const float* block, int64_t ld, int64_t k, int64_t rows, int64_t columns) {
  const bool any = columns > 0;
  const V low = any && k < rows ? load_upto(block + k * ld, (int)columns) : zero();
  const V high = any && k + 1 < rows ? load_upto(block + (k + 1) * ld, (int)columns) : zero();
  return paired(rounded_halves(low, high));
}

// (N, 16) pairs in N vectors to the transpose (16, N), for N = 8 or 16: each pass interleaves the two halves of all, which
// rotates a pair's index by one bit.
template <int N>
INLINE void transpose_pairs(Pairs (&v)[N]) {
#pragma GCC unroll 4
  for (int apart = 1; apart < N; apart *= 2) {
    Pairs w[N];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; i++) {
      w[2 * i] = interleaved_low(v[i], v[i + N / 2]);
      w[2 * i + 1] = interleaved_high(v[i], v[i + N / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) v[i] = w[i];
  }
}

// 32 rows of 16 columns to 16 rows of 32: pairs_of(i) gives rows 2i and 2i + 1 as pairs of a column, write(i, row) takes column i.
template <class PairsOf, class Write>
INLINE void transpose_group(const PairsOf& pairs_of, const Write& write) {
  Pairs v[2][8];
  for (int64_t half = 0; half < 2; half++) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < 8; i++) v[half][i] = pairs_of(half * 8 + i);
    transpose_pairs(v[half]);
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < PANEL; i++)
    write(i, i % 2 ? upper_halves(v[0][i / 2], v[1][i / 2]) : lower_halves(v[0][i / 2], v[1][i / 2]));
}

// Pairs of 16 columns over 16 k, (8 pairs of k, 16 n), to pairs over n, (8 pairs of n, 16 k): 8 × 8 blocks of two columns by two
// k are transposed as a whole, then each within itself.
INLINE void exchange_pairs(Pairs v[8]) {
  const Pairs low = {0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23};
#pragma GCC unroll 3
  for (int pass = 0; pass < 3; pass++) {
    Pairs w[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      w[2 * i] = permuted(v[i], low, v[i + 4]);
      w[2 * i + 1] = permuted(v[i], low + 8, v[i + 4]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) v[i] = w[i];
  }
  const Pairs swapped = {0x05040100, 0x07060302, 0x0d0c0908, 0x0f0e0b0a, 0x05040100, 0x07060302, 0x0d0c0908, 0x0f0e0b0a,
                         0x05040100, 0x07060302, 0x0d0c0908, 0x0f0e0b0a, 0x05040100, 0x07060302, 0x0d0c0908, 0x0f0e0b0a};
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) v[i] = (Pairs)_mm512_shuffle_epi8((IndexRegister)v[i], (IndexRegister)swapped);
}

}  // namespace KERNEL_PATH
