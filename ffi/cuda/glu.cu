// Gated linear unit (Shazeer 2020): x (T, 2F) holds the gate g and beside it the value u;  y (T, F) = act(g) · u, where
// act is SiLU (swiglu) or tanh-approximated GELU (geglu).
//   glu_forward   y =
//   glu_backward  dx (T, 2F) =, and y = (null: not wanted), which may be where dy is
#include "primitives.cuh"

#ifndef X_TYPE
#define X_TYPE float
#endif
#ifndef Y_TYPE
#define Y_TYPE float
#endif
#ifndef DX_TYPE
#define DX_TYPE float
#endif
#ifndef DY_TYPE
#define DY_TYPE float
#endif

// σ(x) and 1 − σ(x), each to a few units in its last place: a large gate multiplies the second.
struct Sigmoid {
  float value, complement;
};

INLINE Sigmoid sigmoid(float x) {
  const float e = expf(-fabsf(x)), larger = __fdividef(1.0f, 1.0f + e), lesser = e * larger;
  return x < 0 ? Sigmoid{lesser, larger} : Sigmoid{larger, lesser};
}

struct Activation {
  float value, slope;
};

INLINE Activation activation(float g, bool gelu) {
  if (!gelu) {
    const Sigmoid s = sigmoid(g);
    return {g * s.value, s.value * (1.0f + g * s.complement)};
  }
  // ½ g (1 + tanh(z)) = g σ(2z),  z = √(2/π) (g + 0.044715 g³)
  const float square = g * g;
  const Sigmoid s = sigmoid(1.5957691216057308f * g * (0.044715f * square + 1.0f));
  const float slope = 1.5957691216057308f * (0.134145f * square + 1.0f);
  return {g * s.value, s.value * (1.0f + g * slope * s.complement)};
}

// A thread has a unit of columns of every gridDim.y-th row.
extern "C" __global__ void __launch_bounds__(THREADS)
    glu_forward(Y_TYPE* y, const X_TYPE* x, int T, int F, int ldy, int ldx, int gelu) {
  constexpr int N = unit_elements<Y_TYPE, X_TYPE>();
  const int f = (blockIdx.x * THREADS + threadIdx.x) * N;
  if (f >= F) return;
  for (i64 t = blockIdx.y; t < T; t += gridDim.y) {
    const X_TYPE *gate = x + t * ldx + f, *up = gate + F;
    Y_TYPE* out = y + t * ldy + f;
    const bool vectors = aligned<N>(gate) && aligned<N>(up) && aligned<N>(out);
    const Unit<N> g = load_unit<N>(gate, F - f, vectors);
    Unit<N> u = load_unit<N>(up, F - f, vectors);
#pragma unroll
    for (int j = 0; j < N; j++) u.at[j] *= activation(g.at[j], gelu).value;
    store_unit(out, u, F - f, vectors);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    glu_backward(DX_TYPE* dx, X_TYPE* y, const DY_TYPE* dy, const X_TYPE* x, int T, int F, int lddx, int ldy, int lddy,
                 int ldx, int gelu) {
  constexpr int N = unit_elements<DX_TYPE, DY_TYPE, X_TYPE>();
  const int f = (blockIdx.x * THREADS + threadIdx.x) * N;
  if (f >= F) return;
  for (i64 t = blockIdx.y; t < T; t += gridDim.y) {
    const X_TYPE *gate = x + t * ldx + f, *up = gate + F;
    const DY_TYPE* grad = dy + t * lddy + f;
    DX_TYPE *dgate = dx + t * lddx + f, *dup = dgate + F;
    X_TYPE* out = y ? y + t * ldy + f : nullptr;
    const bool vectors = aligned<N>(gate) && aligned<N>(up) && aligned<N>(grad) && aligned<N>(dgate) && aligned<N>(dup) &&
                         aligned<N>(out);
    Unit<N> g = load_unit<N>(gate, F - f, vectors), u = load_unit<N>(up, F - f, vectors);
    Unit<N> d = load_unit<N>(grad, F - f, vectors);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const Activation act = activation(g.at[j], gelu);
      const float product = u.at[j] * act.value;
      g.at[j] = d.at[j] * u.at[j] * act.slope;
      u.at[j] = d.at[j] * act.value;
      d.at[j] = product;
    }
    store_unit(dgate, g, F - f, vectors);
    store_unit(dup, u, F - f, vectors);
    if (out) store_unit(out, d, F - f, vectors);
  }
}
