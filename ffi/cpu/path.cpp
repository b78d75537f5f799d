// One instruction path: every kernel, compiled in this namespace with this path's flags, and the table of them.
// The build compiles this file once a path, with -DKERNEL_PATH=name.
#include "attention.cpp"
#include "elementwise.cpp"
#include "embedding.cpp"
#include "glu.cpp"
#include "log_softmax.cpp"
#include "matmul.cpp"
#include "ops.h"
#include "rmsnorm.cpp"
#include "rope.cpp"
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

#define KERNEL_ENTRY(name, parameters, arguments) name,
extern const Kernels kernels;
const Kernels kernels = {CPU_OPS(KERNEL_ENTRY) fma_peak, fma_peak, W};
#undef KERNEL_ENTRY

}  // namespace KERNEL_PATH
