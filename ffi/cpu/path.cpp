// One instruction path: every kernel, compiled in this namespace with this path's flags, and the table of them.
// The build compiles this file once a path, with -DKERNEL_PATH=name.
#include "adamw.cpp"
#include "attention.cpp"
#include "attention_backward.cpp"
#include "elementwise.cpp"
#include "embedding.cpp"
#include "experts.cpp"
#include "glu.cpp"
#include "log_softmax.cpp"
#include "matmul.cpp"
#include "experts_products.h"
#include "ops.h"
#include "rmsnorm.cpp"
#include "rope.cpp"
#include "heads.cpp"
#include "sample.cpp"

namespace KERNEL_PATH {

static double fma_peak(int64_t n) {
  constexpr int CHAINS = 12;
  V a[CHAINS];
  for (int i = 0; i < CHAINS; i++) a[i] = set1((float)i);
  const V x = set1(1.0000001f), y = set1(1e-9f);
  for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 12
    for (int j = 0; j < CHAINS; j++) a[j] = fma(a[j], x, y);
  volatile float keep = 0;
  for (int j = 0; j < CHAINS; j++) keep = keep + sum_lanes(a[j]);
  return 2.0 * CHAINS * W * (double)n;
}

// The kernels take turns with a slot, so it grows to the largest need.
int64_t thread_scratch_bound(int32_t V, int32_t D, int32_t F, int32_t H, int32_t Hkv, int32_t Dh, int32_t, int32_t,
                             int32_t) {
  const int64_t deepest = larger(larger(D, F), (int64_t)H * Dh);
  int64_t bytes = 0;
  for (int slot = 0; slot < 3; slot++)
    bytes += larger(larger(product_scratch(slot, deepest), attention_scratch(slot, H / Hkv, Dh)),
                    sample_scratch(slot, V));
  return bytes;
}
int64_t common_scratch_bound(int32_t, int32_t, int32_t, int32_t H, int32_t Hkv, int32_t, int32_t, int32_t T, int32_t) {
  return ceil_div(attention_common_scratch(H, Hkv, T), 4096) * 4096;
}

#define KERNEL_ENTRY(name, parameters, arguments) name,
extern const Kernels kernels;
const Kernels kernels = {CPU_OPS(KERNEL_ENTRY) CPU_SIZES(KERNEL_ENTRY) fma_peak, fma_peak, W};
#undef KERNEL_ENTRY

}  // namespace KERNEL_PATH
