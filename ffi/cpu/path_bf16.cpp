// A path that multiplies in bfloat16: the kernels of BASE_PATH, with its own products for bfloat16 operands.
// The build compiles this file once for vdpbf16ps and once for AMX (-DAMX_TILES), with -DKERNEL_PATH and -DBASE_PATH.
//
// A product belongs here when its weight is bfloat16 (backward_weight: when x is, as under such weights). A float32
// operand, a gradient, is first rounded to nearest even. Weights keep their layout; panels are paired up (tile_bf16.h)
// in scratch memory, each once per block of rows. M, the threads and the blocking never change an element's bits, so
// decoding one row takes the same instruction as training on thousands.
#include "ops.h"
#include "panels.h"
#include "threads.h"
#include "tile_bf16.h"

#define KERNEL_DECLARATION(name, parameters, arguments) void name parameters;
#define SIZE_DECLARATION(name, parameters, arguments) int64_t name parameters;
namespace BASE_PATH {
CPU_OPS(KERNEL_DECLARATION)
CPU_SIZES(SIZE_DECLARATION)
extern const Kernels kernels;
}
#undef KERNEL_DECLARATION
#undef SIZE_DECLARATION

namespace KERNEL_PATH {

// Reduction elements of a paired panel: two of them take 32 KiB, which leaves room for A in a 48 KiB L1.
static constexpr int64_t DEPTH = 512;
// Rows of M that share a panel: 480 × 512 elements of A take half of a 1 MiB L2. A multiple of 32 (tiles) and of 12 (MR).
static constexpr int64_t ROWS = 480, ROWS_STEP = 96;
// Maximum number of panels with sums in scratch during the reduction.
static constexpr int64_t PANELS_AT_ONCE = 16;
// An operand that has to be converted first is converted once for all tasks, about this many bytes at a time. The tests make it
// small.
#ifndef CONVERTED_BYTES
#define CONVERTED_BYTES (32 << 20)
#endif

// Rows of x as bfloat16, zero-padded to whole groups: in place, or in the calling thread's memory.
template <class TX>
static const bf16* rows_bf16(const TX* x, int64_t ldx, int64_t rows, int64_t depth, int64_t* stride) {
  if (sizeof(TX) == 2 && depth % GROUP == 0) {
    *stride = ldx;
    return (const bf16*)x;
  }
  const int64_t padded = *stride = whole_groups(depth);
  bf16* copy = (bf16*)thread_scratch(3, rows * padded * 2);
  constexpr int64_t ROWS_A_TASK = 8;
  parallel(ceil_div(rows, ROWS_A_TASK), [&](int64_t task) {
    for (int64_t r = task * ROWS_A_TASK; r < smaller(rows, (task + 1) * ROWS_A_TASK); r++) {
      bf16* row = copy + r * padded;
      for (int64_t k = 0; k < padded; k += W) {
        const V value = load_upto(x + r * ldx + k, (int)smaller(W, depth - k));
        store_upto(row + k, value, (int)smaller(W, padded - k));
      }
    }
  });
  return copy;
}

// y (M, N) (=|+=) a · B (+ bias) in panels of 16 columns, over `depth` elements in whole groups.
// pair_panel(b, p, k, count) writes elements [k, k + count) of panel p's B, and may go on to a multiple of 16.
template <class TY, class PairPanel>
static void panel_products(TY* y, int64_t ldy, const bf16* a, int64_t lda, int64_t M, int64_t N, int64_t depth,
                           const bf16* bias, bool accumulate, const PairPanel& pair_panel) {
  const int64_t panels = ceil_div(N, PANEL), blocks = ceil_div(M, ROWS);
  const int64_t block = blocks == 1 ? M : ceil_div(ceil_div(M, blocks), ROWS_STEP) * ROWS_STEP;
  const int64_t per_task = ceil_div(panels_per_task(panels, blocks, 2), 2) * 2, splits = ceil_div(panels, per_task);
  parallel(blocks * splits, [&](int64_t task) {
    const int64_t row = task / splits * block, rows = smaller(block, M - row);
    if (rows <= 0) return;
    const int64_t from = task % splits * per_task, to = smaller(panels, from + per_task);
    const int64_t next_c = rows * PANEL, next_b = DEPTH / 2 * PANEL;
    float* c = (float*)thread_scratch(1, smaller(PANELS_AT_ONCE, per_task) * next_c * 4);
    uint32_t* b = (uint32_t*)thread_scratch(2, 2 * next_b * 4);
    Tiles tiles;
    for (int64_t first = from; first < to; first += PANELS_AT_ONCE) {
      const int64_t count = smaller(PANELS_AT_ONCE, to - first);
      for (int64_t k = 0; k < depth; k += DEPTH)
        for (int64_t p = 0; p < count; p += 2) {
          const int64_t beside = smaller(2, count - p), elements = smaller(DEPTH, depth - k);
          for (int64_t i = 0; i < beside; i++) pair_panel(b + i * next_b, first + p + i, k, elements);
          multiply(tiles, rows, beside, c + p * next_c, next_c, a + row * lda + k, lda, b, next_b, elements, k > 0);
        }
      for (int64_t p = 0; p < count; p++) {
        const int64_t n = (first + p) * PANEL, columns = smaller(PANEL, N - n);
        float bias_panel[PANEL] = {};
        if (bias) store(bias_panel, load_upto(bias + n, (int)columns));
        write_tile(y + row * ldy + n, ldy, c + p * next_c, rows, columns, bias ? bias_panel : nullptr, accumulate);
      }
    }
  });
}

// The same for x as it is stored: in batches of as many rows as may be converted at once.
template <class TX, class TY, class PairPanel>
static void products(TY* y, int64_t ldy, const TX* x, int64_t ldx, int64_t M, int64_t N, int64_t depth,
                     const bf16* bias, bool accumulate, const PairPanel& pair_panel) {
  const int64_t padded = whole_groups(depth);
  const int64_t fitting = CONVERTED_BYTES / (2 * padded) / ROWS_STEP * ROWS_STEP;
  const int64_t at_once = sizeof(TX) == 2 && padded == depth ? M : larger(ROWS_STEP, fitting);
  for (int64_t m = 0; m < M; m += at_once) {
    const int64_t rows = smaller(at_once, M - m);
    int64_t lda;
    const bf16* a = rows_bf16(x + m * ldx, ldx, rows, depth, &lda);
    panel_products(y + m * ldy, ldy, a, lda, rows, N, padded, bias, accumulate, pair_panel);
  }
}

static void matmul_forward(void* y, const void* x, const void* w, const void* bias, int32_t M, int32_t N, int32_t K,
                           int32_t ldy, int32_t ldx, int32_t ydtype, int32_t xdtype, int32_t wdtype,
                           int32_t accumulate) {
  if (wdtype != 1)
    return BASE_PATH::matmul_forward(y, x, w, bias, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate);
  if (M <= 0 || N <= 0) return;
  const auto pair_panel = [&](uint32_t* b, int64_t p, int64_t k, int64_t count) {
    const bf16* rows = (const bf16*)w + (p * K + k) * PANEL;
    for (int64_t i = 0; i < count; i += 2) {
      const Pairs pairs = row_pairs(rows, PANEL, i, K - k, PANEL);
      memcpy(b + i / 2 * PANEL, &pairs, sizeof pairs);
    }
  };
  WITH_DTYPE(ydtype, TY, WITH_DTYPE(xdtype, TX, {
    products((TY*)y, ldy, (const TX*)x, ldx, M, N, K, (const bf16*)bias, accumulate != 0, pair_panel);
  }));
}

static void matmul_backward_input(void* dx, const void* dy, const void* w, int32_t M, int32_t N, int32_t K,
                                  int32_t lddx, int32_t lddy, int32_t dxdtype, int32_t dydtype, int32_t wdtype,
                                  int32_t accumulate) {
  if (wdtype != 1)
    return BASE_PATH::matmul_backward_input(dx, dy, w, M, N, K, lddx, lddy, dxdtype, dydtype, wdtype, accumulate);
  if (M <= 0 || K <= 0) return;
  // In a weight's panel the 16 rows n of one k are adjacent, so pairs over n exist already: (16 k, 8 pairs) is transposed to (8
  // pairs, 16 k).
  const auto pair_panel = [&](uint32_t* b, int64_t p, int64_t n, int64_t count) {
    const int64_t k = p * PANEL, columns = smaller(PANEL, K - k);
    for (int64_t i = 0; i < count; i += PANEL) {
      Pairs v[8] = {};
      if (n + i < N) {
        const bf16* block = (const bf16*)w + ((n + i) / PANEL * K + k) * PANEL;
        if (columns == PANEL) memcpy(v, block, sizeof v);
        else memcpy(v, block, columns * PANEL * 2);
      }
      rotate_index<4>(v);
      memcpy(b + i / 2 * PANEL, v, sizeof v);
    }
  };
  WITH_DTYPE(dxdtype, TX, WITH_DTYPE(dydtype, TY, {
    products((TX*)dx, lddx, (const TY*)dy, lddy, M, K, N, nullptr, accumulate != 0, pair_panel);
  }));
}

// xᵀ (K, tokens) as bfloat16, tokens zero-padded to whole groups; rows are `stride` apart.
static const bf16* transposed(const bf16* x, int64_t ldx, int64_t tokens, int64_t K, int64_t stride) {
  bf16* t = (bf16*)thread_scratch(3, K * stride * 2);
  constexpr int64_t TOKENS_A_TASK = 64;
  parallel(ceil_div(stride, TOKENS_A_TASK), [&](int64_t task) {
    const int64_t end = smaller(stride, (task + 1) * TOKENS_A_TASK);
    for (int64_t k = 0; k < K; k += PANEL)
      for (int64_t m = task * TOKENS_A_TASK; m < end; m += PANEL) {
        const int64_t columns = smaller(PANEL, K - k);
        Pairs v[8];
        for (int i = 0; i < 8; i++) v[i] = row_pairs(x + m * ldx + k, ldx, 2 * i, tokens - m, columns);
        rotate_index<3>(v);
        for (int64_t i = 0; i < columns; i++) memcpy(t + (k + i) * stride + m, (const char*)v + i * 32, 32);
      }
  });
  return t;
}

static void matmul_backward_weight(float* dw, const void* dy, const void* x, int32_t M, int32_t N, int32_t K,
                                   int32_t lddy, int32_t ldx, int32_t dydtype, int32_t xdtype) {
  if (xdtype != 1) return BASE_PATH::matmul_backward_weight(dw, dy, x, M, N, K, lddy, ldx, dydtype, xdtype);
  if (M <= 0 || N <= 0 || K <= 0) return;
  // A task owns a range of panels and of K; the reduction over the M tokens accumulates in dw itself.
  const int64_t panels = ceil_div(N, PANEL), at_once = larger(DEPTH, CONVERTED_BYTES / (2 * K) / DEPTH * DEPTH);
  const int64_t k_blocks = larger(ceil_div(K, 4 * ROWS), smaller(ceil_div(K, ROWS_STEP), ceil_div(128, panels)));
  const int64_t k_block = ceil_div(ceil_div(K, k_blocks), ROWS_STEP) * ROWS_STEP;
  const int64_t per_task = ceil_div(panels_per_task(panels, k_blocks, 2), 2) * 2, splits = ceil_div(panels, per_task);
  for (int64_t start = 0; start < M; start += at_once) {
    const int64_t tokens = smaller(at_once, M - start), depth = whole_groups(tokens);
    const int64_t stride = ceil_div(tokens, 32) * 32;
    const bf16* a = transposed((const bf16*)x + start * ldx, ldx, tokens, K, stride);
    WITH_DTYPE(dydtype, TY, {
      parallel(k_blocks * splits, [&](int64_t task) {
        const int64_t k0 = task / splits * k_block, rows = smaller(k_block, K - k0);
        if (rows <= 0) return;
        const int64_t from = task % splits * per_task, to = smaller(panels, from + per_task);
        const int64_t next_b = DEPTH / 2 * PANEL;
        uint32_t* b = (uint32_t*)thread_scratch(2, 2 * next_b * 4);
        Tiles tiles;
        for (int64_t m = 0; m < depth; m += DEPTH)
          for (int64_t p = from; p < to; p += 2) {
            const int64_t beside = smaller(2, to - p), elements = smaller(DEPTH, depth - m);
            for (int64_t i = 0; i < beside; i++) {
              const int64_t n = (p + i) * PANEL;
              const TY* source = (const TY*)dy + (start + m) * lddy + n;
              for (int64_t t = 0; t < elements; t += 2) {
                const Pairs pairs = row_pairs(source, lddy, t, tokens - m, smaller(PANEL, N - n));
                memcpy(b + i * next_b + t / 2 * PANEL, &pairs, sizeof pairs);
              }
            }
            multiply(tiles, rows, beside, dw + (p * K + k0) * PANEL, K * PANEL, a + k0 * stride + m, stride, b,
                     next_b, elements, true);
          }
      });
    });
  }
}

// In addition to the base path's kernels: sums of ROWS rows by PANELS_AT_ONCE panels, and two paired panels.
static int64_t thread_scratch_bound(int32_t V, int32_t D, int32_t F, int32_t H, int32_t Hkv, int32_t Dh,
                                    int32_t longest, int32_t T) {
  return BASE_PATH::thread_scratch_bound(V, D, F, H, Hkv, Dh, longest, T) + 4 * ROWS * PANELS_AT_ONCE * PANEL +
         4 * DEPTH * PANEL;
}

// The converted operand: rows of a gradient, or columns of activations. The base path's kernels take turns with it.
static int64_t common_scratch_bound(int32_t V, int32_t D, int32_t F, int32_t H, int32_t Hkv, int32_t Dh, int32_t longest,
                                    int32_t T) {
  const int64_t heads = (int64_t)H * Dh, fused = heads + 2 * (int64_t)Hkv * Dh;
  const auto whole = [](int64_t n) { return ceil_div(n, 32) * 32; };  // groups of either kind of instruction
  const int64_t outputs = 2 * whole(larger(larger(V, 2 * (int64_t)F), larger(D, fused)));
  const int64_t inputs = 2 * whole(larger(larger(D, F), heads));
  const int64_t rows = smaller(outputs * T, larger(CONVERTED_BYTES, outputs * ROWS_STEP));
  const int64_t columns = smaller(inputs * whole(T), larger(CONVERTED_BYTES, inputs * DEPTH));
  return larger(ceil_div(larger(rows, columns), 4096) * 4096,
                BASE_PATH::common_scratch_bound(V, D, F, H, Hkv, Dh, longest, T));
}

static double fma_peak(int64_t n) { return BASE_PATH::kernels.fma_peak(n); }

// Initialized at compile time: code that ran while loading the library would crash processors without these instructions.
#define KERNEL_ENTRY(name, parameters, arguments) BASE_PATH::name,
static constexpr Kernels table() {
  Kernels k = {CPU_OPS(KERNEL_ENTRY) CPU_SIZES(KERNEL_ENTRY) nullptr, multiply_peak, W};
  k.thread_scratch_bound = thread_scratch_bound;
  k.common_scratch_bound = common_scratch_bound;
  k.fma_peak = fma_peak;
  k.matmul_forward = matmul_forward;
  k.matmul_backward_input = matmul_backward_input;
  k.matmul_backward_weight = matmul_backward_weight;
  return k;
}
#undef KERNEL_ENTRY
extern const Kernels kernels;
constinit const Kernels kernels = table();

}  // namespace KERNEL_PATH
