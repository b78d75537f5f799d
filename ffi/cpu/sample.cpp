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
  uint64_t* const sorted = pairs;
  for (int shift = 32; shift < 64 && count > 0; shift += 8) {
    int64_t place[257] = {};
    for (int64_t i = 0; i < count; i++) place[(pairs[i] >> shift & 255) + 1]++;
    if (place[(pairs[0] >> shift & 255) + 1] == count) continue;  // all are equal there
    for (int i = 0; i < 255; i++) place[i + 1] += place[i];
    for (int64_t i = 0; i < count; i++) other[place[pairs[i] >> shift & 255]++] = pairs[i];
    uint64_t* swap = pairs;
    pairs = other;
    other = swap;
  }
  if (pairs != sorted) memcpy(sorted, pairs, sizeof(uint64_t) * count);
}

// The maxima of disjoint groups of a row's elements, each group a lane of `span` vectors, and of the whole row.
struct Maxima {
  int64_t count;
  float* at;
  float max;
};
INLINE Maxima maxima_of(const float* logits, int64_t size, float inverse_temperature, int64_t wanted, float* at) {
  const int64_t vectors = size / W, span = larger(1, vectors / ceil_div(wanted, W)), groups = vectors / span;
  const V factor = set1(inverse_temperature);
  V top = set1(-INFINITY);
  for (int64_t g = 0; g < groups; g++) {
    V of_group[4] = {set1(-INFINITY), set1(-INFINITY), set1(-INFINITY), set1(-INFINITY)};
    int64_t i = g * span;
    for (; i + 4 <= (g + 1) * span; i += 4)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) of_group[j] = max(mul(load(logits + (i + j) * W), factor), of_group[j]);
    for (; i < (g + 1) * span; i++) of_group[0] = max(mul(load(logits + i * W), factor), of_group[0]);
    const V all = max(max(of_group[0], of_group[1]), max(of_group[2], of_group[3]));
    store(at + g * W, all);
    top = max(all, top);
  }
  const int64_t rest = groups * span * W;
  const float beyond = rest < size ? row_max(logits + rest, size - rest, inverse_temperature) : -INFINITY;
  const float max = max_lanes(top);
  return {groups * W, at, beyond > max ? beyond : max};
}

// How far an exponential's logarithm is from its difference, and more.
static constexpr float MIN_P_ROOM = 1e-3f;
// Rows of at least so many elements may be searched by a window.
static constexpr int64_t WINDOWED = 8192;
// Disjoint groups whose maxima tell how flat a row is.
static constexpr int64_t GROUPS = 1024;

struct Truncation {
  int64_t limit;  // top-k, or all
  float top_p, min_p;
};

// Which tokens may be kept: those with z − max at or above `bound`; if that turns out to be too high, `lower`; else all.
struct Bound {
  float bound = -INFINITY, lower = -INFINITY;
  bool certain = true;  // none below `bound` is ever kept
};
static Bound bound_of(const Scores& row, const Truncation& t, const Maxima& maxima, uint64_t* pairs, uint64_t* other) {
  const bool ranks = t.limit < row.size;
  Bound b{-INFINITY, -INFINITY, !ranks};
  // The top_k-th largest of the maxima is no larger than the top_k-th largest score.
  if (ranks && t.limit <= maxima.count) {
    for (int64_t i = 0; i < maxima.count; i++) pairs[i] = ranked(maxima.at[i], 0);
    sort_pairs(pairs, other, maxima.count);
    b.bound = score_of(pairs[t.limit - 1]) - row.max;
  }
  if (ranks && t.top_p < 1) return b;  // top-p is of all that top-k keeps
  if (t.top_p < 1) {
    // The maxima's exponentials bound the total from below. n tokens below a share (1 − top_p) / n of the total sum up to
    // less than 1 − top_p. Hardly ever are more than 4096 needed to reach that.
    Doubles sums;
    for (int64_t i = 0; i < maxima.count; i += W) add_to(sums, exp_below(sub(load(maxima.at + i), set1(row.max))));
    const double known = sum_lanes(sums), least = known > 1 ? known : 1;
    const double rest = 0.9 * (1 - (double)t.top_p) * least;
    const float likely = (float)::log(rest / (double)smaller(row.size, 4096));
    if (likely > b.bound) b = Bound{likely, (float)::log(rest / (double)row.size), false};
  }
  const float min_p = t.min_p > 0 ? (float)::log((double)t.min_p) - MIN_P_ROOM : -INFINITY;
  if (min_p > b.bound) b = Bound{min_p, -INFINITY, true};
  return b;
}

