// Draws one token per sequence from a row of logits.
//   sample   ids (B) =, logprob (B) =, sampling_logprob (B) =
// In the order transformers applies them: repetition penalty (Keskar et al. 2019; over prompt and completion, kept as
// a bit set per slot), temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024). `logprob` is of
// softmax(logits · inverse_temperature) before penalty and truncation, bit for bit as in log_softmax_forward for the
// token; `sampling_logprob` is of the distribution actually drawn from. greedy: the largest logit, the lowest id on a
// tie. seen may be null: no penalty. A row whose scores are not finite gives −1, and log-probabilities of NaN or infinity; a row
// that only the penalty makes infinite gives −1, and the finite log-sum-exp it has without.
//
// The random number is Philox4x32-10 (Salmon et al. 2011) under the key (seed, stream), counted by the sequence's
// (position, sample, prompt, step), so it does not depend on the batch. counters (B, 5): those four, then the slot.
// The token is the first, by ascending id among those kept, at which the running sum passes u · total (float64), both
// summed one by one by ascending id. Over a whole vocabulary that chain of additions would take most of the time, so
// sums are first taken in any order, with a bound on how far they may be from the chain's; the chain itself decides only
// where that bound leaves open which token it is. Either way it is the same token.
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

// Elements of a partial sum, in which the token is looked for when the sums point to it.
static constexpr int64_t SUMMED = 1024;

// How far a float64 sum of `size` terms may be from one in another order, relative to it: each is within size · 2⁻⁵³ of the
// exact one. A draw compares two sums, one of them times a rounded factor: eight times that has room for all. The tests also
// make it so large that no sum is good enough.
#ifndef UNCERTAIN
#define UNCERTAIN(size) ((double)((size) + 64) * 0x1p-50)
#endif

// The scores of one row, z = logits · factor, and their maximum.
struct Scores {
  const float* logits;
  int64_t size;
  float factor, max;
};

// z − max of elements i … i + W − 1, −∞ beyond the row.
INLINE V differences(const Scores& row, int64_t i) {
  const int n = (int)smaller(W, row.size - i);
  const V logits = n < W ? load_part(row.logits + i, n, -INFINITY) : load(row.logits + i);
  return sub(mul(logits, set1(row.factor)), set1(row.max));
}
INLINE V exponentials(const Scores& row, int64_t i) { return exp_below(differences(row, i)); }

// Adds exponentials to `sum` one by one by ascending id, from `from` to `to`, until it passes `target`; returns that id. If it
// never does, the last id of a positive one, or `id`. *before is the sum without it.
static int64_t walk(const Scores& row, int64_t from, int64_t to, double target, double* sum, double* before, int64_t id) {
  for (int64_t i = from; i < to; i += W) {
    float e[W];
    store(e, exponentials(row, i));
    for (int64_t j = i; j < smaller(to, i + W); j++) {
      if (e[j - i] == 0) continue;
      *before = *sum;
      *sum += e[j - i];
      id = j;
      if (*sum > target) return id;
    }
  }
  return id;
}

// The chain's total.
static double chain_total(const Scores& row) {
  double sum = 0, before;
  walk(row, 0, row.size, INFINITY, &sum, &before, -1);
  return sum;
}

// The token of a draw u from all of a row, given sums over blocks of SUMMED.
static int64_t draw(const Scores& row, const double* sums, double total, double u) {
  const double target = total * u, room = total * UNCERTAIN(row.size);
  double sum = 0, before = 0;
  int64_t from = 0;
  for (; from + SUMMED < row.size && sum + *sums <= target; from += SUMMED) sum += *sums++;
  const int64_t id = walk(row, from, smaller(row.size, from + SUMMED), target, &sum, &before, -1);
  if (id >= 0 && target - before >= room && sum - target >= room) return id;
  sum = 0;
  return walk(row, 0, row.size, chain_total(row) * u, &sum, &before, -1);
}

// A token's log-probability in the row, given the total.
static float logprob_of(const Scores& row, int64_t id, double total) {
  const float e = exp1(row.logits[id] * row.factor - row.max);
  const double room = total * UNCERTAIN(row.size), log_e = ::log((double)e);
  const float low = (float)(log_e - ::log(total + room)), high = (float)(log_e - ::log(total - room));
  return low == high ? low : (float)(log_e - ::log(chain_total(row)));
}

