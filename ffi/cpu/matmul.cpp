// Matrix products with a weight (N, K), both directions, and the weight's layout.
//
//   matmul_forward           y (M, N)  (=|+=)  x (M, K) · wᵀ  (+ bias)
//   matmul_backward_input    dx (M, K) (=|+=)  dy (M, N) · w
//   matmul_backward_weight   dw (N, K) +=      dyᵀ · x
//   bias_backward            dbias (N) +=      column sums of dy
//
// A weight is stored in panels, [N/16][K][16], rows beyond N zero. One copy serves the forward product (a panel is the
// B operand directly), the backward one (16×16 blocks are transposed on the way), the embedding and the head. Its
// gradient, masters and moments have the same layout in float32, so the optimizer is elementwise.
//
// An output element is one chain over the reduction index, for any M, threads or blocking (tile.h).
#include "panels.h"
#include "threads.h"
#include "tile.h"

namespace KERNEL_PATH {

// Rows of the reduction that a widened panel holds at once: 16 × 1024 floats are 64 KiB, an eighth of a small L2.
static constexpr int64_t DEPTH = 1024;
// Rows of M that share a widened panel. More rows amortize the widening, fewer keep A in the cache.
static constexpr int64_t A_BYTES = 384 << 10, LEAST_ROWS = 96, MOST_ROWS = 480;

INLINE int64_t row_block(int64_t M, int64_t depth) {
  int64_t rows = A_BYTES / (4 * (depth > 0 ? depth : 1));
  rows = larger(LEAST_ROWS, smaller(MOST_ROWS, rows)) / MR * MR;
  return smaller(M, rows);
}

int64_t weight_elements(int32_t N, int32_t K, int32_t) { return ceil_div(N, PANEL) * PANEL * K; }

// Bytes of a slot of a thread's scratch memory at most: rows as float32, with room to spare for widened panels and strips
// (0); sums (1). `deepest` is the longest reduction.
INLINE int64_t product_scratch(int slot, int64_t deepest, int64_t T) {
  if (slot == 0) return 4 * larger(A_BYTES, LEAST_ROWS * deepest);
  if (slot > 1) return 0;
  const int64_t panels_a_task = ceil_div(deepest * T, PANEL * MOST_ROWS * TASKS) + 1;
  return 4 * smaller(T, MOST_ROWS) * smaller(deepest, PANEL * panels_a_task);
}

// Copies rows of x as float32, row-major with stride `depth`. A float32 input is used in place.
template <class TX>
INLINE const float* rows_f32(const TX* x, int64_t ldx, int64_t rows, int64_t depth, float* scratch, int64_t* stride) {
  if constexpr (sizeof(TX) == 4) {
    *stride = ldx;
    return (const float*)x;
  } else {
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < depth; k += W) {
        if (k + W <= depth) store(scratch + r * depth + k, load(x + r * ldx + k));
        else store_part(scratch + r * depth + k, load_part(x + r * ldx + k, (int)(depth - k)), (int)(depth - k));
      }
    *stride = depth;
    return scratch;
  }
}

// y = x · wᵀ for one block of rows and a range of panels.
template <class TX, class TW, class TY>
static void forward_task(TY* y, const TX* x, const TW* w, const TW* bias, int64_t rows, int64_t N, int64_t K,
                         int64_t ldy, int64_t ldx, int64_t panel_from, int64_t panel_to, bool accumulate) {
  int64_t lda;
  const float* a = rows_f32(x, ldx, rows, K, (float*)thread_scratch(0, sizeof(TX) == 4 ? 0 : rows * K * 4), &lda);
  float* c = (float*)thread_scratch(1, rows * PANEL * 4);
  float* wide = (float*)thread_scratch(2, DEPTH * PANEL * 4);
  for (int64_t p = panel_from; p < panel_to; p++) {
    const TW* panel = w + p * K * PANEL;
    float bias_panel[PANEL] = {};
    if (bias)
      for (int64_t n = p * PANEL; n < smaller(N, (p + 1) * PANEL); n++) bias_panel[n - p * PANEL] = to_float(bias[n]);
    for (int64_t k = 0; k < K; k += DEPTH) {
      int64_t depth = smaller(DEPTH, K - k);
      if constexpr (sizeof(TW) == 4) {
        tiles(rows, c, PANEL, a + k, lda, 1, (const float*)panel + k * PANEL, PANEL, depth, k > 0);
      } else if (rows <= MR) {
        tiles(rows, c, PANEL, a + k, lda, 1, panel + k * PANEL, PANEL, depth, k > 0);
      } else {
        for (int64_t i = 0; i < depth * PANEL; i += W) store(wide + i, load(panel + k * PANEL + i));
        tiles(rows, c, PANEL, a + k, lda, 1, wide, PANEL, depth, k > 0);
      }
    }
    int64_t columns = smaller(PANEL, N - p * PANEL);
    write_tile(y + p * PANEL, ldy, c, rows, columns, bias ? bias_panel : nullptr, accumulate);
  }
}

