// What the kernels share: bfloat16, access by units of several elements, reductions in a fixed order, random numbers.
// No headers of NVIDIA's are needed; each instruction that C++ has no name for stands here once, in a function.
//
// Every warp function is called by all 32 lanes, and blocks are whole warps.
#pragma once

typedef unsigned short bf16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct half {  // IEEE binary16, a source only
  unsigned short bits;
};

#define INLINE __device__ __forceinline__
#define INFINITY __int_as_float(0x7f800000)

constexpr u32 ALL_LANES = 0xffffffffu;
constexpr int WARP = 32;

INLINE int smaller(int a, int b) { return a < b ? a : b; }
INLINE i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
INLINE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// ---- bfloat16: the upper half of a float32, rounded to the nearest, ties to even

INLINE float low_half(u32 pair) { return __uint_as_float(pair << 16); }
INLINE float high_half(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

INLINE u32 pack_bf16(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

INLINE bf16 to_bf16(float x) {
  bf16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

INLINE float from_half(half x) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
}

// ---- one element, by type

INLINE float load(const float* p) { return *p; }
INLINE float load(const bf16* p) { return __uint_as_float((u32)*p << 16); }
INLINE float load(const half* p) { return from_half(*p); }
INLINE void store(float* p, float x) { *p = x; }
INLINE void store(bf16* p, float x) { *p = to_bf16(x); }

// ---- a unit of N elements (4 or 8), which a thread reads and writes at once

template <int N>
struct Unit {
  float at[N];
};

// Elements of a unit: 16 bytes of the widest type, so that neighbouring threads touch neighbouring bytes.
template <class... Types>
constexpr int unit_elements() {
  int widest = 2;
  ((widest = sizeof(Types) > widest ? (int)sizeof(Types) : widest), ...);
  return 16 / widest;
}

// Whether a unit at p, and at multiples of N elements behind it, is one or two vector accesses.
template <int N, class T>
INLINE bool aligned(const T* p) {
  return (u64)p % (N * sizeof(T) < 16 ? N * sizeof(T) : 16) == 0;
}

template <int N>
INLINE Unit<N> load_vector(const float* p) {
  Unit<N> u;
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    float4 v = *(const float4*)(p + i);
    u.at[i] = v.x, u.at[i + 1] = v.y, u.at[i + 2] = v.z, u.at[i + 3] = v.w;
  }
  return u;
}

template <int N>
INLINE Unit<N> load_vector(const bf16* p) {
  Unit<N> u;
  u32 pairs[N / 2];
  if (N == 8) {
    uint4 v = *(const uint4*)p;
    pairs[0] = v.x, pairs[1] = v.y, pairs[N / 2 - 2] = v.z, pairs[N / 2 - 1] = v.w;
  } else {
    uint2 v = *(const uint2*)p;
    pairs[0] = v.x, pairs[1] = v.y;
  }
#pragma unroll
  for (int i = 0; i < N / 2; i++) u.at[2 * i] = low_half(pairs[i]), u.at[2 * i + 1] = high_half(pairs[i]);
  return u;
}

template <int N>
INLINE Unit<N> load_vector(const half* p) {
  Unit<N> u;
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    uint2 v = *(const uint2*)(p + i);
    u.at[i] = from_half(half{(unsigned short)v.x}), u.at[i + 1] = from_half(half{(unsigned short)(v.x >> 16)});
    u.at[i + 2] = from_half(half{(unsigned short)v.y}), u.at[i + 3] = from_half(half{(unsigned short)(v.y >> 16)});
  }
  return u;
}

template <int N>
INLINE void store_vector(float* p, const Unit<N>& u) {
#pragma unroll
  for (int i = 0; i < N; i += 4) *(float4*)(p + i) = make_float4(u.at[i], u.at[i + 1], u.at[i + 2], u.at[i + 3]);
}

template <int N>
INLINE void store_vector(bf16* p, const Unit<N>& u) {
  u32 pairs[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; i++) pairs[i] = pack_bf16(u.at[2 * i], u.at[2 * i + 1]);
  if (N == 8)
    *(uint4*)p = make_uint4(pairs[0], pairs[1], pairs[N / 2 - 2], pairs[N / 2 - 1]);
  else
    *(uint2*)p = make_uint2(pairs[0], pairs[1]);
}

// The first `count` elements of a unit, the others `rest`. `vectors`: p is aligned.
template <int N, class T>
INLINE Unit<N> load_unit(const T* p, i64 count, bool vectors, float rest = 0.0f) {
  if (vectors && count >= N) return load_vector<N>(p);
  Unit<N> u;
#pragma unroll
  for (int i = 0; i < N; i++) u.at[i] = i < count ? load(p + i) : rest;
  return u;
}

template <int N, class T>
INLINE void store_unit(T* p, const Unit<N>& u, i64 count, bool vectors) {
  if (vectors && count >= N) {
    store_vector(p, u);
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++)
    if (i < count) store(p + i, u.at[i]);
}

// ---- reductions: lanes by butterfly, then warps in ascending order, so that the order never changes

struct Add {
  template <class T>
  INLINE T operator()(T a, T b) const { return a + b; }
};
struct Max {
  INLINE float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Min {
  INLINE int operator()(int a, int b) const { return a < b ? a : b; }
};

// Over groups of `width` neighbouring lanes, a power of two; every lane gets its group's result.
template <class T, class Op>
INLINE T lanes_reduce(T value, Op op, int width = WARP) {
  for (int offset = width / 2; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(ALL_LANES, value, offset));
  return value;
}

// Over a one-dimensional block; every thread gets the result. `partial`: shared, one element a warp.
template <class T, class Op>
INLINE T block_reduce(T value, Op op, T* partial) {
  value = lanes_reduce(value, op);
  if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = value;
  __syncthreads();
  T result = partial[0];
  for (int warp = 1; warp < blockDim.x / WARP; warp++) result = op(result, partial[warp]);
  __syncthreads();  // `partial` may be written again
  return result;
}

// Sum of the lanes below and this one.
template <class T>
INLINE T lanes_scan(T value) {
  const int lane = threadIdx.x % WARP;
  for (int offset = 1; offset < WARP; offset *= 2) {
    T below = __shfl_up_sync(ALL_LANES, value, offset);
    if (lane >= offset) value += below;
  }
  return value;
}

// ---- Philox4x32-10 (Salmon et al. 2011): the first 53 bits of the block that counts c under key k

INLINE u64 philox_bits(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
  for (int round = 0; round < 10; round++) {
    u64 a = (u64)0xD2511F53u * c0, b = (u64)0xCD9E8D57u * c2;
    u32 n0 = (u32)(b >> 32) ^ c1 ^ k0, n2 = (u32)(a >> 32) ^ c3 ^ k1;
    c1 = (u32)b;
    c3 = (u32)a;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (u64)(c0 >> 5) << 26 | c1 >> 6;
}