// A token to rank: its key in the upper half, its id in the lower. A smaller key is a larger score.
INLINE uint64_t ranked(float z, int64_t id) {
  uint32_t u;
  const float positive_zero = z + 0.0f;  // −0 and 0 are equal
  memcpy(&u, &positive_zero, 4);
  u = u >> 31 ? u : ~u & 0x7fffffffu;
  return (uint64_t)u << 32 | (uint32_t)id;
}
INLINE float score_of(uint64_t pair) {
  uint32_t u = (uint32_t)(pair >> 32);
  u = u >> 31 ? u : ~u & 0x7fffffffu;
  float z;
  memcpy(&z, &u, 4);
  return z;
}

// Sorts pairs by their upper halves; those with equal ones keep their order. `other` has as much room.
static void sort_pairs(uint64_t* pairs, uint64_t* other, int64_t count) {
  for (int shift = 32; shift < 64; shift += 8) {
    int64_t place[257] = {};
    for (int64_t i = 0; i < count; i++) place[(pairs[i] >> shift & 255) + 1]++;
    for (int i = 0; i < 255; i++) place[i + 1] += place[i];
    for (int64_t i = 0; i < count; i++) other[place[pairs[i] >> shift & 255]++] = pairs[i];
    uint64_t* swap = pairs;
    pairs = other;
    other = swap;
  }
}

// The largest scores, at least `top_k` of them, lie at or above this one: the top_k-th largest of the maxima of disjoint
// groups of elements. Also adds up the groups' exponentials, which bounds the total from below.
static float top_k_bound(const Scores& row, int64_t top_k, uint64_t* pairs, uint64_t* other, double* least) {
  const int64_t vectors = row.size / W, wanted = ceil_div(larger(256, 4 * top_k), W);
  const int64_t span = larger(1, vectors / wanted), groups = vectors / span;
  const V factor = set1(row.factor);
  Doubles sums;
  for (int64_t g = 0; g < groups; g++) {
    V top = set1(-INFINITY);
    for (int64_t i = g * span; i < (g + 1) * span; i++) top = max(mul(load(row.logits + i * W), factor), top);
    add_to(sums, exp_below(sub(top, set1(row.max))));
    float lanes[W];
    store(lanes, top);
    for (int i = 0; i < W; i++) pairs[g * W + i] = ranked(lanes[i], 0);
  }
  const double maxima = sum_lanes(sums);
  *least = maxima > 1 ? maxima : 1;
  if (top_k <= 0 || top_k > groups * W) return -INFINITY;
  sort_pairs(pairs, other, groups * W);
  return score_of(pairs[top_k - 1]);
}

struct Truncation {
  int64_t limit;  // top-k, or all
  float top_p, min_p;
};

// Which tokens may be kept: those with z − max at or above `bound`; if that turns out to be too high, `lower`; else all.
struct Bound {
  float bound = -INFINITY, lower = -INFINITY;
  bool certain = true;  // none below `bound` is ever kept
};
static Bound bound_of(const Scores& row, const Truncation& t, uint64_t* pairs, uint64_t* other) {
  double least;
  const bool ranks = t.limit < row.size;
  const float top_k = top_k_bound(row, ranks ? t.limit : 0, pairs, other, &least) - row.max;
  Bound b{top_k, -INFINITY, !ranks};
  if (ranks && t.top_p < 1) return b;  // top-p is of all that top-k keeps
  if (t.top_p < 1) {
    // n tokens below a share (1 − top_p) / n of the total sum up to less than 1 − top_p. Hardly ever are more than 4096
    // needed to reach that.
    const double rest = 0.9 * (1 - (double)t.top_p) * least;
    const float likely = (float)::log(rest / (double)smaller(row.size, 4096));
    if (likely > b.bound) b = Bound{likely, (float)::log(rest / (double)row.size), false};
  }
  const float min_p = t.min_p > 0 ? (float)::log((double)t.min_p) - 1e-3f : -INFINITY;
  if (min_p > b.bound) b = Bound{min_p, -INFINITY, true};
  return b;
}

