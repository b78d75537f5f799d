// Draws one token per sequence from a row of logits.
//   sample   ids (B) =, logprob (B) =, sampling_logprob (B) =
// In the order transformers applies them: repetition penalty (Keskar et al. 2019; over prompt and completion, kept as
// a bit set per slot), temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024). `logprob` is of
// softmax(logits · inverse_temperature) before penalty and truncation, bit for bit as in log_softmax_forward for the
// token; `sampling_logprob` is of the distribution actually drawn from. greedy: the largest logit, the lowest id on a
// tie. seen may be null: no penalty.
//
// The random number is Philox4x32-10 (Salmon et al. 2011) under the key (seed, stream), counted by the sequence's
// (position, sample, prompt, step), so it does not depend on the batch. counters (B, 5): those four, then the slot.
// The token is the first, by ascending id among those kept, at which the running sum passes u · total (float64).
#include "simd.h"
#include "softmax.h"
#include "threads.h"

namespace KERNEL_PATH {

static double philox_uniform(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; round++) {
    uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
    uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)b;
    c3 = (uint32_t)a;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return ((double)(c0 >> 5) * 67108864.0 + (double)(c1 >> 6)) * (1.0 / 9007199254740992.0);  // 53 bits, [0, 1)
}

// Larger value first, lower id on a tie.
INLINE bool before(const float* z, int32_t a, int32_t b) { return z[a] > z[b] || (z[a] == z[b] && a < b); }

INLINE void sift_down(int32_t* heap, int64_t size, int64_t i, const float* z) {
  for (;;) {
    int64_t child = 2 * i + 1;
    if (child >= size) return;
    if (child + 1 < size && before(z, heap[child + 1], heap[child])) child++;
    if (before(z, heap[i], heap[child])) return;
    int32_t swap = heap[i];
    heap[i] = heap[child];
    heap[child] = swap;
    i = child;
  }
}

// The last token kept by top-k, then top-p, then min-p, walking down from the most likely. e = exp(z − max).
static int32_t last_kept(const float* z, const float* e, int32_t* heap, int32_t size, int32_t top_k, float top_p,
                         float min_p) {
  for (int32_t i = 0; i < size; i++) heap[i] = i;
  for (int64_t i = size / 2 - 1; i >= 0; i--) sift_down(heap, size, i, z);
  int64_t limit = top_k > 0 && top_k < size ? top_k : size;
  double total = 0;
  if (top_p < 1) {  // probabilities after top-k
    if (limit == size) {
      for (int32_t i = 0; i < size; i++) total += e[i];
    }
  }
  int32_t* order = heap + size;
  int64_t left = size, count = 0;
  auto pop = [&]() {
    int32_t best = heap[0];
    heap[0] = heap[--left];
    sift_down(heap, left, 0, z);
    order[count++] = best;
    return best;
  };
  if (top_p < 1 && limit < size) {
    while (count < limit) total += e[pop()];
  }
  double sum = 0;
  int32_t kept = -1;
  for (int64_t i = 0; i < limit; i++) {
    int32_t id = i < count ? order[i] : pop();
    if (kept >= 0 && min_p > 0 && e[id] < min_p * e[order[0]]) break;
    if (kept >= 0 && top_p < 1 && sum >= top_p * total) break;
    kept = id;
    sum += e[id];
  }
  return kept;
}

// Bytes of a slot of a thread's scratch memory: logits, their exponentials, and two lists of ids.
INLINE int64_t sample_scratch(int slot, int64_t V) { return slot < 2 ? 4 * V : 8 * V; }

void sample(int32_t* ids, float* logprob, float* sampling_logprob, const float* logits, const int32_t* logit_row,
            const int32_t* counters, uint32_t* seen, int32_t B, int32_t size, uint32_t seed, uint32_t stream,
            int32_t greedy, float inverse_temperature, int32_t top_k, float top_p, float min_p,
            float repetition_penalty) {
  const bool penalize = seen != nullptr;
  const bool truncate = top_k > 0 || top_p < 1.0f || min_p > 0.0f;
  parallel(B, [&](int64_t b) {
    const float* row = logits + logit_row[b] * (int64_t)size;
    const int32_t* counter = counters + b * 5;
    RowStatistics full = row_statistics(row, size, inverse_temperature);
    if (!(full.lse - full.lse == 0)) {  // NaN or infinite
      ids[b] = -1;
      logprob[b] = sampling_logprob[b] = full.lse;
      return;
    }
    uint32_t* marks = penalize ? seen + counter[4] * ceil_div(size, 32) : nullptr;
    float* z = (float*)thread_scratch(0, sample_scratch(0, size));
    float* e = (float*)thread_scratch(1, sample_scratch(1, size));
    float top = -INFINITY;
    for (int32_t i = 0; i < size; i++) {
      float value = row[i];
      if (penalize && (marks[i >> 5] >> (i & 31) & 1))
        value = value > 0 ? value / repetition_penalty : value * repetition_penalty;
      z[i] = value * inverse_temperature;
      top = z[i] > top ? z[i] : top;
    }
    int32_t id = 0;
    double total = 0;
    for (int64_t i = 0; i < size; i += W) {
      int n = (int)smaller(W, size - i);
      store_upto(e + i, exp(sub(load_upto(z + i, n), set1(top))), n);
    }
    if (greedy) {
      while (z[id] != top) id++;
      for (int32_t i = 0; i < size; i++) total += e[i];
    } else {
      int32_t* lists = truncate ? (int32_t*)thread_scratch(2, sample_scratch(2, size)) : nullptr;
      int32_t cut = truncate ? last_kept(z, e, lists, size, top_k, top_p, min_p) : -1;
      auto keeps = [&](int32_t i) { return cut < 0 || i == cut || before(z, i, cut); };
      for (int32_t i = 0; i < size; i++)
        if (keeps(i)) total += e[i];
      double target = total * philox_uniform((uint32_t)counter[0], (uint32_t)counter[1], (uint32_t)counter[2],
                                             (uint32_t)counter[3], seed, stream);
      double sum = 0;
      id = -1;
      for (int32_t i = 0; i < size; i++) {
        if (!keeps(i) || e[i] == 0) continue;
        sum += e[i];
        id = i;
        if (sum > target) break;
      }
    }
    ids[b] = id;
    logprob[b] = row_logprob(row, id, inverse_temperature, full);
    sampling_logprob[b] =
        penalize || (truncate && !greedy) ? (float)(::log((double)e[id]) - ::log(total)) : logprob[b];
    if (penalize) marks[id >> 5] |= 1u << (id & 31);
  });
}

}  // namespace KERNEL_PATH
