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

// z_i = logit_i · inverse_temperature everywhere. A NaN is passed over; it shows in the sum.
INLINE float row_max(const float* logits, int64_t size, float inverse_temperature) {
  const V t = set1(inverse_temperature);
  V top[4] = {set1(-INFINITY), set1(-INFINITY), set1(-INFINITY), set1(-INFINITY)};
  int64_t i = 0;
  for (; i + 4 * W <= size; i += 4 * W)
    for (int j = 0; j < 4; j++) top[j] = max(mul(load(logits + i + j * W), t), top[j]);
  for (; i < size; i += W) {
    const int n = (int)smaller(W, size - i);
    top[0] = max(n < W ? mul(load_part(logits + i, n, logits[i]), t) : mul(load(logits + i), t), top[0]);
  }
  return max_lanes(max(max(top[0], top[1]), max(top[2], top[3])));
}

// A lane sums every W-th element, block by block, and the lanes fold at the end. each(i, d, e) sees every vector from
// element i on: d = z − max, −∞ beyond the row, and e = exp(d).
template <class Each>
INLINE RowStatistics row_statistics(const float* logits, int64_t size, float inverse_temperature, float m,
                                    const Each& each) {
  const V t = set1(inverse_temperature), shift = set1(m);
  const int64_t whole = size / W * W;
  const int rest = (int)(size - whole);
  V sum = zero(), weighted = zero();
  for (int64_t from = 0; from < whole; from += SUMMED_AT_ONCE) {
    const int64_t end = smaller(from + SUMMED_AT_ONCE, whole);
    V block = zero(), block_weighted = zero();
    for (int64_t i = from; i < end; i += W) {
      const V d = sub(mul(load(logits + i), t), shift), e = exp_below(d);
      block = add(block, e);
      block_weighted = fma(e, max(d, set1(-88.0f)), block_weighted);  // where e is 0, d may be −inf
      each(i, d, e);
    }
    sum = add(sum, block);
    weighted = add(weighted, block_weighted);
  }
  if (rest > 0) {
    float lanes[W];
    store(lanes, sub(mul(load_part(logits + whole, rest, 0.0f), t), shift));
    for (int i = rest; i < W; i++) lanes[i] = -INFINITY;
    const V d = load(lanes), e = exp_below(d);
    sum = add(sum, e);
    weighted = fma(e, max(d, set1(-88.0f)), weighted);
    each(whole, d, e);
  }
  const float s = sum_lanes(sum);
  const float log_sum = (float)::log((double)s);
  return RowStatistics{m, m + log_sum, log_sum - sum_lanes(weighted) / s};
}
INLINE RowStatistics row_statistics(const float* logits, int64_t size, float inverse_temperature) {
  const float m = row_max(logits, size, inverse_temperature);
  return row_statistics(logits, size, inverse_temperature, m, [](int64_t, V, V) {});
}

INLINE float row_logprob(const float* logits, int64_t target, float inverse_temperature, const RowStatistics& row) {
  return logits[target] * inverse_temperature - row.lse;
}

}  // namespace KERNEL_PATH
