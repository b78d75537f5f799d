// Rotary position embedding (Su et al. 2021) in place, in the half-split form of the Hugging Face models: element d of
// a head's first half turns with element d + Dh/2, by the angle of the token's position.
//   rope_forward   x (T, H, Dh) turned;  cos, sin (positions, Dh/2) in float32, made on the host in float64
//   rope_backward  dx (T, H, Dh) turned back
#include "primitives.cuh"

#ifndef X_TYPE
#define X_TYPE float
#endif

constexpr int N = unit_elements<X_TYPE>();

// Blocks of tokens: blockDim.x threads a token, each with units of all heads; blockDim.y tokens.
INLINE void turn(X_TYPE* x, const int* positions, const float* cos, const float* sin, int T, int H, int Dh, int ldx,
                 float direction) {
  const i64 t = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  if (t >= T) return;
  const int half = Dh / 2, units = ceil_div(half, N);
  const i64 angles = (i64)positions[t] * half;
  for (int i = threadIdx.x; i < H * units; i += blockDim.x) {
    const int d = i % units * N;
    X_TYPE *lower = x + t * ldx + (i64)(i / units) * Dh + d, *upper = lower + half;
    const bool vectors = aligned<N>(lower) && aligned<N>(upper);
    const bool tables = aligned<N>(cos + angles + d) && aligned<N>(sin + angles + d);
    const Unit<N> c = load_unit<N>(cos + angles + d, half - d, tables);
    const Unit<N> s = load_unit<N>(sin + angles + d, half - d, tables);
    Unit<N> a = load_unit<N>(lower, half - d, vectors), b = load_unit<N>(upper, half - d, vectors);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float low = a.at[j], high = b.at[j], sine = s.at[j] * direction;
      a.at[j] = low * c.at[j] - high * sine;
      b.at[j] = high * c.at[j] + low * sine;
    }
    store_unit(lower, a, half - d, vectors);
    store_unit(upper, b, half - d, vectors);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rope_forward(X_TYPE* x, const int* positions, const float* cos, const float* sin, int T, int H, int Dh, int ldx) {
  turn(x, positions, cos, sin, T, H, Dh, ldx, 1.0f);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rope_backward(X_TYPE* dx, const int* positions, const float* cos, const float* sin, int T, int H, int Dh,
                  int lddx) {
  turn(dx, positions, cos, sin, T, H, Dh, lddx, -1.0f);
}
