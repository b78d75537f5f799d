// The row that sample.cu draws from: scores after penalty and temperature, their ranks and masses, and the search for
// the last token that top-k or top-p keeps.
#pragma once
#include "softmax.cuh"

constexpr float MASS_ONE = 17592186044416.0f;  // 2⁴⁴: of e = 1; the sum of 2¹⁹ tokens fits 64 bits
constexpr u64 LAST_RANK = ~0ull;

// The tokens' order: descending score, then ascending id. Lower ranks come first.
INLINE u32 descending(float z) {
  const u32 bits = __float_as_uint(z + 0.0f);  // −0 is 0
  return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}
INLINE u64 rank_of(float z, int id) { return (u64)descending(z) << 32 | (u32)id; }

struct Row {
  const float* logits;
  const u32* marks;  // bit set of the tokens seen, or null
  int size;
  float inverse_temperature, penalty, top;  // top: the largest score

  INLINE float score(float logit, u32 marked) const {
    if (marked & 1) logit = logit > 0 ? __fdiv_rn(logit, penalty) : __fmul_rn(logit, penalty);
    return __fmul_rn(logit, inverse_temperature);
  }
  INLINE float score(int id) const { return score(logits[id], marks ? marks[id >> 5] >> (id & 31) : 0); }

  // exp(z − top) as a whole number
  INLINE u64 mass(float z) const { return __float2ull_rn(expf(__fsub_rn(z, top)) * MASS_ONE); }

  INLINE Unit<SOFTMAX_UNIT> unit(int i) const {
    return load_unit<SOFTMAX_UNIT>(logits + i, size - i, aligned<SOFTMAX_UNIT>(logits));
  }

  // body(id, score) of the units at first, first + step, … below last; first and step are whole units. The next unit is
  // under way while one is worked on. Bodies are long and not repeated: it is the loads that take the time.
  template <class Body>
  INLINE void each(int first, int last, int step, const Body& body) const {
    if (first >= last) return;
    Unit<SOFTMAX_UNIT> next = unit(first);
    for (int i = first; i < last; i += step) {
      Unit<SOFTMAX_UNIT> u = next;
      u32 marked = marks ? marks[i >> 5] >> (i & 31) : 0;
      if (i + step < last) next = unit(i + step);
      const int end = smaller(i + SOFTMAX_UNIT, last);
#pragma unroll 1
      for (int id = i; id < end; id++) {
        body(id, score(u.at[0], marked));
        for (int j = 1; j < SOFTMAX_UNIT; j++) u.at[j - 1] = u.at[j];
        marked >>= 1;
      }
    }
  }
};

// What is drawn from: tokens up to a rank, and of those the ones with at least `least` of the largest probability.
struct Kept {
  u64 last;
  float least;

  INLINE u64 mass(const Row& row, int id, float z) const {
    if (last != LAST_RANK && rank_of(z, id) > last) return 0;
    if (least > 0 && z != row.top && expf(__fsub_rn(z, row.top)) < least) return 0;
    return row.mass(z);
  }
};

constexpr int BINS = 1024;
constexpr int CANDIDATES = 64;  // that are ranked against each other instead of being cut further

struct Shared {
  float floats[WARP];
  int ints[WARP];
  u64 sums[WARP];
  u32 counts[BINS];                // tokens of a bin
  u32 low[BINS], high[BINS];       // halves of their mass
  u64 ranks[CANDIDATES], measures[CANDIDATES];
  u64 before, last;
  int bin, candidates, listed;
};

INLINE u64 kept_mass(const Row& row, const Kept& kept, Shared& shared) {
  u64 sum = 0;
  row.each(threadIdx.x * SOFTMAX_UNIT, row.size, blockDim.x * SOFTMAX_UNIT,
           [&](int id, float z) { sum += kept.mass(row, id, z); });
  return block_reduce(sum, Add(), shared.sums);
}

// What tokens are told apart by, most significant first: the score's distance from the top, which spreads them over
// the bins (multiples of 2⁻²⁰, to 32 and beyond); where that is equal, the score's bits; then the id. All of it ascends
// with the rank.
struct Token {
  u32 distance, score, id;
};

INLINE Token token_of(const Row& row, float z, int id) {
  const float distance = __fsub_rn(row.top, z);
  return {distance < 32.0f ? (u32)(distance * 1048576.0f) : (1u << 25) - 1, descending(z), (u32)id};
}

