// The LM head after its matrix product, a chunk of rows at a time: logits (rows, V) → log-probabilities of the targets
// and entropies, of softmax(logits · inverse_temperature).
// A row may have several targets (a prompt's last row has one for each completion of its group): row r's are the
// entries entry_start[r] … entry_start[r + 1] − 1 of logprob, targets and dlogprob.
//   log_softmax_forward   logprob (entries) =, entropy (rows) =, lse (rows) =
//   log_softmax_backward  dlogits (rows, V) =   (may be logits itself; its rows begin where those of as many floats would)
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
template <class T>
static void backward(T* dlogits, const float* logits, const float* dlogprob, const float* dentropy,
                     const int32_t* entry_start, const int32_t* targets, const float* lse, const float* entropy, int64_t rows,
                     int64_t vocabulary, float inverse_temperature) {
  parallel(rows, [&](int64_t r) {
    const float* row = logits + r * vocabulary;
    T* out = dlogits + r * vocabulary * (int64_t)(sizeof(float) / sizeof(T));
    const int32_t from = entry_start[r], to = entry_start[r + 1];
    float total = 0;
    for (int32_t e = from; e < to; e++) total += dlogprob[e];
    const V t = set1(inverse_temperature), shift = set1(lse[r]);
    const V h = set1(entropy[r]), dh = set1(dentropy[r]), sum = set1(total);
    // dz_j = −p_j (total + dentropy (log p_j + H)), without the [j = t] terms
    const auto gradient = [&](V logit) __attribute__((always_inline)) {
      const V logp = max(set1(-1e4f), sub(mul(logit, t), shift));  // NaN stays NaN
      return mul(sub(zero(), mul(exp(logp), fma(dh, add(logp, h), sum))), t);
    };
    // What is rounded is rounded with those terms, and the logits may be gone by then.
    float* target_logits = nullptr;
    if constexpr (sizeof(T) != sizeof(float)) {
      target_logits = (float*)thread_scratch(1, (to - from) * (int64_t)sizeof(float));
      for (int32_t e = from; e < to; e++) target_logits[e - from] = row[targets[e]];
    }
    int64_t i = 0;
    for (; i + W <= vocabulary; i += W) store(out + i, gradient(load(row + i)));
    if (i < vocabulary) store_upto(out + i, gradient(load_upto(row + i, (int)(vocabulary - i))), (int)(vocabulary - i));
    for (int32_t e = from; e < to; e++) {
      if constexpr (sizeof(T) == sizeof(float)) {
        out[targets[e]] += dlogprob[e] * inverse_temperature;
      } else {
        float dz[W];
        store(dz, gradient(set1(target_logits[e - from])));
        for (int32_t other = from; other < to; other++)
          if (targets[other] == targets[e]) dz[0] += dlogprob[other] * inverse_temperature;
        store_scalar(out + targets[e], dz[0]);
      }
    }
  });
}

void log_softmax_backward(void* dlogits, const float* logits, const float* dlogprob, const float* dentropy,
                          const int32_t* entry_start, const int32_t* targets, const float* lse, const float* entropy,
                          int32_t rows, int32_t vocabulary, float inverse_temperature, int32_t gdtype) {
  WITH_DTYPE(gdtype, TG, {
    backward((TG*)dlogits, logits, dlogprob, dentropy, entry_start, targets, lse, entropy, rows, vocabulary,
             inverse_temperature);
  });
}

}  // namespace KERNEL_PATH
