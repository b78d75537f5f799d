// The inner loop of products whose operands are bfloat16, for processors that multiply them in pairs:
//   C[r][0..31] = (C +) Σ_k A[r][k] · B[k][0..31],   C float32, k ascending.
//
// Two instructions, one per path: vdpbf16ps takes a pair of k, tdpbf16ps (AMX_TILES) takes 32. Each rounds in its own way, and
// both flush subnormal numbers to zero. The operations on an element are determined by k alone: neither neighbouring rows and
// panels, nor where the k range is cut (at multiples of GROUP, the sums carried through C) change its bits.
//
// Memory: A's rows are groups of 32 bfloat16, so its pairs are adjacent. B is one panel or two, each [k/2][16] pairs of one column, the
// earlier k in the low half: 32 k of a panel are 1 KiB in a row, one tile. C has rows of 32 floats, two panels side by side. A and
// B are zero-padded in k to a multiple of GROUP: zeros only meet zeros, so no NaN appears.
#pragma once
#include "pairs.h"

namespace KERNEL_PATH {

static constexpr int64_t COLUMNS = 2 * PANEL;  // of C

// Where one of several products begins that add to the same C: elements from `a` and `b`.
struct Part {
  int64_t a, b;
};
static constexpr Part WHOLE[1] = {{0, 0}};

// Which operand comes from beyond L1 and is used once.
enum Streamed { NEITHER, A_STREAMS, B_STREAMS };

struct Block {
  const bf16* a;
  int64_t lda, next_a;  // from a row to the next, and from a group of k to the next
  const bf16* b;
  int64_t next_b;  // from a panel to the second one
  int64_t depth;   // a multiple of GROUP
  const float* from;  // null: zeros
  float* to;
  int64_t count = 1;  // of parts, one after the other
  const Part* parts = WHOLE;
  const Block* more = nullptr;  // another product of as many rows and panels that is added to the same sums at the end
};

// Work that is done in `count` pieces, `share` of them between two steps of multiplications.
template <class Piece>
struct Background {
  Piece piece;
  int64_t done, count, share;

