// AVX512-BF16 and AMX-BF16 in plain C++, for machines without them: the intrinsics that ffi/cpu/tile_bf16.h calls, with the
// results of the instruction set reference's pseudo-code (VDPBF16PS, TDPBF16PS, LDTILECFG, TILELOADD, TILESTORED). The compiler
// includes this file before everything else. Operations that a processor rejects (an impossible tile configuration, operands
// with mismatched shapes) stop the program here too. Leaves out timing, and the permission that the system grants.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace emulation {

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t HalfOfWords __attribute__((vector_size(32)));

inline float from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
// Subnormal numbers count as zero, in and out (DAZ, FTZ); the sign stays.
inline float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }
inline float low(uint32_t pair) { return flushed(from_bits(pair << 16)); }
inline float high(uint32_t pair) { return flushed(from_bits(pair & 0xffff0000u)); }
// A fused multiply-add of bfloat16 factors. Their product has 16 bits, so float64 holds it exactly; if its sum with a float32
// does not fit float64, the smaller term is too small to move the larger one across a rounding boundary.
inline float fused(float a, float b, float c) { return flushed((float)((double)a * (double)b + (double)c)); }

}  // namespace emulation

// Two roundings per lane: the later element of the pair comes first.
static inline emulation::Floats _mm512_dpbf16_ps(emulation::Floats sum, emulation::Words a, emulation::Words b) {
  using namespace emulation;
  for (int i = 0; i < 16; i++) {
    const float first = fused(high(a[i]), high(b[i]), flushed(sum[i]));
    sum[i] = fused(low(a[i]), low(b[i]), first);
  }
  return sum;
}