// One row: four panels side by side, so that enough sums are in flight to keep the memory busy. The chain of each
// element is the same as in tile_rows.
template <class TX, class TW, class TY>
static void forward_row(TY* y, const TX* x, const TW* w, const TW* bias, int64_t N, int64_t K, int64_t panel_from,
                        int64_t panel_to, bool accumulate) {
  int64_t lda;
  const float* a = rows_f32(x, K, 1, K, (float*)thread_scratch(0, sizeof(TX) == 4 ? 0 : K * 4), &lda);
  constexpr int AT_ONCE = 4;
  for (int64_t p = panel_from; p < panel_to; p += AT_ONCE) {
    float c[AT_ONCE][PANEL];
    int64_t count = smaller(AT_ONCE, panel_to - p);
    const TW* b = w + p * K * PANEL;
    if (count == AT_ONCE) {
      V acc[AT_ONCE][PV];
#pragma GCC unroll 4
      for (int i = 0; i < AT_ONCE; i++)
#pragma GCC unroll 4
        for (int v = 0; v < PV; v++) acc[i][v] = zero();
      for (int64_t k = 0; k < K; k++) {
        V ak = set1(a[k]);
#pragma GCC unroll 4
        for (int i = 0; i < AT_ONCE; i++)
#pragma GCC unroll 4
          for (int v = 0; v < PV; v++) acc[i][v] = fma(ak, load(b + (i * K + k) * PANEL + v * W), acc[i][v]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < AT_ONCE; i++)
#pragma GCC unroll 4
        for (int v = 0; v < PV; v++) store(&c[i][v * W], acc[i][v]);
    } else {
      for (int64_t i = 0; i < count; i++) tile(1, c[i], PANEL, a, 0, 1, b + i * K * PANEL, PANEL, K, false);
    }
    for (int64_t i = 0; i < count; i++) {
      int64_t n = (p + i) * PANEL, columns = smaller(PANEL, N - n);
      float bias_panel[PANEL] = {};
      if (bias)
        for (int64_t j = 0; j < columns; j++) bias_panel[j] = to_float(bias[n + j]);
      write_tile(y + n, N, c[i], 1, columns, bias ? bias_panel : nullptr, accumulate);
    }
  }
}

void matmul_forward(void* y, const void* x, const void* w, const void* bias, int32_t M, int32_t N, int32_t K,
                    int32_t ldy, int32_t ldx, int32_t ydtype, int32_t xdtype, int32_t wdtype, int32_t accumulate) {
  if (M <= 0 || N <= 0) return;
  WITH_DTYPE(ydtype, TY, WITH_DTYPE(xdtype, TX, WITH_DTYPE(wdtype, TW, {
    int64_t panels = ceil_div(N, PANEL);
    if (M == 1) {
      int64_t per_task = larger(4, ceil_div(ceil_div(panels, 64), 4) * 4);
      parallel(ceil_div(panels, per_task), [&](int64_t task) {
        int64_t from = task * per_task;
        forward_row((TY*)y, (const TX*)x, (const TW*)w, (const TW*)bias, N, K, from, smaller(panels, from + per_task),
                    accumulate != 0);
      });
      return;
    }
    int64_t block = row_block(M, K), blocks = ceil_div(M, block);
    int64_t per_task = panels_per_task(panels, blocks, 4), splits = ceil_div(panels, per_task);
    parallel(blocks * splits, [&](int64_t task) {
      int64_t row = task / splits * block, from = task % splits * per_task;
      forward_task((TY*)y + row * ldy, (const TX*)x + row * ldx, (const TW*)w, (const TW*)bias, smaller(block, M - row), N, K,
                   ldy, ldx, from, smaller(panels, from + per_task), accumulate != 0);
    });
  })));
}

// wide[n][16] = w[n][k0 … k0+15] for `depth` rows n from n0: 16×16 blocks of the panels, transposed.
template <class TW>
INLINE void transpose_panel(float* wide, const TW* w, int64_t n0, int64_t depth, int64_t k0, int64_t K) {
  int64_t columns = smaller(PANEL, K - k0);
  for (int64_t n = 0; n < depth; n += PANEL) {
    const TW* block = w + ((n0 + n) / PANEL * K + k0) * PANEL;
    float t[PANEL][PANEL];
    for (int64_t k = 0; k < PANEL; k++)
      for (int v = 0; v < PV; v++) store(&t[k][v * W], k < columns ? load(block + k * PANEL + v * W) : zero());
    int64_t rows = smaller(PANEL, depth - n);
#if defined(__AVX2__)
    for (int64_t r8 = 0; r8 < PANEL; r8 += 8)
      for (int64_t k8 = 0; k8 < PANEL; k8 += 8) {
        __m256 a[8], b[8];
        for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(&t[k8 + i][r8]);
        for (int i = 0; i < 4; i++) {
          b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
          b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
        }
        for (int h = 0; h < 8; h += 4) {
          a[h + 0] = _mm256_shuffle_ps(b[h + 0], b[h + 2], 0x44);
          a[h + 1] = _mm256_shuffle_ps(b[h + 0], b[h + 2], 0xee);
          a[h + 2] = _mm256_shuffle_ps(b[h + 1], b[h + 3], 0x44);
          a[h + 3] = _mm256_shuffle_ps(b[h + 1], b[h + 3], 0xee);
        }
        for (int i = 0; i < 4; i++) {
          if (r8 + i < rows) _mm256_storeu_ps(wide + (n + r8 + i) * PANEL + k8, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
          if (r8 + i + 4 < rows)
            _mm256_storeu_ps(wide + (n + r8 + i + 4) * PANEL + k8, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
        }
      }
#else
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < PANEL; k++) wide[(n + r) * PANEL + k] = t[k][r];
#endif
  }
}

void matmul_backward_input(void* dx, const void* dy, const void* w, int32_t M, int32_t N, int32_t K, int32_t lddx,
                           int32_t lddy, int32_t dxdtype, int32_t dydtype, int32_t wdtype, int32_t accumulate) {
  if (M <= 0 || K <= 0) return;
  WITH_DTYPE(dxdtype, TX, WITH_DTYPE(dydtype, TY, WITH_DTYPE(wdtype, TW, {
    int64_t panels = ceil_div(K, PANEL);
    int64_t block = smaller(M, MOST_ROWS / MR * MR), blocks = ceil_div(M, block);
    int64_t per_task = panels_per_task(panels, blocks, 1), splits = ceil_div(panels, per_task);
    parallel(blocks * splits, [&](int64_t task) {
      int64_t row = task / splits * block, from = task % splits * per_task, to = smaller(panels, from + per_task);
      int64_t rows = smaller(block, M - row), count = to - from;
      // The reduction runs over N, which for the head is the vocabulary: A is converted a depth at a time, so the
      // depth loop is outermost and every panel's partial sums wait in c.
      float* c = (float*)thread_scratch(1, rows * PANEL * count * 4);
      float* wide = (float*)thread_scratch(2, DEPTH * PANEL * 4);
      for (int64_t n = 0; n < N; n += DEPTH) {
        int64_t depth = smaller(DEPTH, N - n), lda;
        const float* a = rows_f32((const TY*)dy + row * lddy + n, lddy, rows, depth,
                                  (float*)thread_scratch(0, sizeof(TY) == 4 ? 0 : rows * DEPTH * 4), &lda);
        for (int64_t p = 0; p < count; p++) {
          transpose_panel(wide, (const TW*)w, n, depth, (from + p) * PANEL, K);
          tiles(rows, c + p * rows * PANEL, PANEL, a, lda, 1, wide, PANEL, depth, n > 0);
        }
      }
      for (int64_t p = 0; p < count; p++) {
        int64_t k = (from + p) * PANEL;
        write_tile((TX*)dx + row * lddx + k, lddx, c + p * rows * PANEL, rows, smaller(PANEL, K - k), nullptr,
                   accumulate != 0);
      }
    });
  })));
}

// strips[i][t][MR]: columns i·MR … of x, a token's MR values adjacent, zero beyond `depth`. A strip is written with
// whole vectors: the W − MR extra values are overwritten by the next token, or fall into the room after the last.
template <class TX>
INLINE void transpose_strips(float* strips, const TX* x, int64_t ldx, int64_t tokens, int64_t depth) {
  for (int64_t k = 0; k < depth; k += MR) {
    float* strip = strips + k * tokens;
    if (k + W <= depth) {
      for (int64_t t = 0; t < tokens; t++) store(strip + t * MR, load(x + t * ldx + k));
    } else {
      for (int64_t t = 0; t < tokens; t++) store(strip + t * MR, load_part(x + t * ldx + k, (int)(depth - k)));
    }
  }
}

void matmul_backward_weight(float* dw, const void* dy, const void* x, int32_t M, int32_t N, int32_t K, int32_t lddy,
                            int32_t ldx, int32_t dydtype, int32_t xdtype) {
  if (M <= 0 || N <= 0) return;
  WITH_DTYPE(dydtype, TY, WITH_DTYPE(xdtype, TX, {
    // A task owns a range of panels and of K; the reduction over the M tokens accumulates in dw itself.
    constexpr int64_t K_BLOCK = 288 / MR * MR;
    constexpr int64_t TOKENS = 256;
    int64_t panels = ceil_div(N, PANEL), k_blocks = ceil_div(K, K_BLOCK);
    int64_t k_block = ceil_div(ceil_div(K, k_blocks), MR) * MR;
    int64_t per_task = panels_per_task(panels, k_blocks, 16), splits = ceil_div(panels, per_task);
    parallel(k_blocks * splits, [&](int64_t task) {
      int64_t k0 = task / splits * k_block, depth = smaller(k_block, K - k0);
      if (depth <= 0) return;
      int64_t from = task % splits * per_task, to = smaller(panels, from + per_task);
      float* a = (float*)thread_scratch(0, (TOKENS * k_block + W) * 4);
      float* b = (float*)thread_scratch(2, TOKENS * PANEL * 4);
      for (int64_t m = 0; m < M; m += TOKENS) {
        int64_t tokens = smaller(TOKENS, M - m);
        transpose_strips(a, (const TX*)x + m * ldx + k0, ldx, tokens, depth);
        for (int64_t p = from; p < to; p++) {
          int64_t n = p * PANEL;
          int columns = (int)smaller(PANEL, N - n);
          const TY* source = (const TY*)dy + m * lddy + n;
          for (int64_t t = 0; t < tokens; t++)
            for (int v = 0; v < PV; v++) {
              int rest = columns - v * W;
              V value = rest >= W ? load(source + t * lddy + v * W)
                                  : rest > 0 ? load_part(source + t * lddy + v * W, rest) : zero();
              store(b + t * PANEL + v * W, value);
            }
          float* c = dw + (p * K + k0) * PANEL;
          for (int64_t k = 0; k < depth; k += MR)
            tile(smaller(MR, depth - k), c + k * PANEL, PANEL, a + k * tokens, 1, MR, b, PANEL, tokens, true);
        }
      }
    });
  }));
}

void bias_backward(float* dbias, const void* dy, int32_t M, int32_t N, int32_t lddy, int32_t dydtype) {
  WITH_DTYPE(dydtype, TY, {
    parallel(ceil_div(N, PANEL), [&](int64_t p) {
      int64_t n = p * PANEL;
      int columns = (int)smaller(PANEL, N - n);
      for (int v = 0; v * W < columns; v++) {
        int rest = columns - v * W;
        V sum = load_upto(dbias + n + v * W, rest);
        for (int64_t m = 0; m < M; m++) sum = add(sum, load_upto((const TY*)dy + m * lddy + n + v * W, rest));
        store_upto(dbias + n + v * W, sum, rest);
      }
    });
  });
}

// To the layout: source is (N, K) row-major of dtype 0 float32, 1 bfloat16, 2 float16; rows [n0, n0 + rows).
void weight_pack(void* w, const void* source, int32_t n0, int32_t rows, int32_t N, int32_t K, int32_t wdtype,
                 int32_t source_dtype, int32_t) {
  WITH_DTYPE(wdtype, TW, {
    int64_t first = n0 / PANEL, last = ceil_div(n0 + rows, PANEL);
    parallel(last - first, [&](int64_t i) {
      int64_t p = first + i;
      TW* panel = (TW*)w + p * K * PANEL;
      for (int64_t lane = 0; lane < PANEL; lane++) {
        int64_t n = p * PANEL + lane, r = n - n0;
        if (n >= N)
          for (int64_t k = 0; k < K; k++) store_scalar(panel + k * PANEL + lane, 0.0f);
        if (r < 0 || r >= rows) continue;
        for (int64_t k = 0; k < K; k++) {
          float value = source_dtype == 0   ? ((const float*)source)[r * K + k]
                        : source_dtype == 1 ? to_float(((const bf16*)source)[r * K + k])
                                            : to_float(((const f16*)source)[r * K + k]);
          store_scalar(panel + k * PANEL + lane, value);
        }
      }
    });
  });
}

// From the layout: rows [n0, n0 + rows) as (rows, K) row-major, dtype 0 float32 or 1 bfloat16.
void weight_unpack(void* target, const void* w, int32_t n0, int32_t rows, int32_t K, int32_t target_dtype,
                   int32_t wdtype, int32_t) {
  WITH_DTYPE(target_dtype, TT, WITH_DTYPE(wdtype, TW, {
    parallel(ceil_div(rows, PANEL), [&](int64_t block) {
      for (int64_t r = block * PANEL; r < smaller(rows, (block + 1) * PANEL); r++) {
        const TW* panel = (const TW*)w + (n0 + r) / PANEL * K * PANEL + (n0 + r) % PANEL;
        for (int64_t k = 0; k < K; k++) store_scalar((TT*)target + r * K + k, to_float(panel[k * PANEL]));
      }
    });
  }));
}

}  // namespace KERNEL_PATH
