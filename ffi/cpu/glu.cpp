// Gated linear unit (Shazeer 2020): x (T, 2F) holds the gate g and next to it the value u;  y (T, F) = act(g) · u, where
// act is SiLU (swiglu) or tanh-approximated GELU (geglu).
//   glu_forward   y =
//   glu_backward  dx (T, 2F) =
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

INLINE V sigmoid(V x) { return div(set1(1.0f), add(set1(1.0f), exp(sub(zero(), x)))); }

// act(g) and its derivative
INLINE V activation(V g, bool gelu, V* derivative) {
  if (!gelu) {
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

void glu_forward(void* y, const void* x, int32_t T, int32_t F, int32_t gelu, int32_t dtype) {
  WITH_DTYPE(dtype, TX, {
    parallel(ceil_div(T, 4), [&](int64_t block) {
      for (int64_t t = block * 4; t < smaller(T, block * 4 + 4); t++) {
        const TX* row = (const TX*)x + t * 2 * F;
        TX* out = (TX*)y + t * F;
        for (int64_t f = 0; f < F; f += W) {
          int n = (int)smaller(W, F - f);
          V derivative;
          V act = activation(load_upto(row + f, n), gelu != 0, &derivative);
          store_upto(out + f, mul(act, load_upto(row + F + f, n)), n);
        }
      }
    });
  });
}

void glu_backward(float* dx, const float* dy, const void* x, int32_t T, int32_t F, int32_t gelu, int32_t dtype) {
  WITH_DTYPE(dtype, TX, {
    parallel(ceil_div(T, 4), [&](int64_t block) {
      for (int64_t t = block * 4; t < smaller(T, block * 4 + 4); t++) {
        const TX* row = (const TX*)x + t * 2 * F;
        float* out = dx + t * 2 * F;
        for (int64_t f = 0; f < F; f += W) {
          int n = (int)smaller(W, F - f);
          V derivative, grad = load_upto(dy + t * F + f, n), u = load_upto(row + F + f, n);
          V act = activation(load_upto(row + f, n), gelu != 0, &derivative);
          store_upto(out + f, mul(mul(grad, u), derivative), n);
          store_upto(out + F + f, mul(grad, act), n);
        }
      }
    });
  });
}

}  // namespace KERNEL_PATH
