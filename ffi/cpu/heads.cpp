// q, k and v between their products and attention, a token at a time: heads of q and k normalized (rmsnorm.cpp), then rotated
// (rope.cpp), v copied. Each step rounds to the activations' type, as the kernels of its own do.
//   heads_forward  qkv (T, (H + 2·Hkv)·Dh) =, rstd_q (T, H) =, rstd_k (T, Hkv) = (when given)
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

void heads_forward(void* qkv, float* rstd_q, float* rstd_k, const void* raw, const void* weight_q, const void* weight_k,
                   const int32_t* positions, const float* cos, const float* sin, int32_t T, int32_t H, int32_t Hkv,
                   int32_t Dh, int32_t ldqkv, int32_t ldraw, float eps, float offset, int32_t dtype, int32_t wdtype) {
  WITH_DTYPE(dtype, TX, WITH_DTYPE(wdtype, TW, {
    const int64_t half = Dh / 2;
    parallel(ceil_div(T, 8), [&](int64_t block) {
      for (int64_t t = block * 8; t < smaller(T, block * 8 + 8); t++) {
        TX* out = (TX*)qkv + t * ldqkv;
        const TX* row = (const TX*)raw + t * ldraw;
        const float *c = cos + positions[t] * half, *s = sin + positions[t] * half;
        for (int64_t h = 0; h < H + Hkv; h++) {
          const bool key = h >= H;
          float r = norm_row(out + h * Dh, row + h * Dh, (const TW*)(key ? weight_k : weight_q), Dh, eps, offset);
          if (key && rstd_k) rstd_k[t * Hkv + h - H] = r;
          if (!key && rstd_q) rstd_q[t * H + h] = r;
          turn(out + h * Dh, c, s, half, 1.0f);
        }
        for (int64_t d = (H + Hkv) * Dh; d < (H + 2 * Hkv) * Dh; d++) out[d] = row[d];
      }
    });
  }));
}

}  // namespace KERNEL_PATH
