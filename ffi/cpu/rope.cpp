// Rotary position embedding (Su et al. 2021) in place, in the half-split form of the Hugging Face models: element d of a head's
// first half rotates with element d + Dh/2, by the angle of the token's position.
//   rope_forward   x (T, H, Dh) turned;  cos, sin (positions, Dh/2) in float32, made on the host in float64
//   rope_backward  dx (T, H, Dh) turned back
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

template <class T>
INLINE void turn(T* head, const float* cos, const float* sin, int64_t half, float direction) {
  V sign = set1(direction);
  for (int64_t d = 0; d < half; d += W) {
    int n = (int)smaller(W, half - d);
    V c = load_upto(cos + d, n), s = mul(load_upto(sin + d, n), sign);
    V a = load_upto(head + d, n), b = load_upto(head + half + d, n);
    store_upto(head + d, sub(mul(a, c), mul(b, s)), n);
    store_upto(head + half + d, add(mul(b, c), mul(a, s)), n);
  }
}

template <class TX>
INLINE void turn_all(TX* x, const int32_t* positions, const float* cos, const float* sin, int64_t T, int64_t H,
                     int64_t Dh, int64_t ldx, float direction) {
  int64_t half = Dh / 2;
  parallel(ceil_div(T, 16), [&](int64_t block) {
    for (int64_t t = block * 16; t < smaller(T, block * 16 + 16); t++)
      for (int64_t h = 0; h < H; h++)
        turn(x + t * ldx + h * Dh, cos + positions[t] * half, sin + positions[t] * half, half, direction);
  });
}

void rope_forward(void* x, const int32_t* positions, const float* cos, const float* sin, int32_t T, int32_t H,
                  int32_t Dh, int32_t ldx, int32_t dtype) {
  WITH_DTYPE(dtype, TX, turn_all((TX*)x, positions, cos, sin, T, H, Dh, ldx, 1.0f););
}

void rope_backward(void* dx, const int32_t* positions, const float* cos, const float* sin, int32_t T, int32_t H,
                   int32_t Dh, int32_t lddx, int32_t dtype) {
  WITH_DTYPE(dtype, TX, turn_all((TX*)dx, positions, cos, sin, T, H, Dh, lddx, -1.0f););
}

}  // namespace KERNEL_PATH