// VCVTNE2PS2BF16: the second operand's elements come first. Subnormal numbers become zero, a NaN becomes quiet.
static inline emulation::Words _mm512_cvtne2ps_pbh(emulation::Floats high, emulation::Floats low) {
  using namespace emulation;
  const auto rounded = [](float x) -> uint32_t {
    uint32_t u;
    x = flushed(x);
    memcpy(&u, &x, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return u >> 16 | 0x40;
    return (u + 0x7fffu + (u >> 16 & 1)) >> 16;
  };
  Words r;
  for (int i = 0; i < 8; i++) {
    r[i] = rounded(low[2 * i]) | rounded(low[2 * i + 1]) << 16;
    r[i + 8] = rounded(high[2 * i]) | rounded(high[2 * i + 1]) << 16;
  }
  return r;
}

static inline emulation::Words _mm512_permutexvar_epi16(emulation::Words index, emulation::Words a) {
  emulation::Words r;
  uint16_t from[32], to[32], at[32];
  memcpy(from, &a, 64);
  memcpy(at, &index, 64);
  for (int i = 0; i < 32; i++) to[i] = from[at[i] & 31];
  memcpy(&r, to, 64);
  return r;
}

static inline emulation::Words _mm512_shuffle_epi8(emulation::Words a, emulation::Words index) {
  emulation::Words r;
  uint8_t from[64], to[64], at[64];
  memcpy(from, &a, 64);
  memcpy(at, &index, 64);
  for (int i = 0; i < 64; i++) to[i] = at[i] & 0x80 ? 0 : from[(i & 48) + (at[i] & 15)];
  memcpy(&r, to, 64);
  return r;
}

static inline emulation::Words _mm512_castsi256_si512(emulation::HalfOfWords low) {
  emulation::Words r = {};  // the upper half is undefined
  memcpy(&r, &low, sizeof low);
  return r;
}

static inline emulation::Words _mm512_inserti64x4(emulation::Words a, emulation::HalfOfWords b, int half) {
  memcpy((char*)&a + half * sizeof b, &b, sizeof b);
  return a;
}

static inline emulation::Words _mm512_permutex2var_epi32(emulation::Words a, emulation::Words index,
                                                         emulation::Words b) {
  emulation::Words r;
  for (int i = 0; i < 16; i++) r[i] = index[i] & 16 ? b[index[i] & 15] : a[index[i] & 15];
  return r;
}

namespace emulation {

struct Configuration {  // the 64 bytes of LDTILECFG
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
struct State {
  Configuration shape;
  uint32_t tile[8][16][16];
};
inline thread_local State state;

[[noreturn]] inline void refuse(const char* what) {
  fprintf(stderr, "emulated AMX: %s\n", what);
  abort();
}
inline int rows_of(int t) {
  if (t < 0 || t > 7 || state.shape.palette != 1 || state.shape.rows[t] == 0) refuse("a tile without a shape");
  return state.shape.rows[t];
}
inline int words_of(int t) { return rows_of(t) > 0 ? state.shape.row_bytes[t] / 4 : 0; }

}  // namespace emulation

static inline void _tile_loadconfig(const void* memory) {
  using namespace emulation;
  Configuration c;
  static_assert(sizeof c == 64);
  memcpy(&c, memory, sizeof c);
  if (c.palette != 1 || c.start_row != 0) refuse("another palette than 1, or a start row");
  for (int i = 0; i < 14; i++)
    if (c.reserved[i]) refuse("a reserved byte that is not zero");
  for (int i = 0; i < 16; i++) {
    if (i >= 8 && (c.rows[i] || c.row_bytes[i])) refuse("more than 8 tiles");
    if (c.rows[i] > 16 || c.row_bytes[i] > 64 || c.row_bytes[i] % 4) refuse("a tile larger than 16 rows of 64 bytes");
    if ((c.rows[i] == 0) != (c.row_bytes[i] == 0)) refuse("a tile with rows but no columns, or the reverse");
  }
  state.shape = c;
  memset(state.tile, 0, sizeof state.tile);
}

static inline void _tile_release() { emulation::state = {}; }

static inline void _tile_zero(int t) {
  emulation::rows_of(t);
  memset(emulation::state.tile[t], 0, sizeof emulation::state.tile[t]);
}

static inline void _tile_loadd(int t, const void* memory, int64_t stride) {
  using namespace emulation;
  _tile_zero(t);
  for (int r = 0; r < rows_of(t); r++)
    memcpy(state.tile[t][r], (const char*)memory + r * stride, state.shape.row_bytes[t]);
}

static inline void _tile_stream_loadd(int t, const void* memory, int64_t stride) { _tile_loadd(t, memory, stride); }

static inline void _tile_stored(int t, void* memory, int64_t stride) {
  using namespace emulation;
  for (int r = 0; r < rows_of(t); r++)
    memcpy((char*)memory + r * stride, state.tile[t][r], state.shape.row_bytes[t]);
}

// c += a · b. The even and odd elements of the reduction are summed separately from zero, then added together, then to c.
static inline void _tile_dpbf16ps(int c, int a, int b) {
  using namespace emulation;
  if (c == a || c == b || a == b) refuse("one tile in two places");
  if (rows_of(c) != rows_of(a) || words_of(c) != words_of(b) || words_of(a) != rows_of(b)) refuse("shapes do not fit");
  for (int m = 0; m < rows_of(c); m++) {
    float even[16] = {}, odd[16] = {};
    for (int k = 0; k < words_of(a); k++) {
      const float a_even = low(state.tile[a][m][k]), a_odd = high(state.tile[a][m][k]);
      for (int n = 0; n < 16; n++) {
        even[n] = fused(a_even, low(state.tile[b][k][n]), even[n]);
        odd[n] = fused(a_odd, high(state.tile[b][k][n]), odd[n]);
      }
    }
    for (int n = 0; n < words_of(c); n++) {
      const float sum = flushed(flushed(from_bits(state.tile[c][m][n])) + flushed(even[n] + odd[n]));
      memcpy(&state.tile[c][m][n], &sum, 4);
    }
  }
}
