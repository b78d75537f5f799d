// The layout of a bfloat16 weight (N, K) on a path that multiplies in bfloat16: panels of pairs, [N/16][K/2][16][2], K padded to
// whole groups; padding is zero. 32 k of a panel are one tile of the forward product, 1 KiB in a row, so a product reads its
// weight as it is. Gradient, masters and moments have the same order in float32. A float32 weight keeps the layout of matmul.cpp.
//
//   weight_elements, weight_pack, weight_unpack, embedding_forward, embedding_backward: as in matmul.cpp and embedding.cpp
#include "pairs.h"
#include "threads.h"

namespace KERNEL_PATH {

static int64_t weight_elements(int32_t N, int32_t K, int32_t wdtype) {
  if (wdtype != BFLOAT16) return BASE_PATH::weight_elements(N, K, wdtype);
  return ceil_div(N, PANEL) * PANEL * whole_groups(K);
}

// Row n begins here, and its pair of k is 16 pairs further each.
template <class T>
INLINE T* weight_row(T* w, int64_t n, int64_t K) { return w + n / PANEL * PANEL * whole_groups(K) + n % PANEL * 2; }
INLINE int64_t in_row(int64_t k) { return k / 2 * 2 * PANEL + k % 2; }

static void weight_pack(void* w, const void* source, int32_t n0, int32_t rows, int32_t N, int32_t K, int32_t wdtype,
                        int32_t source_dtype, int32_t layout_dtype) {
  if (layout_dtype != BFLOAT16)
    return BASE_PATH::weight_pack(w, source, n0, rows, N, K, wdtype, source_dtype, layout_dtype);
  const int64_t first = n0 / PANEL, last = ceil_div(n0 + rows, PANEL), padded = whole_groups(K);
  WITH_DTYPE(wdtype, TW, {
    parallel(last - first, [&](int64_t i) {
      for (int64_t n = (first + i) * PANEL; n < (first + i + 1) * PANEL; n++) {
        TW* row = weight_row((TW*)w, n, K);
        const int64_t r = n - n0;
        const bool inside = n < N;
        if (inside && (r < 0 || r >= rows)) continue;
        const auto fill = [&](const auto& value) {
          for (int64_t k = 0; k < padded; k++) store_scalar(row + in_row(k), inside && k < K ? value(r * K + k) : 0.0f);
        };
        if (source_dtype == 0) fill([&](int64_t at) { return ((const float*)source)[at]; });
        else if (source_dtype == 1) fill([&](int64_t at) { return to_float(((const bf16*)source)[at]); });
        else fill([&](int64_t at) { return to_float(((const f16*)source)[at]); });
      }
    });
  });
}

static void weight_unpack(void* target, const void* w, int32_t n0, int32_t rows, int32_t K, int32_t target_dtype,
                          int32_t wdtype, int32_t layout_dtype) {
  if (layout_dtype != BFLOAT16)
    return BASE_PATH::weight_unpack(target, w, n0, rows, K, target_dtype, wdtype, layout_dtype);
  WITH_DTYPE(target_dtype, TT, WITH_DTYPE(wdtype, TW, {
    parallel(ceil_div(rows, PANEL), [&](int64_t block) {
      for (int64_t r = block * PANEL; r < smaller(rows, (block + 1) * PANEL); r++) {
        const TW* row = weight_row((const TW*)w, n0 + r, K);
        for (int64_t k = 0; k < K; k++) store_scalar((TT*)target + r * K + k, to_float(row[in_row(k)]));
      }
    });
  }));
}

static void embedding_forward(float* x, const int32_t* ids, const void* w, int32_t T, int32_t D, int32_t wdtype) {
  if (wdtype != BFLOAT16) return BASE_PATH::embedding_forward(x, ids, w, T, D, wdtype);
  parallel(ceil_div(T, 16), [&](int64_t block) {
    for (int64_t t = block * 16; t < smaller(T, block * 16 + 16); t++) {
      const bf16* row = weight_row((const bf16*)w, ids[t], D);
      for (int64_t d = 0; d < D; d++) x[t * D + d] = to_float(row[in_row(d)]);
    }
  });
}

static void embedding_backward(float* dw, const float* dx, const int32_t* ids, int32_t T, int32_t D, int32_t wdtype) {
  if (wdtype != BFLOAT16) return BASE_PATH::embedding_backward(dw, dx, ids, T, D, wdtype);
  constexpr int64_t RANGE = 64;
  parallel(ceil_div(D, RANGE), [&](int64_t block) {
    const int64_t from = block * RANGE, to = smaller(D, from + RANGE);
    for (int64_t t = 0; t < T; t++) {
      float* row = weight_row(dw, ids[t], D);
      for (int64_t d = from; d < to; d++) row[in_row(d)] += dx[t * (int64_t)D + d];
    }
  });
}

}  // namespace KERNEL_PATH