// Token by digits of 10, 10 · 8, 8, 8, 8 · 10, 10 bits. Two tokens that agree in all of them are one.
constexpr int LEVELS = 8;
INLINE bool of_score(int level) { return level >= 2 && level < 6; }
INLINE int digit_shift(int level) {
  return of_score(level) ? 8 * (5 - level) : level == 0 ? 15 : level == 1 ? 5 : level == 6 ? 10 : 0;
}
INLINE u32 digit_mask(int level) { return of_score(level) ? 255 : 1023; }
INLINE u32 digit(const Token& t, int level) {
  return (of_score(level) ? t.score : level < 2 ? t.distance : t.id) >> digit_shift(level) & digit_mask(level);
}

// The first digits of the token looked for.
struct Prefix {
  Token digits, mask;

  INLINE void extend(int level, u32 bin) {
    const u32 bits = bin << digit_shift(level), known = digit_mask(level) << digit_shift(level);
    if (of_score(level))
      digits.score |= bits, mask.score |= known;
    else if (level < 2)
      digits.distance |= bits, mask.distance |= known;
    else
      digits.id |= bits, mask.id |= known;
  }
  INLINE bool begins(const Token& t) const {
    return !((t.distance ^ digits.distance) & mask.distance | (t.score ^ digits.score) & mask.score |
             (t.id ^ digits.id) & mask.id);
  }
};

// Finds the bin at which the running measure reaches `target`, and notes what lies before it. One warp does.
INLINE void pick_bin(bool by_mass, u64 target, Shared& shared) {
  constexpr int EACH = BINS / WARP;
  const int first = threadIdx.x * EACH;
  auto measure = [&](int bin) { return by_mass ? (u64)shared.high[bin] << 32 | shared.low[bin] : shared.counts[bin]; };
  u64 sum = 0;
  for (int i = 0; i < EACH; i++) sum += measure(first + i);
  u64 running = shared.before + lanes_scan(sum) - sum;
  __syncwarp();
  if (!(running < target && target <= running + sum)) return;
  int bin = first;
  while (running + measure(bin) < target) running += measure(bin++);
  shared.before = running;
  shared.bin = bin;
  shared.candidates = shared.counts[bin];
}

// The rank of the token at which the running measure of tokens ranked up to `bound` reaches `target`: a count of
// tokens, or a mass. There must be as much.
template <bool BY_MASS>
INLINE u64 last_kept(const Row& row, u64 bound, u64 target, Shared& shared) {
  const int first = threadIdx.x * SOFTMAX_UNIT, step = blockDim.x * SOFTMAX_UNIT;
  Prefix prefix = {};
  // body(token, measure) of the tokens with this prefix that measure anything
  auto each = [&](const auto& body) {
    row.each(first, row.size, step, [&](int id, float z) {
      const Token token = token_of(row, z, id);
      if (!prefix.begins(token) || rank_of(z, id) > bound) return;
      const u64 measure = BY_MASS ? row.mass(z) : 1;
      if (measure > 0) body(token, measure);
    });
  };
  if (threadIdx.x == 0) shared.before = 0, shared.listed = 0;
  int candidates = row.size;
  for (int level = 0; level < LEVELS && candidates > CANDIDATES; level++) {
    for (int i = threadIdx.x; i < BINS; i += blockDim.x) {
      shared.counts[i] = 0;
      if (BY_MASS) shared.low[i] = shared.high[i] = 0;
    }
    __syncthreads();
    each([&](const Token& token, u64 measure) {
      const u32 bin = digit(token, level);
      atomicAdd(&shared.counts[bin], 1u);
      if (!BY_MASS) return;
      const u32 low = (u32)measure, old = atomicAdd(&shared.low[bin], low);
      const u32 high = (u32)(measure >> 32) + (old + low < old);  // carried by the one addition that overflows
      if (high > 0) atomicAdd(&shared.high[bin], high);
    });
    __syncthreads();
    if (threadIdx.x < WARP) pick_bin(BY_MASS, target, shared);
    __syncthreads();
    prefix.extend(level, shared.bin);
    candidates = shared.candidates;
  }
  __syncthreads();
  each([&](const Token& token, u64 measure) {
    const int place = atomicAdd(&shared.listed, 1);
    shared.ranks[place] = (u64)token.score << 32 | token.id;
    shared.measures[place] = measure;
  });
  __syncthreads();
  const int count = shared.listed;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const u64 rank = shared.ranks[i];
    u64 running = shared.before;
    for (int j = 0; j < count; j++)
      if (shared.ranks[j] < rank) running += shared.measures[j];
    if (running < target && target <= running + shared.measures[i]) shared.last = rank;
  }
  __syncthreads();
  const u64 last = shared.last;
  __syncthreads();  // all of it may be written again
  return last;
}