// Whether so many tokens lie above the bound that sorting them would take most of the time: as many as the share of groups
// with one above it lets expect.
INLINE bool many_above(const Scores& row, const Bound& b, const Maxima& maxima) {
  constexpr double MANY = 1500;
  if (row.size < WINDOWED) return false;
  int64_t without = 0;
  for (int64_t i = 0; i < maxima.count; i++) without += maxima.at[i] - row.max < b.bound;
  return ::log((double)maxima.count / (double)larger(without, 1)) * (double)maxima.count > MANY;
}

// z − max of the tokens among which top-p or min-p finds its last one: those from `high` on are before it, those below `low`
// after it. An estimate, from a part of the row.
struct Window {
  float low, high;
};
static Window window_of(const Scores& row, const Truncation& t, float* scratch) {
  Window w{-88.0f, INFINITY};  // where exponentials are 0
  if (t.top_p < 1) {
    // Every 16th vector: exponentials and their squares by how far the score is below the largest.
    constexpr int BINS = 512, APART = 16;
    constexpr float REACH = 32.0f;
    float* const below = scratch;
    float* const e = scratch + row.size / APART + W;
    int64_t count = 0;
    V most = zero();
    for (int64_t i = 0; i + W <= row.size; i += APART * W, count += W) {
      const V d = differences(row, i), by = min(set1(REACH), sub(zero(), d));
      most = max(by, most);
      store(below + count, by);
      store(e + count, exp_below(d));
    }
    const float deepest = max_lanes(most), scale = deepest > 0 ? (BINS - 1) / deepest : 0;
    float masses[BINS] = {}, squares[BINS] = {};
    double total = 0;
    for (int64_t i = 0; i < count; i++) {
      const int bin = (int)(below[i] * scale) & (BINS - 1);  // whatever a NaN gives
      masses[bin] += e[i];
      squares[bin] += e[i] * e[i];
    }
    for (int i = 0; i < BINS; i++) total += masses[i];
    // Of a share F above a cut, a part of the row says F with a variance of Σ (e · ((above ? 1 : 0) − F))² / total².
    const double share = t.top_p;
    double before = 0, above = 0, squares_above = 0, squares_below = 0;
    for (int i = 0; i < BINS; i++) squares_below += squares[i];
    int bin = 0;
    for (; bin < BINS - 1 && above + masses[bin] < share * total; bin++) {
      above += masses[bin];
      squares_above += squares[bin];
    }
    squares_below -= squares_above;
    const double off = 4 * __builtin_sqrt((1 - share) * (1 - share) * squares_above + share * share * squares_below);
    int first = 0, last = bin;
    for (; first < bin && before + masses[first] < share * total - off; first++) before += masses[first];
    for (; last < BINS - 1 && above < share * total + off; last++) above += masses[last];
    if (first > 0) w.high = -(float)first / scale;
    if (last < BINS - 1) w.low = -(float)last / scale;
  }
  if (t.min_p > 0) {
    const float cut = (float)::log((double)t.min_p), high = cut + MIN_P_ROOM, low = cut - MIN_P_ROOM;
    // Whichever cut comes first counts.
    if (!(t.top_p < 1)) w = {low, high};
    else w = {low > w.low ? low : w.low, high > w.high ? high : w.high};
  }
  return w;
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

// What is known of a row after one reading of it with a window: the tokens in it (scores, exponentials, ids) by ascending id,
// and the sums of those above it, over blocks of SUMMED.
struct Windowed {
  float *z, *e;
  int32_t* ids;
  double* sums;
  int32_t* ends;  // of each block's tokens in the window
  uint64_t* sorted;
  int64_t sortable;
  int64_t count = 0;
  double total = 0;

  // In two slots of sample_scratch.
  static Windowed in(uint64_t* first, uint64_t* second, int64_t size) {
    const int64_t blocks = ceil_div(size, SUMMED), half = ceil_div(size, 2) + W, rest = (size - half - 2 * blocks) / 2;
    return {(float*)first, (float*)first + size + W, (int32_t*)second, (double*)(second + half), (int32_t*)(second + half + blocks),
            second + half + 2 * blocks, rest};
  }
};
INLINE V lane_ids(int64_t i) {
  int32_t ids[W];
  for (int lane = 0; lane < W; lane++) ids[lane] = (int32_t)i + lane;
  V v;
  memcpy(&v, ids, sizeof v);
  return v;
}
INLINE void window_collect(const Scores& row, const Window& w, int64_t i, V d, V e, Windowed& in) {
  const uint32_t bits = at_least(d, set1(w.low)) & ~at_least(d, set1(w.high));
  const int n = (int)smaller(W, row.size - i);
  const V z = mul(n < W ? load_part(row.logits + i, n, -INFINITY) : load(row.logits + i), set1(row.factor));
  compress(in.z + in.count, z, bits);
  compress(in.e + in.count, e, bits);
  compress((float*)in.ids + in.count, lane_ids(i), bits);
  in.count += __builtin_popcount(bits);
}

// The last kept token of a window, as a pair; 0 if it is not certain that it is there.
static uint64_t last_kept(const Scores& row, const Truncation& t, const Window& w, const Windowed& in, double above) {
  const double room = in.total * UNCERTAIN(row.size), enough = t.top_p < 1 ? t.top_p * in.total : INFINITY;
  const auto uncertain = [&](double sum) { return t.top_p < 1 && sum < enough + room && sum >= enough - room; };
  if (above >= enough - room) return 0;
  // Bins of equal width first, so that only the tokens of one of them are sorted.
  constexpr int BINS = 256;
  float best = -INFINITY, worst = INFINITY;
  for (int64_t i = 0; i < in.count; i++) {
    best = in.z[i] > best ? in.z[i] : best;
    worst = in.z[i] < worst ? in.z[i] : worst;
  }
  const float scale = best > worst ? (BINS - 1) / (best - worst) : 0;
  const auto bin_of = [&](int64_t i) { return (int)((best - in.z[i]) * scale); };
  double masses[BINS] = {};
  float least[BINS];
  for (int i = 0; i < BINS; i++) least[i] = INFINITY;
  for (int64_t i = 0; i < in.count; i++) masses[bin_of(i)] += in.e[i];
  if (t.min_p > 0)
    for (int64_t i = 0; i < in.count; i++) least[bin_of(i)] = in.e[i] < least[bin_of(i)] ? in.e[i] : least[bin_of(i)];
  double sum = above;
  for (int bin = 0; bin < BINS && in.count > 0; bin++) {
    if (uncertain(sum + masses[bin])) return 0;
    if (sum + masses[bin] < enough && !(least[bin] < t.min_p)) {
      sum += masses[bin];
      continue;
    }
    // The cut is among these, or right before them.
    uint64_t last = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < in.count; i++)
      if (bin_of(i) == bin) {
        if (count == in.sortable) return 0;
        in.sorted[count++] = ranked(in.z[i], in.ids[i]);
      }
    sort_pairs(in.sorted, in.sorted + in.sortable, count);
    for (int64_t i = 0; i < count; i++) {
      const float e = exp1(score_of(in.sorted[i]) - row.max);
      if (e < t.min_p) break;
      last = in.sorted[i];
      sum += e;
      if (uncertain(sum)) return 0;
      if (sum >= enough) break;
    }
    return last > 0 ? last : in.sorted[0] - 1;  // none of these: all before them
  }
  // Of min-p it is certain that nothing below the window is kept.
  return t.top_p < 1 ? 0 : ranked(row.max + (w.low < -80.0f ? -80.0f : w.low), 0);
}

