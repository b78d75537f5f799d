// nf4_decode   y (n) = a weight in NF4 with double quantization (Dettmers et al. 2023, arXiv 2305.14314): elements, row after row,
// are the numbers of their codes times the scale of their 64, which is a number of 256 times the scale of 256 scales, plus
// an offset. w is one buffer (../../src/tensor/nf4.ts): as float32 the 16 numbers, the 256, the offset; at `nested` bytes the
// scales of scales; at `scales` the scales' codes; at `codes` the elements', two to a byte, the first in the upper half.
// `n` may pass 2³¹.
#include "primitives.cuh"

#ifndef Y_TYPE
#define Y_TYPE float
#endif

typedef unsigned char u8;

constexpr int N = 8;  // elements of a thread, of one block

extern "C" __global__ void __launch_bounds__(THREADS)
    nf4_decode(Y_TYPE* y, const u8* w, i64 nested, i64 scales, i64 codes, i64 n) {
  __shared__ float numbers[16], scale_numbers[256];
  const float* head = (const float*)w;
  for (int i = threadIdx.x; i < 256; i += THREADS) scale_numbers[i] = head[16 + i];
  if (threadIdx.x < 16) numbers[threadIdx.x] = head[threadIdx.x];
  __syncthreads();
  const float offset = head[272];
  const bool vectors = aligned<N>(y);
  const i64 stride = (i64)gridDim.x * THREADS * N;
  for (i64 i = ((i64)blockIdx.x * THREADS + threadIdx.x) * N; i < n; i += stride) {
    const i64 block = i / 64;
    const float product = __fmul_rn(scale_numbers[w[scales + block]], ((const float*)(w + nested))[block / 256]);
    const float scale = __fadd_rn(product, offset);
    const u32 four = *(const u32*)(w + codes + i / 2);
    Unit<N> u;
#pragma unroll
    for (int j = 0; j < N; j++) u.at[j] = numbers[four >> (j / 2 * 8 + (j % 2 ? 0 : 4)) & 15] * scale;
    store_unit(y + i, u, n - i, vectors);
  }
}
