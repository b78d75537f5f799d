// The LM head after its matrix product, a chunk of rows at a time: logits (rows, V) → log-probabilities of the targets
// and entropies, of softmax(logits · inverse_temperature).
// A row may have several targets (a prompt's last row has one for each completion of its group): row r's are the
// entries entry_start[r] … entry_start[r + 1] − 1 of logprob, targets and dlogprob.
//   log_softmax_forward   logprob (entries) =, entropy (rows) =, lse (rows) =
//   log_softmax_backward  dlogits (rows, V) =   (may be logits itself)
#include "simd.h"
#include "softmax.h"
#include "threads.h"

namespace KERNEL_PATH {

void log_softmax_forward(float* logprob, float* entropy, float* lse, const float* logits, const int32_t* entry_start,
                         const int32_t* targets, int32_t rows, int32_t vocabulary, float inverse_temperature) {
  parallel(rows, [&](int64_t r) {
    const float* row = logits + r * (int64_t)vocabulary;
    RowStatistics statistics = row_statistics(row, vocabulary, inverse_temperature);
    entropy[r] = statistics.entropy;
    lse[r] = statistics.lse;
    for (int32_t e = entry_start[r]; e < entry_start[r + 1]; e++)
      logprob[e] = row_logprob(row, targets[e], inverse_temperature, statistics);
  });
}

// With p = softmax(z), z = logits / T:  ∂ log p_t / ∂z_j = [j = t] − p_j,  ∂H / ∂z_j = −p_j (log p_j + H).
void log_softmax_backward(float* dlogits, const float* logits, const float* dlogprob, const float* dentropy,
                          const int32_t* entry_start, const int32_t* targets, const float* lse, const float* entropy,
                          int32_t rows, int32_t vocabulary, float inverse_temperature) {
  parallel(rows, [&](int64_t r) {
    const float* row = logits + r * (int64_t)vocabulary;
    float* out = dlogits + r * (int64_t)vocabulary;
    float total = 0;
    for (int32_t e = entry_start[r]; e < entry_start[r + 1]; e++) total += dlogprob[e];
    const V t = set1(inverse_temperature), shift = set1(lse[r]);
    // dz_j = −p_j (total + dentropy (log p_j + H)), then [j = t] terms
    const V h = set1(entropy[r]), dh = set1(dentropy[r]), sum = set1(total);
    const auto gradient = [&](int64_t i, int n) __attribute__((always_inline)) {
      const V logp = max(set1(-1e4f), sub(mul(load_upto(row + i, n), t), shift));  // NaN stays NaN
      const V dz = sub(zero(), mul(exp(logp), fma(dh, add(logp, h), sum)));
      store_upto(out + i, mul(dz, t), n);
    };
    int64_t i = 0;
    for (; i + W <= vocabulary; i += W) gradient(i, W);
    if (i < vocabulary) gradient(i, (int)(vocabulary - i));
    for (int32_t e = entry_start[r]; e < entry_start[r + 1]; e++) out[targets[e]] += dlogprob[e] * inverse_temperature;
  });
}

}  // namespace KERNEL_PATH
