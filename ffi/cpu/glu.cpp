// Gated linear unit (Shazeer 2020): x (T, 2F) holds the gate g and next to it the value u;  y (T, F) = act(g) · u, where
// act is SiLU (swiglu) or tanh-approximated GELU (geglu).
//   glu_forward   y =
//   glu_backward  dx (T, 2F) =, and y = (null: not wanted), which may be where dy is
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

INLINE V sigmoid(V x) { return div(set1(1.0f), add(set1(1.0f), exp(sub(zero(), x)))); }

// act(g) and its derivative
template <bool GELU>
INLINE V activation(V g, V* derivative) {
  if (!GELU) {
    V s = sigmoid(g);
    *derivative = mul(s, add(set1(1.0f), mul(g, sub(set1(1.0f), s))));
    return mul(g, s);
  }
  // ½ g (1 + tanh(z)) = g σ(2z),  z = √(2/π) (g + 0.044715 g³)
  V square = mul(g, g);
  V two_z = mul(mul(set1(1.5957691216057308f), g), fma(set1(0.044715f), square, set1(1.0f)));
  V s = sigmoid(two_z);
  V slope = mul(set1(1.5957691216057308f), fma(set1(0.134145f), square, set1(1.0f)));
  *derivative = mul(s, add(set1(1.0f), mul(mul(g, slope), sub(set1(1.0f), s))));
  return mul(g, s);
}

// Calls body(t, f, n) for the whole vectors of every row of F elements and their tails, n = W or fewer.
template <class Body>
INLINE void for_vectors(int64_t T, int64_t F, const Body& body) {
  parallel(ceil_div(T, 4), [&](int64_t block) {
    for (int64_t t = block * 4; t < smaller(T, block * 4 + 4); t++) {
      int64_t f = 0;
      for (; f + W <= F; f += W) body(t, f, W);
      if (f < F) body(t, f, (int)(F - f));
    }
  });
}

template <bool GELU, class TX>
static void forward(TX* y, const TX* x, int64_t T, int64_t F) {
  for_vectors(T, F, [=](int64_t t, int64_t f, int n) __attribute__((always_inline)) {
    const TX* gate = x + t * 2 * F + f;
    V derivative;
    const V act = activation<GELU>(load_upto(gate, n), &derivative);
    store_upto(y + t * F + f, mul(act, load_upto(gate + F, n)), n);
  });
}

void glu_forward(void* y, const void* x, int32_t T, int32_t F, int32_t gelu, int32_t dtype) {
  WITH_DTYPE(dtype, TX, {
    if (gelu) forward<true>((TX*)y, (const TX*)x, T, F);
    else forward<false>((TX*)y, (const TX*)x, T, F);
  });
}

template <bool GELU, class TX, class TG>
static void backward(TG* dx, TX* y, const TG* dy, const TX* x, int64_t T, int64_t F) {
  for_vectors(T, F, [=](int64_t t, int64_t f, int n) __attribute__((always_inline)) {
    const TX* gate = x + t * 2 * F + f;
    TG* out = dx + t * 2 * F + f;
    V derivative;
    const V grad = load_upto(dy + t * F + f, n), u = load_upto(gate + F, n);
    const V act = activation<GELU>(load_upto(gate, n), &derivative);
    store_upto(out, mul(mul(grad, u), derivative), n);
    store_upto(out + F, mul(grad, act), n);
    if (y) store_upto(y + t * F + f, mul(act, u), n);
  });
}

void glu_backward(void* dx, void* y, const void* dy, const void* x, int32_t T, int32_t F, int32_t gelu, int32_t dtype,
                  int32_t gdtype) {
  WITH_DTYPE(dtype, TX, WITH_DTYPE(gdtype, TG, {
    if (gelu) backward<true>((TG*)dx, (TX*)y, (const TG*)dy, (const TX*)x, T, F);
    else backward<false>((TG*)dx, (TX*)y, (const TG*)dy, (const TX*)x, T, F);
  }));
}

}  // namespace KERNEL_PATH
