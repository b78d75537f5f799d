// The products of a mixture of experts (experts.cpp): rows offsets[e] … offsets[e + 1] − 1 with the weight of expert e, on a
// path's own products. `next`: elements from one expert's weight, or its gradient, to the next one's.
#pragma once
#include "threads.h"

namespace KERNEL_PATH {

// An address `rows` rows of `ld` elements behind.
inline char* rows_behind(const void* p, int64_t rows, int64_t ld, int32_t dtype) {
  return (char*)p + rows * ld * (dtype == 0 ? 4 : 2);
}

void experts_forward(void* y, const void* x, const void* w, const int32_t* offsets, int32_t E, int64_t next,
                            int32_t N, int32_t K, int32_t ldy, int32_t ldx, int32_t ydtype, int32_t xdtype,
                            int32_t wdtype) {
  for (int64_t e = 0; e < E; e++)
    matmul_forward(rows_behind(y, offsets[e], ldy, ydtype), rows_behind(x, offsets[e], ldx, xdtype),
                   rows_behind(w, e, next, wdtype), nullptr, offsets[e + 1] - offsets[e], N, K, ldy, ldx, ydtype, xdtype,
                   wdtype, 0, 1.0f);
}

void experts_backward_input(void* dx, const void* dy, const void* w, const int32_t* offsets, int32_t E,
                                   int64_t next, int32_t N, int32_t K, int32_t lddx, int32_t lddy, int32_t dxdtype,
                                   int32_t dydtype, int32_t wdtype, int32_t accumulate) {
  for (int64_t e = 0; e < E; e++)
    matmul_backward_input(rows_behind(dx, offsets[e], lddx, dxdtype), rows_behind(dy, offsets[e], lddy, dydtype),
                          rows_behind(w, e, next, wdtype), offsets[e + 1] - offsets[e], N, K, lddx, lddy, dxdtype,
                          dydtype, wdtype, accumulate, 1.0f);
}

void experts_backward_weight(float* dw, const void* dy, const void* x, const int32_t* offsets, int32_t E,
                                    int64_t next, int32_t N, int32_t K, int32_t lddy, int32_t ldx, int32_t dydtype,
                                    int32_t xdtype) {
  for (int64_t e = 0; e < E; e++)
    if (offsets[e + 1] > offsets[e])
      matmul_backward_weight(dw + e * next, rows_behind(dy, offsets[e], lddy, dydtype),
                             rows_behind(x, offsets[e], ldx, xdtype), offsets[e + 1] - offsets[e], N, K, lddy, ldx,
                             dydtype, xdtype);
}

}  // namespace KERNEL_PATH
