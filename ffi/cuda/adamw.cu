// One step of AdamW (Loshchilov & Hutter 2019) with decoupled decay: parameter p, master, m, v updated from the gradient g.
//   adamw           m and v float32
//   adamw_8bit      m and v in 8 bits (Dettmers et al. 2022, arXiv 2110.02861)
//   add_parameter   y (n) += p, a parameter that has no master
// `n` may pass 2³¹. grad_scale is the clipping factor; correction1 = 1 − β1^t, correction2 = 1 − β2^t.
//
// The parameter is its own master (W_TYPE float), is written from a float32 master (bf16), or has none and is rounded at random
// (bf16, ROUNDED): the 16 bits that are cut off, as a fraction, are the probability of rounding away from zero. The random
// numbers are Philox4x32-10 under the key (seed, stream), counted by (element ÷ 8, step, parameter); each word has the 16 bits
// of two elements. `first_element`, a multiple of 8: the parameter's element that is p[0], if these n are a piece of it.
//
// In 8 bits, m, v (n) are codes, m_absmax, v_absmax (⌈n ÷ 256⌉) the largest magnitude of every 256 elements. maps (2, 256): the
// numbers of m's codes, then of v's; nearest (2, 65536): the codes of numbers spread evenly over [−1, 1], likewise. A moment
// that is 0 stays 0. A warp has a block of 256 elements.
#include "primitives.cuh"

#ifndef W_TYPE
#define W_TYPE float
#endif
#ifndef ROUNDED
#define ROUNDED 0
#endif

struct AdamW {
  float step, root, decay, beta1, beta2, complement1, complement2, eps, scale;
  INLINE AdamW(float lr, float b1, float b2, float e, float weight_decay, float correction1, float correction2,
               float grad_scale)
      : step(lr / correction1), root(sqrtf(correction2)), decay(1.0f - lr * weight_decay), beta1(b1), beta2(b2),
        complement1(1.0f - b1), complement2(1.0f - b2), eps(e), scale(grad_scale) {}
  // New moments, and the new value.
  INLINE float updated(float value, float g, float& first, float& second) const {
    const float grad = g * scale;
    first = beta1 * first + complement1 * grad;
    second = beta2 * second + complement2 * (grad * grad);
    return value * decay - step * first / (sqrtf(second) / root + eps);
  }
};

struct Counter {
  u32 seed, stream, step, parameter;
  i64 first;
};

