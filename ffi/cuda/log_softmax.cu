// The LM head after its matrix product, a chunk of rows at a time: logits (rows, V) → log-probabilities of the targets
// and entropies, of softmax(logits · inverse_temperature).
// A row may have several targets (a prompt's last row has one for each completion of its group): row r's are the
// entries entry_start[r] … entry_start[r + 1] − 1 of logprob, targets and dlogprob.
//   log_softmax_forward   logprob (entries) =, entropy (rows) =, lse (rows) =
//   log_softmax_backward  dlogits (rows, V) =   (in float32 it may be logits itself)
// A block has one row.
#include "softmax.cuh"

#ifndef OUT_TYPE
#define OUT_TYPE float
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    log_softmax_forward(float* logprob, float* entropy, float* lse, const float* logits, const int* entry_start,
                        const int* targets, int vocabulary, float inverse_temperature) {
  __shared__ float partial[WARP];
  const int r = blockIdx.x;
  const float* row = logits + (i64)r * vocabulary;
  const RowStatistics statistics = row_statistics(row, vocabulary, inverse_temperature, partial);
  if (threadIdx.x == 0) {
    entropy[r] = statistics.entropy;
    lse[r] = statistics.lse;
  }
  for (int e = entry_start[r] + threadIdx.x; e < entry_start[r + 1]; e += blockDim.x)
    logprob[e] = row_logprob(row[targets[e]], inverse_temperature, statistics);
}

// With p = softmax(z), z = logits / T:  ∂ log p_t / ∂z_j = [j = t] − p_j,  ∂H / ∂z_j = −p_j (log p_j + H).
struct RowGradient {
  float inverse_temperature, lse, entropy, dentropy, total;  // total: Σ dlogprob of the row's entries

  // All but the [j = t] terms.
  INLINE float operator()(float logit) const {
    float logp = logit * inverse_temperature - lse;
    logp = logp < -1e4f ? -1e4f : logp;  // a NaN stays one
    return -expf(logp) * (dentropy * (logp + entropy) + total) * inverse_temperature;
  }
};

// What a target's gradient is before its own term: as just written where nothing was rounded, else computed anew.
INLINE float written(const float* out, const float*, const RowGradient&) { return *out; }
INLINE float written(const bf16*, const float* logit, const RowGradient& gradient) { return gradient(*logit); }

extern "C" __global__ void __launch_bounds__(THREADS)
    log_softmax_backward(OUT_TYPE* dlogits, const float* logits, const float* dlogprob, const float* dentropy,
                         const int* entry_start, const int* targets, const float* lse, const float* entropy,
                         int vocabulary, float inverse_temperature) {
  constexpr int N = SOFTMAX_UNIT;
  __shared__ float partial[WARP];
  const int r = blockIdx.x, first = entry_start[r], last = entry_start[r + 1];
  const float* row = logits + (i64)r * vocabulary;
  OUT_TYPE* out = dlogits + (i64)r * vocabulary;
  float total = 0;
  for (int e = first + threadIdx.x; e < last; e += blockDim.x) total += dlogprob[e];
  total = block_reduce(total, Add(), partial);
  const RowGradient gradient = {inverse_temperature, lse[r], entropy[r], dentropy[r], total};

  const bool vectors = aligned<N>(row) && aligned<N>(out);
#pragma unroll 4
  for (int i = threadIdx.x * N; i < vocabulary; i += blockDim.x * N) {
    Unit<N> u = load_unit<N>(row + i, vocabulary - i, vectors);
    for (float& value : u.at) value = gradient(value);
    store_unit(out + i, u, vocabulary - i, vectors);
  }
  __syncthreads();
  // Then the targets, each by the thread of its first entry, which adds all entries of that target in order.
  for (int e = first + threadIdx.x; e < last; e += blockDim.x) {
    const int target = targets[e];
    bool repeated = false;
    for (int other = first; other < e && !repeated; other++) repeated = targets[other] == target;
    if (repeated) continue;
    float sum = 0;
    for (int other = e; other < last; other++)
      if (targets[other] == target) sum += dlogprob[other];
    store(out + target, written(out + target, row + target, gradient) + sum * inverse_temperature);
  }
}
