// y = x · rstd · (offset + weight),  rstd = 1 / sqrt(mean(x²) + eps)   (Zhang & Sennrich 2019), over rows of D elements; a token
// has H such rows (H = 1 for the hidden state, the number of heads for q/k norm), token t starting at x + t · ldx.
//
//   rmsnorm_forward   y =, rstd (T, H) =
//   rmsnorm_backward  dx = (gradient through the norm) + dresidual (when given; it may be dx itself), dweight (D) += (when given)
// Nothing is rounded before y is stored.
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

// Up to W elements of a norm's weight; `offset` is what the parameter leaves out (1 in Gemma's models).
template <class TW>
INLINE V norm_weight(const TW* weight, int n, float offset) {
  return add(load_upto(weight, n), set1(offset));
}

// One row of D elements; returns rstd.
template <class TY, class TX, class TW>
INLINE float norm_row(TY* out, const TX* row, const TW* weight, int64_t D, float eps, float offset) {
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
    store_upto(out + d, mul(normal, norm_weight(weight + d, n, offset)), n);
  }
  return r;
}

void rmsnorm_forward(void* y, float* rstd, const void* x, const void* weight, int32_t T, int32_t H, int32_t D,
                     int32_t ldy, int32_t ldx, float eps, float offset, int32_t ydtype, int32_t xdtype,
                     int32_t wdtype) {
  WITH_DTYPE(ydtype, TY, WITH_DTYPE(xdtype, TX, WITH_DTYPE(wdtype, TW, {
    parallel(ceil_div(T, 8), [&](int64_t block) {
      for (int64_t i = block * 8 * H; i < smaller(T, block * 8 + 8) * H; i++) {
        const float r = norm_row((TY*)y + i / H * ldy + i % H * D, (const TX*)x + i / H * ldx + i % H * D,
                                 (const TW*)weight, D, eps, offset);
        if (rstd) rstd[i] = r;
      }
    });
  })));
}

// dweight += for N vectors of columns from d on, the last of which may be partial; rows in their order.
template <int N, class TY, class TX>
INLINE void weight_gradient(float* dweight, const TY* dy, const TX* x, const float* rstd, int64_t T, int64_t H,
                            int64_t D, int64_t lddy, int64_t ldx, int64_t d) {
  const int n = (int)smaller(W, D - d - (N - 1) * W);
  V sum[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) sum[i] = load_upto(dweight + d + i * W, i < N - 1 ? W : n);
  for (int64_t t = 0; t < T; t++)
    for (int64_t h = 0; h < H; h++) {
      const V r = set1(rstd[t * H + h]);
      const TX* row = x + t * ldx + h * D + d;
      const TY* grad = dy + t * lddy + h * D + d;
#pragma GCC unroll 8
      for (int i = 0; i < N; i++) {
        const int lanes = i < N - 1 ? W : n;
        sum[i] = fma(load_upto(grad + i * W, lanes), mul(load_upto(row + i * W, lanes), r), sum[i]);
      }
    }
#pragma GCC unroll 8
  for (int i = 0; i < N; i++) store_upto(dweight + d + i * W, sum[i], i < N - 1 ? W : n);
}

void rmsnorm_backward(void* dx, float* dweight, const void* dy, const void* x, const void* weight, const float* rstd,
                      const float* dresidual, int32_t T, int32_t H, int32_t D, int32_t lddx, int32_t lddy, int32_t ldx,
                      float offset, int32_t dxdtype, int32_t dydtype, int32_t xdtype, int32_t wdtype) {
  WITH_DTYPE(dxdtype, TD, WITH_DTYPE(dydtype, TY, WITH_DTYPE(xdtype, TX, WITH_DTYPE(wdtype, TW, {
    // The weight's gradient first: it reads dy, which dx may overwrite. A task owns a range of D, a few cache lines of each
    // row where D allows.
    const int64_t range = (D >= 32 * PANEL ? 2 : 1) * PANEL;
    if (dweight) parallel(ceil_div(D, range), [&](int64_t block) {
      const TY* grad = (const TY*)dy;
      int64_t d = block * range;
      const int64_t to = smaller(D, d + range);
      for (; d + 2 * PANEL <= to; d += 2 * PANEL)
        weight_gradient<2 * PV>(dweight, grad, (const TX*)x, rstd, T, H, D, lddy, ldx, d);
      for (; d < to; d += W) weight_gradient<1>(dweight, grad, (const TX*)x, rstd, T, H, D, lddy, ldx, d);
    });
    parallel(ceil_div(T, 8), [&](int64_t block) {
      for (int64_t i = block * 8 * H; i < smaller(T, block * 8 + 8) * H; i++) {
        const TX* row = (const TX*)x + i / H * ldx + i % H * D;
        const TY* grad = (const TY*)dy + i / H * lddy + i % H * D;
        const float* residual = dresidual ? dresidual + i / H * lddx + i % H * D : nullptr;
        TD* out = (TD*)dx + i / H * lddx + i % H * D;
        V dots = zero();
        for (int64_t d = 0; d < D; d += W) {
          int n = (int)smaller(W, D - d);
          dots = fma(mul(load_upto(grad + d, n), norm_weight((const TW*)weight + d, n, offset)), load_upto(row + d, n), dots);
        }
        float r = rstd[i];
        float projection = sum_lanes(dots) * r * r * r / (float)D;
        for (int64_t d = 0; d < D; d += W) {
          int n = (int)smaller(W, D - d);
          V through = mul(mul(load_upto(grad + d, n), norm_weight((const TW*)weight + d, n, offset)), set1(r));
          V value = sub(through, mul(load_upto(row + d, n), set1(projection)));
          if (residual) value = add(value, load_upto(residual + d, n));
          store_upto(out + d, value, n);
        }
      }
    });
  }))));
}

}  // namespace KERNEL_PATH
