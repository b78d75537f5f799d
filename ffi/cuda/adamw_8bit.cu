// adamw_8bit   one step of AdamW (adamw.cuh) with moments in 8 bits (Dettmers et al. 2022, arXiv 2110.02861): m, v (n) are codes,
// m_absmax, v_absmax (⌈n ÷ 256⌉) the largest magnitude of every 256 elements. maps (2, 256): the numbers of m's codes, then of
// v's; nearest (2, 65536): the codes of numbers spread evenly over [−1, 1], likewise. A moment that is 0 stays 0. `n` may pass
// 2³¹. A warp has a block of 256 elements.
#include "adamw.cuh"

typedef unsigned char u8;

constexpr int N = 8;  // elements of a lane
constexpr int BLOCK = WARP * N, MAP = 256, NEAREST = 65536;
constexpr u32 SIGNED_ZERO = 127, UNSIGNED_ZERO = 0;  // the codes of 0

// Eight codes, the first in the lowest byte; those from `count` on are 0.
INLINE u64 load_codes(const u8* codes, i64 count, bool vectors) {
  if (vectors && count >= N) return *(const u64*)codes;
  u64 all = 0;
#pragma unroll
  for (int j = 0; j < N; j++)
    if (j < count) all |= (u64)codes[j] << (8 * j);
  return all;
}
INLINE void store_codes(u8* codes, u64 all, i64 count, bool vectors) {
  if (vectors && count >= N) {
    *(u64*)codes = all;
    return;
  }
#pragma unroll
  for (int j = 0; j < N; j++)
    if (j < count) codes[j] = (u8)(all >> (8 * j));
}

INLINE Unit<N> numbers(u64 codes, const float* map, float absmax, i64 count) {
  Unit<N> u;
#pragma unroll
  for (int j = 0; j < N; j++) u.at[j] = j < count ? map[(u32)(codes >> (8 * j)) & 255] * absmax : 0.0f;
  return u;
}

// The codes of a lane's numbers; `absmax` becomes the largest magnitude in the warp.
INLINE u64 quantized(const Unit<N>& u, float& absmax, const u8* nearest, u32 zero_code) {
  float most = 0;
#pragma unroll
  for (int j = 0; j < N; j++) most = fmaxf(most, fabsf(u.at[j]));
  absmax = lanes_reduce(most, Max());
  if (absmax == 0) return 0;
  const float inverse = 1.0f / absmax;
  u64 codes = 0;
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float normed = fminf(fmaxf(u.at[j] * inverse, -1.0f), 1.0f);
    const int at = (int)fmaf((normed + 1.0f) * 0.5f, (float)(NEAREST - 1), 0.5f);
    codes |= (u64)(u.at[j] == 0 ? zero_code : nearest[at]) << (8 * j);
  }
  return codes;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adamw_8bit(W_TYPE* p, float* master, u8* m, float* m_absmax, u8* v, float* v_absmax, const float* g,
               const float* maps, const u8* nearest, i64 n, float lr, float beta1, float beta2, float eps,
               float weight_decay, float correction1, float correction2, float grad_scale, u32 seed, u32 stream, u32 step,
               u32 parameter) {
  __shared__ float map[2 * MAP];
  for (int i = threadIdx.x; i < 2 * MAP; i += THREADS) map[i] = maps[i];
  __syncthreads();
  const AdamW adam(lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale);
  const Counter counter = {seed, stream, step, parameter};
  const bool vectors = aligned<N>(p) && aligned<N>(master) && aligned<N>(g), coded = aligned<N>(m) && aligned<N>(v);
  const int lane = threadIdx.x % WARP;
  const i64 blocks = (n + BLOCK - 1) / BLOCK, stride = (i64)gridDim.x * (THREADS / WARP);
  for (i64 block = (i64)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP; block < blocks; block += stride) {
    const i64 i = block * BLOCK + lane * N, count = n - i;
    const Unit<N> grads = load_unit<N>(g + i, count, vectors);
    Unit<N> first = numbers(load_codes(m + i, count, coded), map, m_absmax[block], count);
    Unit<N> second = numbers(load_codes(v + i, count, coded), map + MAP, v_absmax[block], count);
    Unit<N> value = load_master<N>(p, master, i, count, vectors);
#pragma unroll
    for (int j = 0; j < N; j++) value.at[j] = adam.updated(value.at[j], grads.at[j], first.at[j], second.at[j]);
    store_master(p, master, value, i, count, vectors, counter);
    float first_most, second_most;
    store_codes(m + i, quantized(first, first_most, nearest, SIGNED_ZERO), count, coded);
    store_codes(v + i, quantized(second, second_most, nearest + NEAREST, UNSIGNED_ZERO), count, coded);
    if (lane == 0) m_absmax[block] = first_most, v_absmax[block] = second_most;
  }
}
