// One vector vocabulary for every instruction path. Each path compiles the same kernels with its own flags inside its
// own namespace (KERNEL_PATH), so nothing here may be shared between paths: no templates of the standard library.
//
// A path fixes W, the number of float lanes. Every kernel's summation order is expressed in W, so a path always gives the same
// bits; two paths may differ in the last ones.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

// bfloat16: the upper half of a float32.
struct bf16 {
  uint16_t bits;
};
// IEEE half, read only (checkpoints).
struct f16 {
  uint16_t bits;
};

#define INLINE static inline __attribute__((always_inline))

namespace KERNEL_PATH {

INLINE float to_float(float x) { return x; }
INLINE float to_float(bf16 x) {
  uint32_t u = (uint32_t)x.bits << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
INLINE float to_float(f16 x) {
  uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, exponent = (x.bits >> 10) & 31, mantissa = x.bits & 1023;
  uint32_t u;
  if (exponent == 31) {
    u = sign | 0x7f800000u | mantissa << 13;
  } else if (exponent != 0) {
    u = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {  // zero or subnormal: mantissa * 2^-24 is exact in float32
    float f = (float)mantissa * 5.9604644775390625e-8f;
    memcpy(&u, &f, 4);
    u |= sign;
  }
  float f;
  memcpy(&f, &u, 4);
  return f;
}
// Round to nearest even; a NaN stays a NaN.
INLINE bf16 to_bf16(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{(uint16_t)(u >> 16 | 0x40)};
  return bf16{(uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}
// A float32 as its bfloat16 and its own 16 lower bits, which say as a signed number how far it is from there. The same lower
// bits would stand for two numbers where it lies in the middle of two bfloat16 and is rounded down (to even): there it loses
// its last bit.
INLINE float join(bf16 upper, uint16_t lower) {
  const uint32_t u = ((uint32_t)upper.bits << 16) + (uint32_t)(int32_t)(int16_t)lower;
  float x;
  memcpy(&x, &u, 4);
  return x;
}
INLINE void split(bf16& upper, uint16_t& lower, float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  upper = to_bf16(x);
  lower = (uint16_t)((u & 0x1ffff) == 0x8000 ? 0x7fff : u);
}
INLINE void store_scalar(float* p, float x) { *p = x; }
INLINE void store_scalar(bf16* p, float x) { *p = to_bf16(x); }

#if defined(__AVX512F__)
static constexpr int W = 16;
typedef __m512 V;
INLINE V zero() { return _mm512_setzero_ps(); }
INLINE V set1(float x) { return _mm512_set1_ps(x); }
INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
INLINE V load(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
INLINE void store(float* p, V x) { _mm512_storeu_ps(p, x); }
#if defined(__AVX512BF16__)
// Subnormal numbers become zero, as they do in products.
INLINE void store(bf16* p, V x) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x)); }
#else
INLINE void store(bf16* p, V x) {
  __m512i u = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
}
#endif
// Past the caches; p is aligned. Call stream_fence before another thread may read it.
INLINE void stream(float* p, V x) { _mm512_stream_ps(p, x); }
INLINE V join(const bf16* p, const uint16_t* lower) {
  const __m512i low = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)lower));
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(load(p)), low));
}
INLINE void split(bf16* p, uint16_t* lower, V x) {
  store(p, x);
  const __m512i u = _mm512_castps_si512(x), low = _mm512_and_si512(u, _mm512_set1_epi32(0xffff));
  const __mmask16 tie = _mm512_cmpeq_epi32_mask(low, _mm512_set1_epi32(0x8000));
  const __mmask16 down = _mm512_mask_testn_epi32_mask(tie, u, _mm512_set1_epi32(0x10000));
  _mm256_storeu_si256((__m256i*)lower, _mm512_cvtepi32_epi16(_mm512_mask_sub_epi32(low, down, low, _mm512_set1_epi32(1))));
}
INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
INLINE V div(V a, V b) { return _mm512_div_ps(a, b); }
INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
INLINE V min(V a, V b) { return _mm512_min_ps(a, b); }
INLINE V sqrt(V a) { return _mm512_sqrt_ps(a); }
// a < b ? x : y, lane by lane
INLINE V select_less(V a, V b, V x, V y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x); }
// Bit i: a ≥ b in lane i.
INLINE uint32_t at_least(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
INLINE V round_nearest(V a) { return _mm512_roundscale_ps(a, 8); }
INLINE V pow2(V n) {  // n integral, −126…127
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
// Sums in float64 of a vector's lanes.
struct Doubles {
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
};
INLINE void add_to(Doubles& sums, V x) {
  sums.low = _mm512_add_pd(sums.low, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
  sums.high = _mm512_add_pd(sums.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
}
#elif defined(__AVX2__)
static constexpr int W = 8;
typedef __m256 V;
INLINE V zero() { return _mm256_setzero_ps(); }
INLINE V set1(float x) { return _mm256_set1_ps(x); }
INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
INLINE V load(const bf16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
INLINE void store(float* p, V x) { _mm256_storeu_ps(p, x); }
INLINE void store(bf16* p, V x) {
  __m256i u = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  __m256i r = _mm256_blendv_epi8(rounded, quiet, nan);
  r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0xd8);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(r));
}
INLINE void stream(float* p, V x) { _mm256_stream_ps(p, x); }
INLINE V join(const bf16* p, const uint16_t* lower) {
  const __m256i low = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)lower));
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(load(p)), low));
}
INLINE void split(bf16* p, uint16_t* lower, V x) {
  store(p, x);
  const __m256i u = _mm256_castps_si256(x), low = _mm256_and_si256(u, _mm256_set1_epi32(0xffff));
  const __m256i tie = _mm256_cmpeq_epi32(low, _mm256_set1_epi32(0x8000));
  const __m256i even = _mm256_cmpeq_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0x10000)), _mm256_setzero_si256());
  const __m256i kept = _mm256_add_epi32(low, _mm256_and_si256(tie, even));  // a true comparison is −1
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(kept, kept), 0xd8);
  _mm_storeu_si128((__m128i*)lower, _mm256_castsi256_si128(halves));
}
INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
INLINE V sub(V a, V b) { return _mm256_sub_ps(a, b); }
INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
INLINE V div(V a, V b) { return _mm256_div_ps(a, b); }
INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
INLINE V max(V a, V b) { return _mm256_max_ps(a, b); }
INLINE V min(V a, V b) { return _mm256_min_ps(a, b); }
INLINE V sqrt(V a) { return _mm256_sqrt_ps(a); }
INLINE V select_less(V a, V b, V x, V y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
INLINE uint32_t at_least(V a, V b) { return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)); }
INLINE V round_nearest(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE V pow2(V n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
struct Doubles {
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
};
INLINE void add_to(Doubles& sums, V x) {
  sums.low = _mm256_add_pd(sums.low, _mm256_cvtps_pd(_mm256_castps256_ps128(x)));
  sums.high = _mm256_add_pd(sums.high, _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
}
#else
// Portable: GCC and Clang vector extensions (SSE2 on x86-64, NEON on arm64). No fused multiply-add: the build passes
// -ffp-contract=off, so a*b+c rounds twice, everywhere.
// SIMD_BYTES sets the width: 64 bytes have the lanes and tiles of AVX-512, so that processors without it can check them.
#ifndef SIMD_BYTES
#define SIMD_BYTES 16
#endif
static constexpr int W = SIMD_BYTES / 4;
typedef float V __attribute__((vector_size(SIMD_BYTES)));
typedef int32_t I __attribute__((vector_size(SIMD_BYTES)));
typedef uint32_t U __attribute__((vector_size(SIMD_BYTES)));
typedef uint16_t U16 __attribute__((vector_size(SIMD_BYTES / 2)));
INLINE V zero() { return V{}; }
INLINE V set1(float x) { return x - V{}; }
INLINE V load(const float* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
INLINE V load(const bf16* p) {
  U16 h;
  memcpy(&h, p, sizeof h);
  return (V)(__builtin_convertvector(h, U) << 16);
}
INLINE void store(float* p, V x) { memcpy(p, &x, sizeof x); }
INLINE void store(bf16* p, V x) {
  for (int i = 0; i < W; i++) p[i] = to_bf16(x[i]);
}
INLINE void stream(float* p, V x) { store(p, x); }
INLINE V join(const bf16* p, const uint16_t* lower) {
  V x;
  for (int i = 0; i < W; i++) x[i] = join(p[i], lower[i]);
  return x;
}
INLINE void split(bf16* p, uint16_t* lower, V x) {
  for (int i = 0; i < W; i++) split(p[i], lower[i], x[i]);
}
INLINE V add(V a, V b) { return a + b; }
INLINE V sub(V a, V b) { return a - b; }
INLINE V mul(V a, V b) { return a * b; }
INLINE V div(V a, V b) { return a / b; }
INLINE V fma(V a, V b, V c) { return a * b + c; }
INLINE V select(I mask, V x, V y) { return (V)(((I)x & mask) | ((I)y & ~mask)); }
INLINE V max(V a, V b) { return select(a > b, a, b); }
INLINE V min(V a, V b) { return select(a < b, a, b); }
INLINE V sqrt(V a) {
  for (int i = 0; i < W; i++) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
INLINE V select_less(V a, V b, V x, V y) { return select(a < b, x, y); }
INLINE uint32_t at_least(V a, V b) {
  uint32_t bits = 0;
  for (int i = 0; i < W; i++) bits |= (uint32_t)(a[i] >= b[i]) << i;
  return bits;
}
INLINE V round_nearest(V a) {  // |a| < 2^22: adding 1.5 * 2^23 leaves the nearest integer, ties to even
  V magic = set1(12582912.0f);
  return (a + magic) - magic;
}
INLINE V pow2(V n) {  // a smaller n gives 0: its conversion to an integer would be undefined
  return (V)((__builtin_convertvector(max(set1(-127.0f), n), I) + 127) << 23);
}
struct Doubles {
  double lanes[W] = {};
};
INLINE void add_to(Doubles& sums, V x) {
  for (int i = 0; i < W; i++) sums.lanes[i] += (double)x[i];
}
#endif

INLINE void stream_fence() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

INLINE double sum_lanes(const Doubles& sums) {
  double a[W], total = 0;
  memcpy(a, &sums, sizeof a);
  for (int i = 0; i < W; i++) total += a[i];
  return total;
}
// Sum of the lanes, always with the same tree: halves are folded together until one is left. The maximum ignores NaN only
// where V's max does.
#if defined(__AVX2__)
#if defined(__AVX512F__)
INLINE __m256 sum_halves(V x) { return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)); }
INLINE __m256 max_halves(V x) { return _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)); }
#else
INLINE __m256 sum_halves(V x) { return x; }
INLINE __m256 max_halves(V x) { return x; }
#endif
INLINE float sum_lanes(V x) {
  const __m256 half = sum_halves(x);
  const __m128 a = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
INLINE float max_lanes(V x) {
  const __m256 half = max_halves(x);
  const __m128 a = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
#else
INLINE float sum_lanes(V x) {
  float a[W];
  store(a, x);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) a[i] += a[i + half];
  return a[0];
}
INLINE float max_lanes(V x) {
  float a[W];
  store(a, x);
  float m = a[0];
  for (int i = 1; i < W; i++) m = a[i] > m ? a[i] : m;
  return m;
}
#endif

#if defined(__AVX2__)
INLINE __m256 load_8(const float* p) { return _mm256_loadu_ps(p); }
INLINE __m256 load_8(const bf16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
// a[j][i] = a[i][j] for i, j < 8.
INLINE void transpose_8x8(__m256 a[8]) {
  __m256 b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int h = 0; h < 8; h += 4) {
    a[h + 0] = _mm256_shuffle_ps(b[h + 0], b[h + 2], 0x44);
    a[h + 1] = _mm256_shuffle_ps(b[h + 0], b[h + 2], 0xee);
    a[h + 2] = _mm256_shuffle_ps(b[h + 1], b[h + 3], 0x44);
    a[h + 3] = _mm256_shuffle_ps(b[h + 1], b[h + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m256 low = a[i], high = a[i + 4];
    a[i] = _mm256_permute2f128_ps(low, high, 0x20);
    a[i + 4] = _mm256_permute2f128_ps(low, high, 0x31);
  }
}
// target[j][i] = source[i][j]; rows are target_stride and source_stride apart.
template <class T>
INLINE void transpose_8x8(float* target, int64_t target_stride, const T* source, int64_t source_stride) {
  __m256 a[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) a[i] = load_8(source + i * source_stride);
  transpose_8x8(a);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) _mm256_storeu_ps(target + i * target_stride, a[i]);
}
#endif

// The first n < W elements, the other lanes filled with `fill`.
template <class T>
INLINE V load_part(const T* p, int n, float fill = 0.0f) {
  float a[W];
  for (int i = 0; i < W; i++) a[i] = i < n ? to_float(p[i]) : fill;
  return load(a);
}
template <class T>
INLINE void store_part(T* p, V x, int n) {
  float a[W];
  store(a, x);
  for (int i = 0; i < n; i++) store_scalar(p + i, a[i]);
}
template <class T>
INLINE V load_upto(const T* p, int n) { return n >= W ? load(p) : load_part(p, n); }
template <class T>
INLINE void store_upto(T* p, V x, int n) {
  if (n >= W) store(p, x);
  else store_part(p, x, n);
}

INLINE V join_upto(const bf16* p, const uint16_t* lower, int n) {
  if (n >= W) return join(p, lower);
  float a[W];
  for (int i = 0; i < W; i++) a[i] = i < n ? join(p[i], lower[i]) : 0.0f;
  return load(a);
}
INLINE void split_upto(bf16* p, uint16_t* lower, V x, int n) {
  if (n >= W) return split(p, lower, x);
  float a[W];
  store(a, x);
  for (int i = 0; i < n; i++) split(p[i], lower[i], a[i]);
}

// e^x of x ≤ 88.37, to about one ulp; exactly 1 at 0, exactly 0 below −87.3 (so −inf gives 0), NaN of NaN.
INLINE V exp_below(V x) {
  V n = round_nearest(mul(x, set1(1.44269504088896341f)));
  V r = fma(n, set1(-0.693359375f), x);       // ln 2 in two parts, the first exact in few bits
  r = fma(n, set1(2.12194440e-4f), r);
  V p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  p = mul(p, pow2(n));
  return select_less(x, set1(-87.33f), zero(), p);  // below, p is anything
}
// The same for any x: the largest finite power above 88.37.
INLINE V exp(V x) { return exp_below(min(set1(88.37f), x)); }  // in this order min preserves NaN
INLINE float exp1(float x) {
  float a[W];
  store(a, exp(set1(x)));
  return a[0];
}

INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Element types by the code the bindings pass: 0 = float32, 1 = bfloat16. `body` sees T.
#define WITH_DTYPE(code, T, ...)  \
  do {                            \
    if ((code) == 0) {            \
      using T = float;            \
      __VA_ARGS__;                \
    } else {                      \
      using T = bf16;             \
      __VA_ARGS__;                \
    }                             \
  } while (0)

// A panel is 16 columns: the unit in which weights and keys are stored, [columns/16][rows][16], columns zero-padded.
static constexpr int PANEL = 16;
static constexpr int PV = PANEL / W;  // vectors in a panel row

}  // namespace KERNEL_PATH
