// next_tokens         tokens (B) = ids[from] where from (B) >= 0; a token that could not be sampled (-1) becomes 0
// embedding_forward   x (T, D) =  rows `ids` of the weight (V, D), widened to float32
// embedding_backward  dw (V, D) += dx (T, D) at those rows
// The weight is stored in panels (matmul.cpp): row id is lane id % 16 of panel id / 16. The backward pass gives each thread
// a range of D and walks the tokens in order, so repeated ids add up in the same order on every run.
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

void next_tokens(int32_t* tokens, const int32_t* ids, const int32_t* from, int32_t B) {
  for (int32_t b = 0; b < B; b++)
    if (from[b] >= 0) tokens[b] = ids[from[b]] < 0 ? 0 : ids[from[b]];
}

void embedding_forward(float* x, const int32_t* ids, const void* w, int32_t T, int32_t D, int32_t wdtype) {
  WITH_DTYPE(wdtype, TW, {
    parallel(ceil_div(T, 16), [&](int64_t block) {
      for (int64_t t = block * 16; t < smaller(T, block * 16 + 16); t++) {
        int64_t id = ids[t];
        const TW* row = (const TW*)w + id / PANEL * D * PANEL + id % PANEL;
        for (int64_t d = 0; d < D; d++) x[t * D + d] = to_float(row[d * PANEL]);
      }
    });
  });
}

void embedding_backward(float* dw, const float* dx, const int32_t* ids, int32_t T, int32_t D, int32_t) {
  constexpr int64_t RANGE = 64;
  parallel(ceil_div(D, RANGE), [&](int64_t block) {
    int64_t from = block * RANGE, to = smaller(D, from + RANGE);
    for (int64_t t = 0; t < T; t++) {
      int64_t id = ids[t];
      float* row = dw + id / PANEL * D * PANEL + id % PANEL;
      for (int64_t d = from; d < to; d++) row[d * PANEL] += dx[t * (int64_t)D + d];
    }
  });
}

}  // namespace KERNEL_PATH
