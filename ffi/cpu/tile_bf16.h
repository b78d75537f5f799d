// The inner loop of products whose operands are bfloat16, for processors that multiply them in pairs:
//   C[r][0..15] (+)= Σ_k A[r][k] · B[k][0..15],   C float32, k ascending in groups of GROUP.
//
// Two instructions, one per path: vdpbf16ps takes a pair of k, tdpbf16ps (AMX_TILES) takes 32. Each rounds in its own way, and
// both flush subnormal numbers to zero. The operations on an element are determined by k alone: neither neighbouring rows and
// panels, nor where the k range is cut (at multiples of GROUP, the sums carried through C) change its bits.
//
// Memory: A is row-major bfloat16, so its pairs are adjacent. B is [k/2][16] pairs of one column, the earlier k in the low
// half. Both are zero-padded in k to a multiple of GROUP: zeros only meet zeros, so no NaN appears.
#pragma once
#include "simd.h"

namespace KERNEL_PATH {

static_assert(W == 16);
typedef uint32_t Pairs __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

// The tests' emulated instructions (test/ops/emulation) are functions on the same vectors.
#if defined(EMULATED_BF16)
typedef Pairs PairRegister;
typedef Pairs IndexRegister;
#else
typedef __m512bh PairRegister;
typedef __m512i IndexRegister;
#endif

#if defined(AMX_TILES)
static constexpr int GROUP = 32;

// The shapes of this thread's tile registers. Set at the start of a task; released at its end, so that the system need not save
// kilobytes when it switches threads.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  ~Tiles() {
    if (first_) _tile_release();
  }
  // C in tiles 0…3 (two strips of rows by two panels), A in 4 and 5, B in 6 and 7; strips of `first` and `second` rows.
  void set_rows(int first, int second) {
    if (first == first_ && second == second_) return;
    first_ = first, second_ = second;
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    const int rows[8] = {first, first, second, second, first, second, 16, 16};
    for (int i = 0; i < 8; i++)
      if (rows[i] > 0) shape.rows[i] = (uint8_t)rows[i], shape.row_bytes[i] = 64;
    // Compilers assume that the instruction reads 8 of the 64 bytes.
    asm volatile("" : : "r"(&shape) : "memory");
    _tile_loadconfig(&shape);
  }

 private:
  int first_ = 0, second_ = 0;
};

