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

// The maxima of disjoint groups of a row's elements, each group a lane of some vectors, and the maximum of the row.
struct Maxima {
  int64_t count;
  const float* at;
  float max;
};
static Maxima maxima_of(const float* logits, int64_t size, float inverse_temperature, int64_t wanted, float* at) {
  const int64_t vectors = size / W, span = larger(1, vectors / ceil_div(wanted, W)), groups = vectors / span;
  const V factor = set1(inverse_temperature);
  V top = set1(-INFINITY);
  for (int64_t g = 0; g < groups; g++) {
    V own[4] = {set1(-INFINITY), set1(-INFINITY), set1(-INFINITY), set1(-INFINITY)};
    int64_t i = g * span;
    for (; i + 4 <= (g + 1) * span; i += 4)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) own[j] = max(mul(load(logits + (i + j) * W), factor), own[j]);
    for (; i < (g + 1) * span; i++) own[0] = max(mul(load(logits + i * W), factor), own[0]);
    const V all = max(max(own[0], own[1]), max(own[2], own[3]));
    store(at + g * W, all);
    top = max(all, top);
  }
  const int64_t done = groups * span * W;
  const float rest = done < size ? row_max(logits + done, size - done, inverse_temperature) : -INFINITY;
  const float first = max_lanes(top);
  return {groups * W, at, rest > first ? rest : first};
}

struct Truncation {
  int64_t limit;  // top-k, or all
  float top_p, min_p;

  bool selects(int64_t size) const { return top_p < 1 && limit >= size && !(min_p > 0); }  // top-p alone truncates
};

// Which tokens may be kept: those with z − max at or above `bound`; if that turns out to be too high, `lower`; else all.
struct Bound {
  float bound = -INFINITY, lower = -INFINITY;
  bool certain = true;  // none below `bound` is ever kept
};

// A score, relative to the largest, below which tokens sum up to no more than `share` of the row, as a part of the row lets expect; at
// least `lowest`, for which that is certain. Of the row, tokens that sum up to `known` are at or above `least`.
static float tail_bound(const Scores& row, double share, double known, float least, float lowest) {
  constexpr int BINS = 64;
  constexpr int64_t APART = 1024;  // elements from one vector that is looked at to the next
  constexpr double TIMES = (double)APART / W;
  float masses[2][BINS] = {}, at[W], e[W];
  const V from = set1(lowest), scale = set1(BINS / -lowest), last = set1(BINS - 1);
  for (int64_t i = 0; i + W <= row.size; i += APART) {
    const V d = differences(row, i);
    store(at, min(max(mul(sub(d, from), scale), zero()), last));  // 0 for what is no number
    store(e, exp_below(d));
    for (int j = 0; j < W; j++) masses[j & 1][(int)at[j]] += e[j];
  }
  // What a part of the row sums up to, times TIMES, has a variance of at most TIMES² · sum · the largest of its terms: three
  // standard deviations.
  const double width = -(double)lowest / BINS;
  const auto deviations = [&](double sum, int bin) {
    return 3 * TIMES * ::sqrt(sum * exp1((float)(lowest + (bin + 1) * width)));
  };
  double sum = 0;
  int bin = 0;
  for (; bin < BINS - 1 && lowest + (bin + 1) * width < least; bin++) sum += masses[0][bin] + masses[1][bin];
  const double others = bin > 0 ? TIMES * sum - deviations(sum, bin - 1) : 0, rest = share * (known + (others > 0 ? others : 0));
  for (sum = 0, bin = 0; bin < BINS - 1; bin++) {
    sum += masses[0][bin] + masses[1][bin];
    if (TIMES * sum + deviations(sum, bin) > rest) break;
  }
  return (float)(lowest + bin * width);
}

