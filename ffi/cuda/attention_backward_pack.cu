// y (T, heads·Dp) bf16 = x (T, heads·Dh), zero beyond Dh: what the tensor-core kernels of the attention gradient read
// where x itself cannot be copied 16 bytes at a time (float32, an odd row stride, a head size that 8 does not divide).
#include "primitives.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_backward_pack(bf16* __restrict__ y, const X_TYPE* __restrict__ x, int heads, int Dh, int Dp, int ldx) {
  const size_t row = blockIdx.x;
  for (int i = threadIdx.x; i < heads * Dp; i += THREADS) {
    const int head = i / Dp, d = i % Dp;
    y[row * heads * Dp + i] = d < Dh ? to_bf16(load(x + row * ldx + head * Dh + d)) : (bf16)0;
  }
}