// As draw, among the tokens up to the pair `last`; −1 if another order of its sums could give another token.
static int64_t draw_windowed(const Scores& row, uint64_t last, const Windowed& in, double u, float* logprob) {
  double total = 0;
  const float cut = score_of(last);
  int64_t at = 0;
  for (int64_t block = 0; block * SUMMED < row.size; block++) {
    Doubles kept;
    const int64_t end = in.ends[block];
    for (; at + W <= end; at += W) add_to(kept, select_less(set1(cut), load(in.z + at), load(in.e + at), zero()));
    double rest = 0;
    for (; at < end; at++) rest += in.z[at] > cut ? in.e[at] : 0.0f;
    in.sums[block] += sum_lanes(kept) + rest;
  }
  // Those with the cut's own score, by their ids.
  for (int64_t i = 0; i < in.count; i++)
    if (in.z[i] == cut && ranked(cut, in.ids[i]) <= last) in.sums[in.ids[i] / SUMMED] += in.e[i];
  for (int64_t block = 0; block * SUMMED < row.size; block++) total += in.sums[block];
  const double target = total * u, room = total * UNCERTAIN(row.size);
  double sum = 0, before = 0;
  int64_t block = 0;
  while ((block + 1) * SUMMED < row.size && sum + in.sums[block] <= target) sum += in.sums[block++];
  const int64_t to = smaller(row.size, (block + 1) * SUMMED);
  for (int64_t i = block * SUMMED; i < to; i += W) {
    float e[W];
    store(e, exponentials(row, i));
    for (int64_t j = i; j < smaller(to, i + W); j++) {
      if (e[j - i] == 0 || ranked(row.logits[j] * row.factor, j) > last) continue;
      before = sum;
      sum += e[j - i];
      if (!(sum > target)) continue;
      const double log_e = ::log((double)e[j - i]);
      const float low = (float)(log_e - ::log(total + room)), high = (float)(log_e - ::log(total - room));
      *logprob = low;
      return target - before >= room && sum - target >= room && low == high ? j : -1;
    }
  }
  return -1;
}

