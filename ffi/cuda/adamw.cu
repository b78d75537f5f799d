// adamw   one step of AdamW (adamw.cuh): parameter p, master, m, v updated from the gradient g. `n` may pass 2³¹.
#include "adamw.cuh"

constexpr int N = UNIT;  // elements of a thread: four arrays of float32 beside the parameter

extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(W_TYPE* p, float* master, float* m, float* v, const float* g, i64 n, float lr, float beta1, float beta2,
          float eps, float weight_decay, float correction1, float correction2, float grad_scale, u32 seed, u32 stream,
          u32 step, u32 parameter) {
  const AdamW adam(lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale);
  const Counter counter = {seed, stream, step, parameter};
  const bool vectors = aligned<N>(p) && aligned<N>(master) && aligned<N>(m) && aligned<N>(v) && aligned<N>(g);
  const i64 stride = (i64)gridDim.x * THREADS * N;
  for (i64 i = ((i64)blockIdx.x * THREADS + threadIdx.x) * N; i < n; i += stride) {
    const Unit<N> grads = load_unit<N>(g + i, n - i, vectors);
    Unit<N> first = load_unit<N>(m + i, n - i, vectors), second = load_unit<N>(v + i, n - i, vectors);
    Unit<N> value = load_master<N>(p, master, i, n - i, vectors);
#pragma unroll
    for (int j = 0; j < N; j++) value.at[j] = adam.updated(value.at[j], grads.at[j], first.at[j], second.at[j]);
    store_unit(m + i, first, n - i, vectors);
    store_unit(v + i, second, n - i, vectors);
    store_master(p, master, value, i, n - i, vectors, counter);
  }
}