static Bound bound_of(const Scores& row, const Truncation& t, const Maxima& maxima, uint64_t* pairs, uint64_t* other) {
  const bool ranks = t.limit < row.size;
  Bound b{-INFINITY, -INFINITY, !ranks};
  // The largest scores, at least `limit` of them, lie at or above the limit-th largest of the maxima.
  if (ranks && t.limit <= maxima.count) {
    for (int64_t i = 0; i < maxima.count; i++) pairs[i] = ranked(maxima.at[i], 0);
    sort_pairs(pairs, other, maxima.count);
    b.bound = score_of(pairs[t.limit - 1]) - row.max;
  }
  if (ranks && t.top_p < 1) return b;  // top-p is of all that top-k keeps
  if (t.top_p < 1) {
    // The maxima bound the total from below. n tokens below a share (1 − top_p) / n of it sum up to less than 1 − top_p.
    Doubles sums;
    V least = zero();
    for (int64_t i = 0; i < maxima.count; i += W) {
      const V d = sub(load(maxima.at + i), set1(row.max));
      add_to(sums, exp_below(d));
      least = min(d, least);
    }
    const double sum = sum_lanes(sums), known = sum > 1 ? sum : 1, share = 0.9 * (1 - (double)t.top_p), rest = share * known;
    const float lowest = (float)::log(rest / (double)row.size);
    constexpr int64_t ESTIMATED = 8192;  // shorter rows are ranked as a whole in less time
    const bool estimates = row.size >= ESTIMATED && lowest > -80 && lowest < 0 && !(t.min_p > 0);
    const float likely = estimates ? tail_bound(row, share, known, -max_lanes(sub(zero(), least)), lowest)
                                   : (float)::log(rest / (double)smaller(row.size, 4096));
    b = Bound{likely, lowest, false};
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

// Which of the `count` exponentials that are kept, by ascending id, u draws, and its log-probability: the chain of the head comment.
static int64_t draw_kept(const float* e, int64_t count, double u, float* logprob) {
  double total = 0, sum = 0;
  for (int64_t i = 0; i < count; i++) total += e[i];
  int64_t place = 0;
  for (int64_t i = 0; i < count && sum <= total * u; i++) {
    if (e[i] == 0) continue;
    sum += e[i];
    place = i;
  }
  *logprob = (float)(::log((double)e[place]) - ::log(total));
  return place;
}

// The tokens of a vector, elements from i on, with d = z − max at or above the bound, by ascending id. Up to W more are written.
INLINE int64_t collect_ids(const Scores& row, int64_t i, V d, V bound, int32_t* ids, int64_t count) {
  uint32_t bits = at_least(d, bound);
  if (row.size - i < W) bits &= (1u << (row.size - i)) - 1;
#if defined(__AVX512F__)
  const __m512i own = _mm512_add_epi32(_mm512_set1_epi32((int32_t)i), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  _mm512_storeu_si512(ids + count, _mm512_maskz_compress_epi32((__mmask16)bits, own));
  return count + __builtin_popcount(bits);
#else
  for (; bits; bits &= bits - 1) ids[count++] = (int32_t)(i + __builtin_ctz(bits));
  return count;
#endif
}

// The scratch memory of a row of which top-p alone keeps a part: tokens that may be kept, by ascending id, with room for a vector.
struct Candidates {
  int32_t* ids;
  float *z, *e;     // score, and exp(score − max)
  uint8_t* bins;
  uint64_t* near;   // those of one bin, and as much room to sort them
  int64_t most;     // of them

  static Candidates in(uint64_t* pairs, uint64_t* other, int64_t size) {
    int32_t* const ids = (int32_t*)pairs;
    float* const z = (float*)other;
    uint8_t* const bins = (uint8_t*)(ids + size + W);
    const int64_t used = (4 * (size + W) + size + W + 7) / 8;
    return {ids, z, z + size, bins, pairs + used, larger(0, (size - used) / 2)};
  }
};

// Draws where top-p alone truncates, without ranking more than the tokens near its last one. `total` is of the whole row. −1 if
// the last one is not among the candidates, or another order of its sums could give another token: their ids have not changed then.
static int64_t draw_top_p(const Scores& row, float top_p, const Candidates& c, int64_t count, double total, double u,
                          float* logprob) {
  constexpr int BINS = 256;
  const double enough = top_p * total, room = total * UNCERTAIN(row.size);
  V least = set1(row.max);
  for (int64_t i = 0; i < count; i += W) {
    float z[W];
    const int n = (int)smaller(W, count - i);
    if (n == W)
      for (int j = 0; j < W; j++) z[j] = row.logits[c.ids[i + j]];
    else
      for (int j = 0; j < W; j++) z[j] = row.logits[c.ids[i + (j < n ? j : 0)]];
    const V scores = mul(load(z), set1(row.factor));
    least = min(scores, least);
    store_upto(c.z + i, scores, n);
    store_upto(c.e + i, exp_below(sub(scores, set1(row.max))), n);
  }
  // Bins of equal width. A larger score is in the same bin, or in one before.
  const float worst = -max_lanes(sub(zero(), least)), scale = row.max > worst ? (BINS - 1) / (row.max - worst) : 0;
  if (!(scale < INFINITY)) return -1;
  double masses[2][BINS] = {};
  for (int64_t i = 0; i < count; i += W) {
    float at[W];
    const int n = (int)smaller(W, count - i);
    store(at, mul(sub(set1(row.max), load_upto(c.z + i, n)), set1(scale)));
    for (int j = 0; j < n; j++) {
      const int bin = (int)at[j];
      masses[j & 1][bin] += c.e[i + j];
      c.bins[i + j] = (uint8_t)bin;
    }
  }
  double sum = 0, mass = 0;
  int bin = 0;
  for (; bin < BINS; bin++) {
    mass = masses[0][bin] + masses[1][bin];
    if (sum + mass >= enough) break;
    sum += mass;
  }
  if (bin == BINS || sum + mass < enough + room || sum >= enough - room) return -1;
  // Which of this bin's is the last: the first ones of it, by score, then by id.
  int64_t size = 0;
  for (int64_t i = 0; i < count; i++)
    if (c.bins[i] == bin) {
      if (size == c.most) return -1;  // no room to rank them
      c.near[size++] = ranked(c.z[i], c.ids[i]);
    }
  sort_pairs(c.near, c.near + size, size);
  uint64_t last = 0;
  for (int64_t i = 0; i < size && sum < enough; i++) {
    last = c.near[i];
    sum += exp1(score_of(last) - row.max);
    if (sum < enough + room && sum >= enough - room) return -1;
  }
  // Those up to the last one; without a branch.
  const float last_z = score_of(last);
  const int32_t last_id = (int32_t)(uint32_t)last;
  int64_t left = 0, i = 0;
#if defined(__AVX512F__)
  for (; i + W <= count; i += W) {
    const __m512 z = load(c.z + i), e = load(c.e + i);
    const __m512i id = _mm512_loadu_si512(c.ids + i);
    const __mmask16 equal = _mm512_cmp_ps_mask(z, set1(last_z), _CMP_EQ_OQ);
    const __mmask16 keeps = _mm512_cmp_ps_mask(z, set1(last_z), _CMP_GT_OQ) |
                            _mm512_mask_cmple_epi32_mask(equal, id, _mm512_set1_epi32(last_id));
    _mm512_storeu_si512(c.ids + left, _mm512_maskz_compress_epi32(keeps, id));
    store(c.e + left, _mm512_maskz_compress_ps(keeps, e));
    left += __builtin_popcount(keeps);
  }
#endif
  for (; i < count; i++) {
    const float z = c.z[i], e = c.e[i];
    const int32_t id = c.ids[i];
    c.ids[left] = id;
    c.e[left] = e;
    left += (z > last_z) | ((z == last_z) & (id <= last_id));
  }
  return c.ids[draw_kept(c.e, left, u, logprob)];
}

// The candidates to rank, where their ids were.
static void rank_all(const Scores& row, uint64_t* pairs, int64_t count) {
  for (int64_t i = count - 1; i >= 0; i--) {
    int32_t id;
    memcpy(&id, (const char*)pairs + i * 4, sizeof id);
    pairs[i] = ranked(row.logits[id] * row.factor, id);
  }
}

// Of the tokens in `pairs` (their ids alone if top-p alone truncates), `count` of them `above` a bound, by ascending id: the one
// that u draws after truncation, and its log-probability.
static int64_t draw_truncated(const Scores& row, const Truncation& t, uint64_t* pairs, uint64_t* other, int64_t count,
                              const Bound& above, double total, double u, float* logprob) {
  const bool selects = t.selects(row.size);
  const Candidates candidates = Candidates::in(pairs, other, row.size);
  if (selects) {
    const int64_t id = count > 0 ? draw_top_p(row, t.top_p, candidates, count, total, u, logprob) : -1;
    if (id >= 0) return id;
    rank_all(row, pairs, count);
  }
  sort_pairs(pairs, other, count);
  int64_t left = kept(row, t, pairs, count, above.certain, total);
  for (float bound = above.lower; left < 0; bound = -INFINITY) {
    const bool all = bound == -INFINITY;
    count = 0;
    if (selects && !all) {
      for (int64_t i = 0; i < row.size; i += W)
        count = collect_ids(row, i, differences(row, i), set1(bound), candidates.ids, count);
      const int64_t id = draw_top_p(row, t.top_p, candidates, count, total, u, logprob);
      if (id >= 0) return id;
      rank_all(row, pairs, count);
    } else if (all) {
      for (; count < row.size; count++) pairs[count] = ranked(row.logits[count] * row.factor, count);
    } else {
      for (int64_t i = 0; i < row.size; i += W) count = collect(row, i, differences(row, i), set1(bound), pairs, count);
    }
    sort_pairs(pairs, other, count);
    left = kept(row, t, pairs, count, all, total);
  }
  for (int64_t i = 0; i < left; i++) pairs[i] = pairs[i] << 32 | pairs[i] >> 32;
  sort_pairs(pairs, other, left);
  float* e = (float*)other;
  for (int64_t i = 0; i < left; i++) e[i] = score_of(pairs[i] << 32);
  for (int64_t i = 0; i < left; i += W) {
    const int n = (int)smaller(W, left - i);
    store_upto(e + i, exp_below(sub(load_upto(e + i, n), set1(row.max))), n);
  }
  return (int64_t)(pairs[draw_kept(e, left, u, logprob)] >> 32);
}

// Bytes of a slot of a thread's scratch memory: penalized logits (0), ranked tokens and room to sort them (1, 2).
INLINE int64_t sample_scratch(int slot, int64_t V) { return slot == 0 ? 4 * V : 8 * (larger(V, 1) + W); }

// The row's logits with the repetition penalty on marked tokens.
static const float* penalized(const Scores& row, const uint32_t* marks, float penalty) {
  float* logits = (float*)thread_scratch(0, sample_scratch(0, row.size));
  memcpy(logits, row.logits, sizeof(float) * row.size);
  for (int64_t word = 0; word * 32 < row.size; word++)
    for (uint32_t bits = marks[word]; bits; bits &= bits - 1) {
      const int64_t i = word * 32 + __builtin_ctz(bits);
      if (i < row.size) logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
    }
  return logits;
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
    // What is drawn from more than the largest scores needs its groups' maxima; they come with that of the row.
    Maxima maxima{};
    const auto scores = [&](const float* of) {
      if (!truncate) return Scores{of, size, inverse_temperature, row_max(of, size, inverse_temperature)};
      const int64_t wanted = larger(256, truncation.limit < size ? 4 * truncation.limit : 0);
      maxima = maxima_of(of, size, inverse_temperature, wanted, (float*)other);
      return Scores{of, size, inverse_temperature, maxima.max};
    };
    const Scores plain = scores(own);
    Scores row = plain;
    RowStatistics full;
    if (penalize) {
      full = row_statistics(own, size, inverse_temperature, plain.max, [](int64_t, V, V) {});
      row = scores(penalized(plain, marks, repetition_penalty));
    }
    // One pass over the row: its statistics, and sums in blocks, or the tokens that may be kept.
    Doubles block;
    double* const sums = (double*)other;
    double total = 0;
    int64_t count = 0;
    Bound kept_above;
    RowStatistics drawn;
    if (truncate) {
      kept_above = bound_of(row, truncation, maxima, pairs, other);
      const V bound = set1(kept_above.bound);
      const auto pass = [&](const auto& collected) {
        drawn = row_statistics(row.logits, size, inverse_temperature, row.max, [&](int64_t i, V d, V e) {
          add_to(block, e);
          count = collected(i, d);
        });
      };
      if (truncation.selects(size)) pass([&](int64_t i, V d) { return collect_ids(row, i, d, bound, (int32_t*)pairs, count); });
      else pass([&](int64_t i, V d) { return collect(row, i, d, bound, pairs, count); });
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
