// adamw   one step of AdamW (Loshchilov & Hutter 2019), decoupled decay: master, m, v updated from the gradient g; the
// parameter is written from master, or is master itself in float32. grad_scale is the clipping factor;
// correction1 = 1 − β1^t, correction2 = 1 − β2^t. `n` may pass 2³¹.
#include "primitives.cuh"

#ifndef W_TYPE
#define W_TYPE float
#endif

constexpr int N = UNIT;  // elements of a thread: four arrays of float32 beside the parameter

INLINE void store_parameter(float*, const Unit<N>&, i64, bool) {}
INLINE void store_parameter(bf16* p, const Unit<N>& u, i64 count, bool vectors) { store_unit(p, u, count, vectors); }

extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(W_TYPE* p, float* master, float* m, float* v, const float* g, i64 n, float lr, float beta1, float beta2,
          float eps, float weight_decay, float correction1, float correction2, float grad_scale) {
  const float step = lr / correction1, root = sqrtf(correction2), decay = 1.0f - lr * weight_decay;
  const float complement1 = 1.0f - beta1, complement2 = 1.0f - beta2;
  const bool vectors = aligned<N>(p) && aligned<N>(master) && aligned<N>(m) && aligned<N>(v) && aligned<N>(g);
  const i64 stride = (i64)gridDim.x * THREADS * N;
  for (i64 i = ((i64)blockIdx.x * THREADS + threadIdx.x) * N; i < n; i += stride) {
    const Unit<N> grads = load_unit<N>(g + i, n - i, vectors);
    Unit<N> first = load_unit<N>(m + i, n - i, vectors), second = load_unit<N>(v + i, n - i, vectors);
    Unit<N> value = load_unit<N>(master + i, n - i, vectors);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float grad = grads.at[j] * grad_scale;
      first.at[j] = beta1 * first.at[j] + complement1 * grad;
      second.at[j] = beta2 * second.at[j] + complement2 * (grad * grad);
      value.at[j] = value.at[j] * decay - step * first.at[j] / (sqrtf(second.at[j]) / root + eps);
    }
    store_unit(m + i, first, n - i, vectors);
    store_unit(v + i, second, n - i, vectors);
    store_unit(master + i, value, n - i, vectors);
    store_parameter(p + i, value, n - i, vectors);
  }
}