  inline __attribute__((always_inline)) void step() {
    for (int64_t end = smaller(count, done + share); done < end; done++) piece();
  }
  void finish() {
    for (; done < count; done++) piece();
  }
};

#if defined(AMX_TILES)
// Rows of C: two tiles of 16.
static constexpr int64_t STRIP = 32;
// The longest reduction between two stores of C if B is used for many rows: B's two panels then take 36 of 48 KiB of L1.
static constexpr int64_t DEPTH = 576;

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

// Four tiles of C take 64 cycles a group of k: 4 multiplications of 16 cycles, enough to hide the latency of each (52). What
// streams is loaded past L1 (tileloaddt1), which the other would otherwise have to leave. `meanwhile` is called once a group: other work that
// needs no tiles fits between the multiplications.
template <int STRIPS, int PANELS, Streamed STREAMED, class Meanwhile>
static __attribute__((noinline)) void tile_block(const Block& o, const Meanwhile& meanwhile) {
  constexpr int64_t c_bytes = COLUMNS * 4;
  // The intrinsics do not declare that they read and write memory: what they read must be stored by now.
  asm volatile("" : : : "memory");
  if (o.from) {
    _tile_loadd(0, o.from, c_bytes);
    if constexpr (PANELS == 2) _tile_loadd(1, o.from + PANEL, c_bytes);
    if constexpr (STRIPS == 2) _tile_loadd(2, o.from + 16 * COLUMNS, c_bytes);
    if constexpr (STRIPS == 2 && PANELS == 2) _tile_loadd(3, o.from + 16 * COLUMNS + PANEL, c_bytes);
  } else {
    _tile_zero(0);
    if constexpr (PANELS == 2) _tile_zero(1);
    if constexpr (STRIPS == 2) _tile_zero(2);
    if constexpr (STRIPS == 2 && PANELS == 2) _tile_zero(3);
  }
  const auto add = [](const Block& o, const auto& between) __attribute__((always_inline)) {
    const int64_t a_bytes = o.lda * 2;
    for (const Part* part = o.parts; part < o.parts + o.count; part++) {
      const bf16 *a = o.a + part->a, *b = o.b + part->b;
      for (int64_t group = 0; group < o.depth / GROUP; group++) {
        if constexpr (STREAMED == A_STREAMS) _tile_stream_loadd(4, a, a_bytes);
        else _tile_loadd(4, a, a_bytes);
        if constexpr (STREAMED == B_STREAMS) _tile_stream_loadd(6, b, 64);
        else _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (STRIPS == 2) {
          if constexpr (STREAMED == A_STREAMS) _tile_stream_loadd(5, a + 16 * o.lda, a_bytes);
          else _tile_loadd(5, a + 16 * o.lda, a_bytes);
          _tile_dpbf16ps(2, 5, 6);
        }
        if constexpr (PANELS == 2) {
          if constexpr (STREAMED == B_STREAMS) _tile_stream_loadd(7, b + o.next_b, 64);
          else _tile_loadd(7, b + o.next_b, 64);
          _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (STRIPS == 2 && PANELS == 2) _tile_dpbf16ps(3, 5, 7);
        a += o.next_a;
        b += GROUP * PANEL;
        between(group);
      }
    }
  };
  add(o, meanwhile);
  if (o.more) add(*o.more, [](int64_t) {});
  _tile_stored(0, o.to, c_bytes);
  if constexpr (PANELS == 2) _tile_stored(1, o.to + PANEL, c_bytes);
  if constexpr (STRIPS == 2) _tile_stored(2, o.to + 16 * COLUMNS, c_bytes);
  if constexpr (STRIPS == 2 && PANELS == 2) _tile_stored(3, o.to + 16 * COLUMNS + PANEL, c_bytes);
  asm volatile("" : : : "memory");
}

// 1…STRIP rows by one panel or two.
template <Streamed STREAMED = NEITHER, class Meanwhile>
INLINE void multiply(Tiles& tiles, int64_t rows, int64_t panels, const Block& o, const Meanwhile& meanwhile) {
  const int first = (int)smaller(16, rows), second = (int)(rows - first);
  tiles.set_rows(first, second);
  if (second > 0 && panels == 2) tile_block<2, 2, STREAMED>(o, meanwhile);
  else if (second > 0) tile_block<2, 1, STREAMED>(o, meanwhile);
  else if (panels == 2) tile_block<1, 2, STREAMED>(o, meanwhile);
  else tile_block<1, 1, STREAMED>(o, meanwhile);
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
// Rows by two panels that fill 32 registers beside two rows of B and a pair of A.
static constexpr int64_t STRIP = 12;
// As above: B's two panels take 24 KiB of an L1 of 32 or 48.
static constexpr int64_t DEPTH = 384;

struct Tiles {};

INLINE V dot_pairs(V sum, Pairs a, Pairs b) { return (V)_mm512_dpbf16_ps(sum, (PairRegister)a, (PairRegister)b); }

template <int ROWS, int PANELS>
static __attribute__((noinline)) void pair_block(const Block& o) {
  V sum[ROWS][PANELS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int p = 0; p < PANELS; p++) sum[r][p] = zero();
  if (o.from) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
      for (int p = 0; p < PANELS; p++) sum[r][p] = load(o.from + r * COLUMNS + p * PANEL);
  }
  for (const Block* block = &o; block; block = block->more) {
    const int64_t lda = block->lda, next_a = block->next_a, next_b = block->next_b, groups = block->depth / GROUP;
    const bf16 *a = nullptr, *b = nullptr;
    for (int64_t step = 0; step < block->count * groups; step++) {
      if (step % groups == 0) a = block->a + block->parts[step / groups].a, b = block->b + block->parts[step / groups].b;
      for (int64_t k = 0; k < GROUP; k += 2) {
        Pairs bk[PANELS];
#pragma GCC unroll 2
        for (int p = 0; p < PANELS; p++) memcpy(&bk[p], b + p * next_b, 64);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
          uint32_t pair;
          memcpy(&pair, a + r * lda + k, 4);
          const Pairs ark = Pairs{} + pair;
#pragma GCC unroll 2
          for (int p = 0; p < PANELS; p++) sum[r][p] = dot_pairs(sum[r][p], ark, bk[p]);
        }
        b += 2 * PANEL;
      }
      a += next_a;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
    for (int p = 0; p < PANELS; p++) store(o.to + r * COLUMNS + p * PANEL, sum[r][p]);
}

// 1…STRIP rows by one panel or two; `meanwhile` is called once a group of k, here in advance.
template <Streamed STREAMED = NEITHER, class Meanwhile>
INLINE void multiply(Tiles&, int64_t rows, int64_t panels, const Block& o, const Meanwhile& meanwhile) {
  for (int64_t part = 0; part < o.count; part++)
    for (int64_t group = 0; group < o.depth / GROUP; group++) meanwhile(group);
#define ROWS_CASE(R)                      \
  case R:                                 \
    if (panels == 2) pair_block<R, 2>(o); \
    else pair_block<R, 1>(o);             \
    break;
  switch (rows) {
    ROWS_CASE(1) ROWS_CASE(2) ROWS_CASE(3) ROWS_CASE(4) ROWS_CASE(5) ROWS_CASE(6)
    ROWS_CASE(7) ROWS_CASE(8) ROWS_CASE(9) ROWS_CASE(10) ROWS_CASE(11) ROWS_CASE(12)
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

}  // namespace KERNEL_PATH
