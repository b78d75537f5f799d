// Products with a weight in NF4 on a path that multiplies in bfloat16: those of the base path, which multiply in float32. Only
// the second matrices of adapters, which are bfloat16, are in this path's own layout.
#include "ops.h"
#include "pairs.h"

namespace KERNEL_PATH {

static constexpr int32_t NF4_BFLOAT16 = 4;  // the type code of ops.h: NF4 among bfloat16 parameters

static void adapted_forward_nf4(void* y, const void* x, const void* w, const void* bias, const AdapterTerm* terms,
                                int32_t count, int32_t M, int32_t N, int32_t K, int32_t ldy, int32_t ldx, int32_t ydtype,
                                int32_t xdtype, int32_t wdtype, int32_t accumulate) {
  if (wdtype != NF4_BFLOAT16)
    return adapted_forward(y, x, w, bias, terms, count, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate);
  BASE_PATH::matmul_forward(y, x, w, bias, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate, 1);
  for (const AdapterTerm* t = terms; t < terms + count; t++)
    matmul_forward((char*)y + t->first * (ydtype ? 2 : 4), t->down, t->b, nullptr, M, (int32_t)t->N, (int32_t)t->rank, ldy,
                   (int32_t)t->ld, ydtype, xdtype, BFLOAT16, 1, 1);
}

}  // namespace KERNEL_PATH
