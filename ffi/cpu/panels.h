// Shared by all products with a weight: storing a finished tile, and splitting panels into tasks.
#pragma once
#include "simd.h"

namespace KERNEL_PATH {

// Writes a finished tile (float, 16 columns apart) to the output: factor, bias, residual, rounding.
template <class TY>
INLINE void write_tile(TY* y, int64_t ldy, const float* c, int64_t rows, int64_t columns, const float* bias,
                       bool accumulate, float factor) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t v = 0; v * W < columns; v++) {
      int n = (int)smaller(W, columns - v * W);
      V value = load(c + r * PANEL + v * W);
      if (factor != 1) value = mul(value, set1(factor));
      if (bias) value = add(value, load(bias + v * W));
      TY* out = y + r * ldy + v * W;
      if (accumulate) value = add(load_upto(out, n), value);
      store_upto(out, value, n);
    }
}

static constexpr int64_t TASKS = 64;  // enough for any sensible number of threads

// Splits the panels so that every thread has work even if M is one block, with at least `least` panels per task.
INLINE int64_t panels_per_task(int64_t panels, int64_t blocks, int64_t least) {
  int64_t wanted = ceil_div(TASKS, blocks);  // per block
  return larger(least, ceil_div(panels, wanted));
}

}  // namespace KERNEL_PATH