// Adds the tokens of a vector, elements from i on, with d = z − max at or above the bound to the pairs.
INLINE int64_t collect(const Scores& row, int64_t i, V d, V bound, uint64_t* pairs, int64_t count) {
  for (uint32_t bits = at_least(d, bound); bits; bits &= bits - 1) {
    const int64_t j = i + __builtin_ctz(bits);
    if (j < row.size) pairs[count++] = ranked(row.logits[j] * row.factor, j);
  }
  return count;
}

// How many of the `count` sorted pairs are kept, walking down from the most likely; −1 if all are and others may be too.
static int64_t kept(const Scores& row, const Truncation& t, const uint64_t* pairs, int64_t count, bool certain,
                    double total) {
  float e[W];
  int64_t computed = 0;
  const auto exponential = [&](int64_t i) {
    if (i / W + 1 != computed) {
      float d[W] = {};
      for (int64_t j = i / W * W; j < smaller(count, (i / W + 1) * W); j++) d[j % W] = score_of(pairs[j]);
      store(e, exp_below(sub(load(d), set1(row.max))));
      computed = i / W + 1;
    }
    return e[i % W];
  };
  if (count == 0) return -1;  // scores that are not numbers
  const int64_t most = smaller(t.limit, count);
  bool exact = t.limit < row.size;
  if (exact && t.top_p < 1) {
    total = 0;
    for (int64_t i = 0; i < most; i++) total += exponential(i);
  }
  const auto reached = [&](double sum) {
    const double room = total * UNCERTAIN(row.size);
    if (!exact && sum < t.top_p * (total + room) && sum >= t.top_p * (total - room)) {
      total = chain_total(row);
      exact = true;
    }
    return sum >= t.top_p * total;
  };
  const float first = exponential(0);
  double sum = 0;
  for (int64_t i = 0; i < most; i++) {
    const float probability = exponential(i);
    if (i > 0 && t.min_p > 0 && probability < t.min_p * first) return i;
    if (i > 0 && t.top_p < 1 && reached(sum)) return i;
    sum += probability;
  }
  return count < t.limit && !certain ? -1 : most;
}

// Of the tokens in `pairs`, `count` of them `above` a bound, by ascending id: the one that u draws after truncation, and its
// log-probability.
static int64_t draw_truncated(const Scores& row, const Truncation& t, uint64_t* pairs, uint64_t* other, int64_t count,
                              const Bound& above, double total, double u, float* logprob) {
  sort_pairs(pairs, other, count);
  int64_t left = kept(row, t, pairs, count, above.certain, total);
  for (float bound = above.lower; left < 0; bound = -INFINITY) {
    const bool all = bound == -INFINITY;
    count = 0;
    if (all)
      for (; count < row.size; count++) pairs[count] = ranked(row.logits[count] * row.factor, count);
    else
      for (int64_t i = 0; i < row.size; i += W) count = collect(row, i, differences(row, i), set1(bound), pairs, count);
    sort_pairs(pairs, other, count);
    left = kept(row, t, pairs, count, all, total);
  }
  for (int64_t i = 0; i < left; i++) pairs[i] = pairs[i] << 32 | pairs[i] >> 32;
  sort_pairs(pairs, other, left);
  float* e = (float*)other;
  for (int64_t i = 0; i < left; i++) e[i] = score_of(pairs[i] << 32);
  total = 0;
  for (int64_t i = 0; i < left; i += W) {
    const int n = (int)smaller(W, left - i);
    store_upto(e + i, exp_below(sub(load_upto(e + i, n), set1(row.max))), n);
    for (int64_t j = i; j < i + n; j++) total += e[j];
  }
  double sum = 0;
  int64_t place = 0;
  for (int64_t i = 0; i < left && sum <= total * u; i++) {
    if (e[i] == 0) continue;
    sum += e[i];
    place = i;
  }
  *logprob = (float)(::log((double)e[place]) - ::log(total));
  return (int64_t)(pairs[place] >> 32);
}

// Bytes of a slot of a thread's scratch memory: penalized logits (0), ranked tokens and room to sort them (1, 2).
INLINE int64_t sample_scratch(int slot, int64_t V) { return slot == 0 ? 4 * V : 8 * larger(V, 1); }