// Bytes of a slot of a thread's scratch memory: penalized logits (0), ranked tokens and room to sort them (1, 2).
INLINE int64_t sample_scratch(int slot, int64_t V) { return slot == 0 ? 4 * V : 8 * larger(V, 1); }

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
    Scores row{own, size, inverse_temperature, -INFINITY};
    RowStatistics full;
    if (penalize) {
      full = row_statistics(own, size, inverse_temperature);
      row.logits = penalized(row, marks, repetition_penalty);
    }
    // One pass over the row: its statistics, and sums in blocks, or the tokens that may be kept.
    Doubles block;
    double* const sums = (double*)other;
    double total = 0;
    int64_t count = 0;
    Bound kept_above;
    RowStatistics drawn;
    Window window;
    Windowed windowed;
    bool by_window = false;
    if (truncate) {
      const bool ranks = truncation.limit < size;
      const Maxima maxima = maxima_of(row.logits, size, inverse_temperature, ranks ? larger(256, 4 * top_k) : GROUPS,
                                      (float*)other);
      row.max = maxima.max;
      kept_above = bound_of(row, truncation, maxima, pairs, other);
      by_window = !ranks && many_above(row, kept_above, maxima);
    } else {
      row.max = row_max(row.logits, size, inverse_temperature);
    }
    if (by_window) {
      window = window_of(row, truncation, (float*)other);
      windowed = Windowed::in(pairs, other, size);
      const V high = set1(window.high);
      int64_t done = 0;
      Doubles above;
      drawn = row_statistics(row.logits, size, inverse_temperature, row.max, [&](int64_t i, V d, V e) {
        add_to(block, e);
        add_to(above, select_less(d, high, zero(), e));
        window_collect(row, window, i, d, e, windowed);
        if ((i + W) % SUMMED != 0 && i + W < size) return;
        windowed.ends[done] = (int32_t)windowed.count;
        total += windowed.sums[done++] = sum_lanes(above);
        above = Doubles{};
      });
      windowed.total = sum_lanes(block);
    } else if (truncate) {
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
    int64_t id = -1;
    if (by_window) {
      const uint64_t last = last_kept(row, truncation, window, windowed, total);
      if (last > 0) id = draw_windowed(row, last, windowed, u, &sampling_logprob[b]);
      if (id < 0) kept_above = Bound{};  // by all tokens instead
      total = windowed.total;
    }
    if (id >= 0) {
    } else if (truncate)
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
