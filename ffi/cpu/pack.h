// The operands of the products with a weight, in the order in which tiles read them.
//
// A: strips of up to STRIP rows, [strip][k][STRIP], so that a tile reads one stream whatever the rows' distance in memory
// (rows that lie a multiple of 4 KiB apart would evict each other from the cache). B: panels of 16 columns as float32.
#pragma once
#include "tile.h"

namespace KERNEL_PATH {

// Panels side by side in a tile, and rows: with two vectors to a panel 6 × 1, with one 12 × 2, which loads half as many
// elements of A for a multiply-add as 14 × 1.
static constexpr int TILE_PANELS = W == 16 ? 2 : 1;
static constexpr int STRIP = W == 16 ? 12 : MR;

// Rows divided into as few strips as possible of about the same number of rows: a tile of one or two rows would wait for its
// own sums.
struct Strips {
  int64_t count, least, longer;
  INLINE Strips of(int64_t rows) {
    const int64_t count = ceil_div(rows, STRIP);
    return {count, rows / count, rows % count};
  }
  int64_t first(int64_t i) const { return i * least + smaller(i, longer); }
  int64_t rows(int64_t i) const { return least + (i < longer); }
};

// A, packed or in place: A[r][k] of a strip is at strip(i)[r * row_stride + k * k_stride].
struct Operand {
  const float* at;
  int64_t row_stride, k_stride, packed_strip;  // 0: not packed
  const float* strip(const Strips& strips, int64_t i) const {
    return at + (packed_strip ? i * packed_strip : strips.first(i) * row_stride);
  }
};

// Floats from a packed strip to the next; the room between them is for whole vectors stored at its end.
INLINE int64_t strip_floats(int64_t depth) { return (STRIP * depth + W + 15) / 16 * 16; }

// Rows of x, `depth` elements of each.
template <class TX>
INLINE void pack_rows(float* packed, const TX* x, int64_t ldx, const Strips& strips, int64_t depth) {
  for (int64_t i = 0; i < strips.count; i++) {
    float* strip = packed + i * strip_floats(depth);
    const TX* source = x + strips.first(i) * ldx;
    const int64_t rows = strips.rows(i);
    int64_t k = 0;
#if defined(__AVX2__)
    // Eight rows at a time; what is stored beyond the strip's last row is overwritten with the next k.
    for (; k + 8 <= depth; k += 8)
      for (int64_t r = 0; r < rows; r += 8) {
        __m256 a[8];
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) a[j] = r + j < rows ? load_8(source + (r + j) * ldx + k) : _mm256_setzero_ps();
        transpose_8x8(a);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
          float* to = strip + (k + j) * STRIP + r;
          if (STRIP - r < 8 && r > 0) _mm_storeu_ps(to, _mm256_castps256_ps128(a[j]));
          else _mm256_storeu_ps(to, a[j]);
        }
      }
#endif
    for (; k < depth; k++)
      for (int64_t r = 0; r < rows; r++) strip[k * STRIP + r] = to_float(source[r * ldx + k]);
  }
}

// Columns of x as rows of A: strips[i][t][STRIP] are columns of the strip, token by token. `readable` elements follow the start
// of the last token's row.
template <class TX>
INLINE void pack_columns(float* packed, const TX* x, int64_t ldx, const Strips& strips, int64_t tokens, int64_t readable) {
  constexpr int64_t AT_ONCE = 16;  // tokens: their rows are read in sequence, the strips written in pieces of 6 cache lines
  for (int64_t from = 0; from < tokens; from += AT_ONCE) {
    const int64_t to = smaller(tokens, from + AT_ONCE);
    for (int64_t i = 0; i < strips.count; i++) {
      const int64_t first = strips.first(i), rows = strips.rows(i);
      float* strip = packed + i * strip_floats(tokens);
      // A whole vector may read on into later rows, but not beyond the last.
      const int64_t room = (tokens - 1) * ldx + readable - first - W;
      const int64_t whole = room < 0 ? from : larger(from, smaller(to, room / ldx + 1));
      // The values beyond the strip's are overwritten with the next token.
      for (int64_t t = from; t < whole; t++) store(strip + t * STRIP, load(x + t * ldx + first));
      for (int64_t t = whole; t < to; t++)
        for (int64_t r = 0; r < rows; r++) strip[t * STRIP + r] = to_float(x[t * ldx + first + r]);
    }
  }
}

// wide[k][16] = w[k][16] for `depth` rows of a panel.
template <class TW>
INLINE void widen_panel(float* wide, const TW* panel, int64_t depth) {
  for (int64_t i = 0; i < depth * PANEL; i += W) store(wide + i, load(panel + i));
}

// wide[n][16] = w[n][k0 … k0+15] for `depth` rows n from n0, a multiple of 16: 16×16 blocks of the panels, transposed.
template <class TW>
INLINE void transpose_panel(float* wide, const TW* w, int64_t n0, int64_t depth, int64_t k0, int64_t K) {
  const int64_t columns = smaller(PANEL, K - k0);
  for (int64_t n = 0; n < depth; n += PANEL) {
    const TW* block = w + ((n0 + n) / PANEL * K + k0) * PANEL;
    const int64_t rows = smaller(PANEL, depth - n);
    float* target = wide + n * PANEL;
#if defined(__AVX2__)
    if (rows == PANEL && columns == PANEL) {
#pragma GCC unroll 2
      for (int r = 0; r < PANEL; r += 8)
#pragma GCC unroll 2
        for (int k = 0; k < PANEL; k += 8) {
          __m256 a[8];
#pragma GCC unroll 8
          for (int j = 0; j < 8; j++) a[j] = load_8(block + (k + j) * PANEL + r);
          transpose_8x8(a);
#pragma GCC unroll 8
          for (int j = 0; j < 8; j++) _mm256_storeu_ps(target + (r + j) * PANEL + k, a[j]);
        }
      continue;
    }
#endif
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < PANEL; k++) target[r * PANEL + k] = k < columns ? to_float(block[k * PANEL + r]) : 0.0f;
  }
}

// panel[t][16] = columns of dy, zero beyond `columns`, for `tokens` rows.
template <class TY>
INLINE void copy_panel(float* panel, const TY* dy, int64_t lddy, int64_t tokens, int64_t columns) {
  if (columns == PANEL) {
    for (int64_t t = 0; t < tokens; t++) {
      __builtin_prefetch(dy + t * lddy + PANEL);  // the panel that follows
      for (int v = 0; v < PV; v++) store(panel + t * PANEL + v * W, load(dy + t * lddy + v * W));
    }
    return;
  }
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t n = 0; n < PANEL; n++) panel[t * PANEL + n] = n < columns ? to_float(dy[t * lddy + n]) : 0.0f;
}

}  // namespace KERNEL_PATH