// The row with the repetition penalty on marked tokens.
static Scores penalized(const Scores& row, const uint32_t* marks, float penalty) {
  float* logits = (float*)thread_scratch(0, sample_scratch(0, row.size));
  memcpy(logits, row.logits, sizeof(float) * row.size);
  for (int64_t word = 0; word * 32 < row.size; word++)
    for (uint32_t bits = marks[word]; bits; bits &= bits - 1) {
      const int64_t i = word * 32 + __builtin_ctz(bits);
      if (i < row.size) logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
    }
  return Scores{logits, row.size, row.factor, row_max(logits, row.size, row.factor)};
}

INLINE int64_t first_maximum(const Scores& row) {
  int64_t i = 0;
  while (row.logits[i] * row.factor != row.max) i++;
  return i;
}

void sample(int32_t* ids, float* logprob, float* sampling_logprob, const float* logits, const int32_t* logit_row,
            const int32_t* counters, uint32_t* seen, int32_t B, int32_t size, uint32_t seed, uint32_t stream,
            int32_t greedy, float inverse_temperature, int32_t top_k, float top_p, float min_p,
            float repetition_penalty) {
  const bool penalize = seen != nullptr;
  const Truncation truncation{top_k > 0 && top_k < size ? top_k : size, top_p, min_p};
  const bool truncate = !greedy && (top_k > 0 || top_p < 1.0f || min_p > 0.0f);
  parallel(B, [&](int64_t b) {
    const int32_t* counter = counters + b * 5;
    uint32_t* marks = penalize ? seen + counter[4] * ceil_div(size, 32) : nullptr;
    uint64_t* pairs = (uint64_t*)thread_scratch(1, sample_scratch(1, size));
    uint64_t* other = (uint64_t*)thread_scratch(2, sample_scratch(2, size));
    const float* own = logits + logit_row[b] * (int64_t)size;
    const Scores plain{own, size, inverse_temperature, row_max(own, size, inverse_temperature)};
    Scores row = plain;
    RowStatistics full;
    if (penalize) {
      full = row_statistics(own, size, inverse_temperature, plain.max, [](int64_t, V, V) {});
      row = penalized(plain, marks, repetition_penalty);
    }
    // One pass over the row: its statistics, and sums in blocks, or the tokens that may be kept.
    Doubles block;
    double* const sums = (double*)other;
    double total = 0;
    int64_t count = 0;
    Bound kept_above;
    RowStatistics drawn;
    if (truncate) {
      kept_above = bound_of(row, truncation, pairs, other);
      const V bound = set1(kept_above.bound);
      drawn = row_statistics(row.logits, size, inverse_temperature, row.max, [&](int64_t i, V d, V e) {
        add_to(block, e);
        count = collect(row, i, d, bound, pairs, count);
      });
      total = sum_lanes(block);
    } else {
      int64_t done = 0;
      drawn = row_statistics(row.logits, size, inverse_temperature, row.max, [&](int64_t i, V, V e) {
        add_to(block, e);
        if ((i + W) % SUMMED != 0 && i + W < size) return;
        total += sums[done++] = sum_lanes(block);
        block = Doubles{};
      });
    }
    if (!penalize) full = drawn;
    if (!(full.lse - full.lse == 0) || !(row.max - row.max == 0)) {  // NaN or infinite
      ids[b] = -1;
      logprob[b] = sampling_logprob[b] = full.lse;
      return;
    }
    const double u = philox_uniform((uint32_t)counter[0], (uint32_t)counter[1], (uint32_t)counter[2],
                                    (uint32_t)counter[3], seed, stream);
    int64_t id;
    if (truncate)
      id = draw_truncated(row, truncation, pairs, other, count, kept_above, total, u, &sampling_logprob[b]);
    else
      id = greedy ? first_maximum(row) : draw(row, sums, total, u);
    ids[b] = (int32_t)id;
    logprob[b] = row_logprob(own, id, inverse_temperature, full);
    if (!truncate)
      sampling_logprob[b] = penalize ? logprob_of(row, id, total) : logprob[b];
    if (penalize) marks[id >> 5] |= 1u << (id & 31);
  });
}

}  // namespace KERNEL_PATH
