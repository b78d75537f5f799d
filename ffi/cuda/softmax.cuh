// Log-softmax of one row of logits: the one order of summing the vocabulary, shared by training and sampling. Both run
// it in blocks of the same size (which the launchers take from the vocabulary alone), and every operation is spelt out,
// so that no compiler fuses a product here and not there: equal logits give equal bits.
#pragma once
#include "primitives.cuh"

struct RowStatistics {
  float max;      // of logits · inverse_temperature
  float lse;      // log Σ exp(logits · inverse_temperature)
  float entropy;  // −Σ p log p, in nats
};

constexpr int SOFTMAX_UNIT = 4;

// log p of one target
INLINE float row_logprob(float logit, float inverse_temperature, const RowStatistics& row) {
  return __fsub_rn(__fmul_rn(logit, inverse_temperature), row.lse);
}

// One reading of the row: a thread takes every blockDim.x-th unit, several at a time, and keeps its largest logit so far
// with the sums relative to it. A NaN or +∞ anywhere makes lse and entropy NaN, and so does a row of −∞ alone.
// `partial`: shared, one element a warp.
INLINE RowStatistics row_statistics(const float* logits, int size, float inverse_temperature, float* partial) {
  constexpr int N = SOFTMAX_UNIT, DEPTH = 4;
  const bool vectors = aligned<N>(logits);
  const int step = blockDim.x * N;
  float top = -INFINITY, sum = 0, weighted = 0;  // Σ exp(z − top), Σ exp(z − top) (z − top)
  for (int from = threadIdx.x * N; from < size; from += DEPTH * step) {
    Unit<N> z[DEPTH];
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      const int i = from + k * step;
      z[k] = load_unit<N>(logits + i, size - i, vectors, -INFINITY);
    }
    float most = top;
#pragma unroll
    for (int k = 0; k < DEPTH; k++)
      for (float& value : z[k].at) {
        value = __fmul_rn(value, inverse_temperature);
        most = fmaxf(most, value);
      }
    if (most > top) {
      const float moved = __fsub_rn(top, most), factor = expf(moved);
      weighted = __fmul_rn(__fmaf_rn(sum, fmaxf(moved, -1e4f), weighted), factor);
      sum = __fmul_rn(sum, factor);
      top = most;
    }
    const float shift = top == -INFINITY ? 0.0f : top;
#pragma unroll
    for (int k = 0; k < DEPTH; k++)
      for (float value : z[k].at) {
        const float d = __fsub_rn(value, shift), e = expf(d);
        sum = __fadd_rn(sum, e);
        weighted = __fmaf_rn(e, fmaxf(d, -88.0f), weighted);  // where e is 0, d may be −∞
      }
  }
  const float max = block_reduce(top, Max(), partial);
  const float moved = __fsub_rn(top, max), factor = expf(moved);
  weighted = __fmul_rn(__fmaf_rn(sum, fmaxf(moved, -1e4f), weighted), factor);
  sum = block_reduce(__fmul_rn(sum, factor), Add(), partial);
  weighted = block_reduce(weighted, Add(), partial);
  const float log_sum = logf(sum);
  return RowStatistics{max, __fadd_rn(max, log_sum), __fsub_rn(log_sum, __fdiv_rn(weighted, sum))};
}
