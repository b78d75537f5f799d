// Log-softmax of one row of logits: the one summation order over the vocabulary, shared by training and sampling.
#pragma once
#include <math.h>

#include "simd.h"

namespace KERNEL_PATH {

struct RowStatistics {
  float max;      // of logits · inverse_temperature
  float lse;      // log Σ exp(logits · inverse_temperature)
  float entropy;  // −Σ p log p, in nats
};

// Elements per partial sum: a single running sum over a vocabulary of 150,000 would lose a share of 4e-5 to rounding.
constexpr int64_t SUMMED_AT_ONCE = 4096;

// z_i = logit_i · inverse_temperature everywhere; a lane sums every W-th element, block by block, and the lanes fold at the
// end.
INLINE RowStatistics row_statistics(const float* logits, int64_t size, float inverse_temperature) {
  const V t = set1(inverse_temperature);
  int64_t whole = size / W * W;
  int rest = (int)(size - whole);
  V top = set1(-INFINITY);
  for (int64_t i = 0; i < whole; i += W) top = max(mul(load(logits + i), t), top);
  float m = max_lanes(top);
  for (int64_t i = whole; i < size; i++) {
    float z = logits[i] * inverse_temperature;
    m = z > m ? z : m;
  }
  const V shift = set1(m);
  V sum = zero(), weighted = zero();
  for (int64_t from = 0; from < whole; from += SUMMED_AT_ONCE) {
    const int64_t end = from + SUMMED_AT_ONCE < whole ? from + SUMMED_AT_ONCE : whole;
    V block = zero(), block_weighted = zero();
    for (int64_t i = from; i < end; i += W) {
      V d = sub(mul(load(logits + i), t), shift);
      V e = exp(d);
      block = add(block, e);
      block_weighted = fma(e, max(d, set1(-88.0f)), block_weighted);  // where e is 0, d may be −inf
    }
    sum = add(sum, block);
    weighted = add(weighted, block_weighted);
  }
  if (rest > 0) {
    V d = sub(mul(load_part(logits + whole, rest, 0.0f), t), shift);
    float lanes[W];
    store(lanes, d);
    for (int i = rest; i < W; i++) lanes[i] = -INFINITY;
    d = load(lanes);
    V e = exp(d);
    sum = add(sum, e);
    weighted = fma(e, max(d, set1(-88.0f)), weighted);
  }
  float s = sum_lanes(sum);
  float log_sum = (float)::log((double)s);
  return RowStatistics{m, m + log_sum, log_sum - sum_lanes(weighted) / s};
}

INLINE float row_logprob(const float* logits, int64_t target, float inverse_temperature, const RowStatistics& row) {
  return logits[target] * inverse_temperature - row.lse;
}

}  // namespace KERNEL_PATH
