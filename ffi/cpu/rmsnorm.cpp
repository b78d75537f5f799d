// y = x · rstd · weight,  rstd = 1 / sqrt(mean(x²) + eps)   (Zhang & Sennrich 2019), over rows of D elements; a token
// has H such rows (H = 1 for the hidden state, the number of heads for q/k norm), token t starting at x + t · ldx.
//
//   rmsnorm_forward   y =, rstd (T, H) =
//   rmsnorm_backward  dx = (gradient through the norm) + dresidual (when given; it may be dx itself), dweight (D) += (when given)
// Nothing is rounded before y is stored.
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

// One row of D elements; returns rstd.
template <class TY, class TX, class TW>
INLINE float norm_row(TY* out, const TX* row, const TW* weight, int64_t D, float eps) {
  V squares = zero();
  int64_t d = 0;
  for (; d + W <= D; d += W) {
    V value = load(row + d);
    squares = fma(value, value, squares);
  }
  if (d < D) {
    V value = load_part(row + d, (int)(D - d));
    squares = fma(value, value, squares);
  }
  float r = 1.0f / __builtin_sqrtf(sum_lanes(squares) / (float)D + eps);
  for (d = 0; d < D; d += W) {
    int n = (int)smaller(W, D - d);
    V normal = mul(load_upto(row + d, n), set1(r));
    store_upto(out + d, mul(normal, load_upto(weight + d, n)), n);
  }
  return r;
}

void rmsnorm_forward(void* y, float* rstd, const void* x, const void* weight, int32_t T, int32_t H, int32_t D,
                     int32_t ldy, int32_t ldx, float eps, int32_t ydtype, int32_t xdtype, int32_t wdtype) {
  WITH_DTYPE(ydtype, TY, WITH_DTYPE(xdtype, TX, WITH_DTYPE(wdtype, TW, {
    parallel(ceil_div(T, 8), [&](int64_t block) {
      for (int64_t i = block * 8 * H; i < smaller(T, block * 8 + 8) * H; i++) {
        const float r = norm_row((TY*)y + i / H * ldy + i % H * D, (const TX*)x + i / H * ldx + i % H * D,
                                 (const TW*)weight, D, eps);
        if (rstd) rstd[i] = r;
      }
    });
  })));
}

void rmsnorm_backward(float* dx, float* dweight, const float* dy, const void* x, const void* weight, const float* rstd,
                      const float* dresidual, int32_t T, int32_t H, int32_t D, int32_t lddx, int32_t lddy, int32_t ldx,
                      int32_t xdtype, int32_t wdtype) {
  WITH_DTYPE(xdtype, TX, WITH_DTYPE(wdtype, TW, {
    // The weight's gradient first: it reads dy, which dx may overwrite. A thread owns a range of D.
    if (dweight) parallel(ceil_div(D, PANEL), [&](int64_t block) {
      for (int64_t d = block * PANEL; d < smaller(D, block * PANEL + PANEL); d += W) {
        int n = (int)smaller(W, D - d);
        V sum = load_upto(dweight + d, n);
        for (int64_t i = 0; i < (int64_t)T * H; i++) {
          V normal = mul(load_upto((const TX*)x + i / H * ldx + i % H * D + d, n), set1(rstd[i]));
          sum = fma(load_upto(dy + i / H * lddy + i % H * D + d, n), normal, sum);
        }
        store_upto(dweight + d, sum, n);
      }
    });
    parallel(ceil_div(T, 8), [&](int64_t block) {
      for (int64_t i = block * 8 * H; i < smaller(T, block * 8 + 8) * H; i++) {
        const TX* row = (const TX*)x + i / H * ldx + i % H * D;
        const float* grad = dy + i / H * lddy + i % H * D;
        const float* residual = dresidual ? dresidual + i / H * lddx + i % H * D : nullptr;
        float* out = dx + i / H * lddx + i % H * D;
        V dots = zero();
        for (int64_t d = 0; d < D; d += W) {
          int n = (int)smaller(W, D - d);
          dots = fma(mul(load_upto(grad + d, n), load_upto((const TW*)weight + d, n)), load_upto(row + d, n), dots);
        }
        float r = rstd[i];
        float projection = sum_lanes(dots) * r * r * r / (float)D;
        for (int64_t d = 0; d < D; d += W) {
          int n = (int)smaller(W, D - d);
          V through = mul(mul(load_upto(grad + d, n), load_upto((const TW*)weight + d, n)), set1(r));
          V value = sub(through, mul(load_upto(row + d, n), set1(projection)));
          if (residual) value = add(value, load_upto(residual + d, n));
          store_upto(out + d, value, n);
        }
      }
    });
  }));
}

}  // namespace KERNEL_PATH