// One strip of up to 16 rows or two, by one panel or two; next_c and next_b lead from a panel to the second one.
template <int STRIPS, int PANELS>
INLINE void tile_block(float* c, int64_t next_c, const bf16* a, int64_t lda, const uint32_t* b,
                       int64_t next_b, int64_t depth, bool from_c) {
  const int64_t c_bytes = PANEL * 4, a_bytes = lda * 2;
  float* low = c + 16 * PANEL;
  if (from_c) {
    _tile_loadd(0, c, c_bytes);
    if constexpr (PANELS == 2) _tile_loadd(1, c + next_c, c_bytes);
    if constexpr (STRIPS == 2) _tile_loadd(2, low, c_bytes);
    if constexpr (STRIPS == 2 && PANELS == 2) _tile_loadd(3, low + next_c, c_bytes);
  } else {
    _tile_zero(0);
    if constexpr (PANELS == 2) _tile_zero(1);
    if constexpr (STRIPS == 2) _tile_zero(2);
    if constexpr (STRIPS == 2 && PANELS == 2) _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += GROUP) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, a_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (PANELS == 2) {
      _tile_loadd(7, b + next_b, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (STRIPS == 2) {
      _tile_loadd(5, a + 16 * lda, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (STRIPS == 2 && PANELS == 2) _tile_dpbf16ps(3, 5, 7);
    a += GROUP;
    b += GROUP / 2 * PANEL;
  }
  _tile_stored(0, c, c_bytes);
  if constexpr (PANELS == 2) _tile_stored(1, c + next_c, c_bytes);
  if constexpr (STRIPS == 2) _tile_stored(2, low, c_bytes);
  if constexpr (STRIPS == 2 && PANELS == 2) _tile_stored(3, low + next_c, c_bytes);
}

// Any number of rows by one panel or two.
static __attribute__((noinline)) void multiply(Tiles& tiles, int64_t rows, int64_t panels, float* c,
                                               int64_t next_c, const bf16* a, int64_t lda, const uint32_t* b,
                                               int64_t next_b, int64_t depth, bool from_c) {
  // The intrinsics do not declare that they read memory: packed data must be stored by now.
  asm volatile("" : : : "memory");
  for (int64_t r = 0; r < rows; r += 32, a += 32 * lda, c += 32 * PANEL) {
    const int first = (int)smaller(16, rows - r), second = (int)larger(0, smaller(16, rows - r - 16));
    tiles.set_rows(first, second);
    if (second > 0 && panels == 2) tile_block<2, 2>(c, next_c, a, lda, b, next_b, depth, from_c);
    else if (second > 0) tile_block<2, 1>(c, next_c, a, lda, b, next_b, depth, from_c);
    else if (panels == 2) tile_block<1, 2>(c, next_c, a, lda, b, next_b, depth, from_c);
    else tile_block<1, 1>(c, next_c, a, lda, b, next_b, depth, from_c);
  }
}

// Floating-point operations of n rounds of the instruction, done.
static double multiply_peak(int64_t n) {
  alignas(64) uint16_t ones[GROUP * PANEL];
  for (uint16_t& x : ones) x = 0x3f80;
  Tiles tiles;
  tiles.set_rows(16, 16);
  asm volatile("" : : "r"(ones) : "memory");
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
  for (int64_t i = 0; i < n; i++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  return 4.0 * 2 * 16 * PANEL * GROUP * (double)n;
}
#else
static constexpr int GROUP = 2;

struct Tiles {};

INLINE V dot_pairs(V sum, Pairs a, Pairs b) { return (V)_mm512_dpbf16_ps(sum, (PairRegister)a, (PairRegister)b); }

// Rows by two panels that fill 32 registers beside two rows of B and a pair of A.
static constexpr int MR = 12;

template <int ROWS, int PANELS>
static __attribute__((noinline)) void pair_block(float* c, int64_t next_c, const bf16* a, int64_t lda,
                                                 const uint32_t* b, int64_t next_b, int64_t depth, bool from_c) {
  V sum[ROWS][PANELS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int p = 0; p < PANELS; p++) sum[r][p] = zero();
  if (from_c) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
      for (int p = 0; p < PANELS; p++) sum[r][p] = load(c + r * PANEL + p * next_c);
  }
  for (int64_t k = 0; k < depth; k += 2) {
    Pairs bk[PANELS];
#pragma GCC unroll 2
    for (int p = 0; p < PANELS; p++) memcpy(&bk[p], b + p * next_b, 64);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
      uint32_t pair;
      memcpy(&pair, a + r * lda, 4);
      const Pairs ark = Pairs{} + pair;
#pragma GCC unroll 2
      for (int p = 0; p < PANELS; p++) sum[r][p] = dot_pairs(sum[r][p], ark, bk[p]);
    }
    a += 2;
    b += PANEL;
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int p = 0; p < PANELS; p++) store(c + r * PANEL + p * next_c, sum[r][p]);
}

// Any number of rows by one panel or two; next_c and next_b lead from a panel to the second one.
INLINE void multiply(Tiles&, int64_t rows, int64_t panels, float* c, int64_t next_c, const bf16* a,
                     int64_t lda, const uint32_t* b, int64_t next_b, int64_t depth, bool from_c) {
#define ROWS_CASE(R)                                                                     \
  case R:                                                                                \
    if (panels == 2) pair_block<R, 2>(c, next_c, a, lda, b, next_b, depth, from_c); \
    else pair_block<R, 1>(c, next_c, a, lda, b, next_b, depth, from_c);             \
    break;
  for (int64_t r = 0; r < rows; r += MR, a += MR * lda, c += MR * PANEL) {
    switch (smaller(MR, rows - r)) {
      ROWS_CASE(1) ROWS_CASE(2) ROWS_CASE(3) ROWS_CASE(4) ROWS_CASE(5) ROWS_CASE(6)
      ROWS_CASE(7) ROWS_CASE(8) ROWS_CASE(9) ROWS_CASE(10) ROWS_CASE(11) ROWS_CASE(12)
    }
  }
#undef ROWS_CASE
}

// Floating-point operations of n rounds of the instruction, done.
static double multiply_peak(int64_t n) {
  constexpr int CHAINS = 12;
  V sum[CHAINS];
  for (int i = 0; i < CHAINS; i++) sum[i] = set1((float)i);
  const Pairs ones = Pairs{} + 0x3f803f80u;
  for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 12
    for (int j = 0; j < CHAINS; j++) sum[j] = dot_pairs(sum[j], ones, ones);
  volatile float keep = 0;
  for (int j = 0; j < CHAINS; j++) keep = keep + sum_lanes(sum[j]);
  return 2.0 * CHAINS * W * 2 * (double)n;
}
#endif

INLINE int64_t whole_groups(int64_t depth) { return ceil_div(depth, GROUP) * GROUP; }

// 16 adjacent elements as bfloat16; those from n on are zero.
template <class T>
INLINE Halves halves(const T* p, int64_t n) {
  Halves h;
  if (sizeof(T) == 2 && n >= PANEL) {
    memcpy(&h, p, sizeof h);
  } else {
    bf16 rounded[PANEL];
    store(rounded, load_upto(p, (int)n));
    memcpy(&h, rounded, sizeof h);
  }
  return h;
}

// Pairs across rows: row k of a (rows, 16) block with the row after it. Rows from `rows` on are zero.
template <class T>
INLINE Pairs row_pairs(const T* block, int64_t ld, int64_t k, int64_t rows, int64_t columns) {
  const Halves low = k < rows ? halves(block + k * ld, columns) : Halves{};
  const Halves high = k + 1 < rows ? halves(block + (k + 1) * ld, columns) : Halves{};
  return __builtin_convertvector(low, Pairs) | __builtin_convertvector(high, Pairs) << 16;
}

// 128 pairs in 8 vectors, their 7-bit index rotated left by TIMES bits: a pass interleaves the two halves of all.
// Four passes turn a (16, 8) matrix into its transpose (8, 16), three turn (8, 16) into (16, 8).
template <int TIMES>
INLINE void rotate_index(Pairs v[8]) {
  const Pairs low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  const Pairs high = low + 8;
#pragma GCC unroll 4
  for (int pass = 0; pass < TIMES; pass++) {
    Pairs w[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const IndexRegister a = (IndexRegister)v[i], b = (IndexRegister)v[i + 4];
      w[2 * i] = (Pairs)_mm512_permutex2var_epi32(a, (IndexRegister)low, b);
      w[2 * i + 1] = (Pairs)_mm512_permutex2var_epi32(a, (IndexRegister)high, b);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) v[i] = w[i];
  }
}

}  // namespace KERNEL_PATH