// The block of Philox4x32-10 (Salmon et al. 2011) that counts c under key k: all four words.
INLINE uint4 philox_words(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
  for (int round = 0; round < 10; round++) {
    const u64 a = (u64)0xD2511F53u * c0, b = (u64)0xCD9E8D57u * c2;
    const u32 n0 = (u32)(b >> 32) ^ c1 ^ k0, n2 = (u32)(a >> 32) ^ c3 ^ k1;
    c1 = (u32)b, c3 = (u32)a, c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return make_uint4(c0, c1, c2, c3);
}

INLINE bf16 rounded_at_random(float x, u32 noise) { return (bf16)((__float_as_uint(x) + noise) >> 16); }

// N (4 or 8) elements from i, a multiple of N.
template <int N>
INLINE void store_rounded(bf16* p, const Unit<N>& u, i64 i, i64 count, const Counter& c) {
  const u64 block = (u64)(c.first + i) / 8;
  const uint4 all = philox_words((u32)block, (u32)(block >> 32), c.step, c.parameter, c.seed, c.stream);
  u32 words[4] = {all.x, all.y, all.z, all.w};
  if (N == 4 && i % 8 != 0) words[0] = all.z, words[1] = all.w;
#pragma unroll
  for (int j = 0; j < N; j++)
    if (j < count) p[j] = rounded_at_random(u.at[j], j % 2 ? words[j / 2] >> 16 : words[j / 2] & 0xffffu);
}

// The parameter's elements from i: `master` has them unless the parameter is rounded.
template <int N>
INLINE Unit<N> load_master(const W_TYPE* p, const float* master, i64 i, i64 count, bool vectors) {
  return ROUNDED ? load_unit<N>(p + i, count, vectors) : load_unit<N>(master + i, count, vectors);
}
template <int N>
INLINE void store_master(float*, float* master, const Unit<N>& u, i64 i, i64 count, bool vectors, const Counter&) {
  store_unit(master + i, u, count, vectors);
}
template <int N>
INLINE void store_master(bf16* p, float* master, const Unit<N>& u, i64 i, i64 count, bool vectors, const Counter& c) {
  if (ROUNDED) {
    store_rounded(p + i, u, i, count, c);
    return;
  }
  store_unit(master + i, u, count, vectors);
  store_unit(p + i, u, count, vectors);
}

constexpr int N = UNIT;  // elements of a thread: four arrays of float32 beside the parameter

extern "C" __global__ void __launch_bounds__(THREADS)
    adamw(W_TYPE* p, float* master, float* m, float* v, const float* g, i64 n, float lr, float beta1, float beta2,
          float eps, float weight_decay, float correction1, float correction2, float grad_scale, u32 seed, u32 stream,
          u32 step, u32 parameter, i64 first_element) {
  const AdamW adam(lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale);
  const Counter counter = {seed, stream, step, parameter, first_element};
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

extern "C" __global__ void __launch_bounds__(THREADS) add_parameter(float* y, const W_TYPE* p, i64 n) {
  const bool vectors = aligned<N>(y) && aligned<N>(p);
  const i64 stride = (i64)gridDim.x * THREADS * N;
  for (i64 i = ((i64)blockIdx.x * THREADS + threadIdx.x) * N; i < n; i += stride) {
    Unit<N> u = load_unit<N>(y + i, n - i, vectors);
    const Unit<N> more = load_unit<N>(p + i, n - i, vectors);
#pragma unroll
    for (int j = 0; j < N; j++) u.at[j] += more.at[j];
    store_unit(y + i, u, n - i, vectors);
  }
}

typedef unsigned char u8;

constexpr int CODES = 8;  // elements of a lane
constexpr int BLOCK = WARP * CODES, MAP = 256, NEAREST = 65536;
constexpr u32 SIGNED_ZERO = 127, UNSIGNED_ZERO = 0;  // the codes of 0

// Eight codes, the first in the lowest byte; those from `count` on are 0.
INLINE u64 load_codes(const u8* codes, i64 count, bool vectors) {
  if (vectors && count >= CODES) return *(const u64*)codes;
  u64 all = 0;
#pragma unroll
  for (int j = 0; j < CODES; j++)
    if (j < count) all |= (u64)codes[j] << (8 * j);
  return all;
}
INLINE void store_codes(u8* codes, u64 all, i64 count, bool vectors) {
  if (vectors && count >= CODES) {
    *(u64*)codes = all;
    return;
  }
#pragma unroll
  for (int j = 0; j < CODES; j++)
    if (j < count) codes[j] = (u8)(all >> (8 * j));
}

INLINE Unit<CODES> numbers(u64 codes, const float* map, float absmax, i64 count) {
  Unit<CODES> u;
#pragma unroll
  for (int j = 0; j < CODES; j++) u.at[j] = j < count ? map[(u32)(codes >> (8 * j)) & 255] * absmax : 0.0f;
  return u;
}

// The codes of a lane's numbers; `absmax` becomes the largest magnitude in the warp.
INLINE u64 quantized(const Unit<CODES>& u, float& absmax, const u8* nearest, u32 zero_code) {
  float most = 0;
#pragma unroll
  for (int j = 0; j < CODES; j++) most = fmaxf(most, fabsf(u.at[j]));
  absmax = lanes_reduce(most, Max());
  if (absmax == 0) return 0;
  const float inverse = 1.0f / absmax;
  u64 codes = 0;
#pragma unroll
  for (int j = 0; j < CODES; j++) {
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
               u32 parameter, i64 first_element) {
  __shared__ float map[2 * MAP];
  for (int i = threadIdx.x; i < 2 * MAP; i += THREADS) map[i] = maps[i];
  __syncthreads();
  const AdamW adam(lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale);
  const Counter counter = {seed, stream, step, parameter, first_element};
  const bool vectors = aligned<CODES>(p) && aligned<CODES>(master) && aligned<CODES>(g), coded = aligned<CODES>(m) && aligned<CODES>(v);
  const int lane = threadIdx.x % WARP;
  const i64 blocks = (n + BLOCK - 1) / BLOCK, stride = (i64)gridDim.x * (THREADS / WARP);
  for (i64 block = (i64)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP; block < blocks; block += stride) {
    const i64 i = block * BLOCK + lane * CODES, count = n - i;
    const Unit<CODES> grads = load_unit<CODES>(g + i, count, vectors);
    Unit<CODES> first = numbers(load_codes(m + i, count, coded), map, m_absmax[block], count);
    Unit<CODES> second = numbers(load_codes(v + i, count, coded), map + MAP, v_absmax[block], count);
    Unit<CODES> value = load_master<CODES>(p, master, i, count, vectors);
#pragma unroll
    for (int j = 0; j < CODES; j++) value.at[j] = adam.updated(value.at[j], grads.at[j], first.at[j], second.at[j]);
    store_master(p, master, value, i, count, vectors, counter);
    float first_most, second_most;
    store_codes(m + i, quantized(first, first_most, nearest, SIGNED_ZERO), count, coded);
    store_codes(v + i, quantized(second, second_most, nearest + NEAREST, UNSIGNED_ZERO), count, coded);
    if (lane == 0) m_absmax[block] = first_most, v_absmax[block] = second_most;
  }
}
