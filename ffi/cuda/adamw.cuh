// One step of AdamW (Loshchilov & Hutter 2019) on some elements, with decoupled decay, and how the parameter is stored.
//
// grad_scale is the clipping factor; correction1 = 1 − β1^t, correction2 = 1 − β2^t. The parameter is its own master
// (W_TYPE float), is written from a float32 master (bf16), or has none and is rounded at random (bf16, ROUNDED): the 16 bits
// that are cut off, as a fraction, are the probability of rounding away from zero. The random numbers are Philox4x32-10 under
// the key (seed, stream), counted by (element ÷ 8, step, parameter); each word has the 16 bits of two elements.
#pragma once
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
};

INLINE bf16 rounded_at_random(float x, u32 noise) { return (bf16)((__float_as_uint(x) + noise) >> 16); }

// N (4 or 8) elements from i, a multiple of N.
template <int N>
INLINE void store_rounded(bf16* p, const Unit<N>& u, i64 i, i64 count, const Counter& c) {
  const u64 block = (u64)i / 8;
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
