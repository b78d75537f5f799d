// The gradient of attention_forward:
//
//   attention_backward  dq, dk, dv =
//
// P = exp(scale · q·k − lse), dP = dout · v, dS = scale · P ∘ (dP − D) with D = dout · out, row by row;
// dv = Pᵀ dout, dq = dS k, dk = dSᵀ q.
//
// A task is a pair of blocks of a segment's keys and one key-value head: it computes their dk and dv, over the segment's
// own queries and then, if it is a prompt, over each of its completions' in their order. On the way it adds its share to
// dq. A query's shares come in the order of its keys: a task waits until `done` of its queries says that it is its turn.
// Tasks are taken in an order in which none waits for a later one.
#include <sched.h>

#include "attention.h"

namespace KERNEL_PATH {

// Rows of queries at a time. Sums over them are longer than over ROWS, and still stay close.
static constexpr int64_t GRADIENT_ROWS = 96 / MR * MR;

// Blocks of keys that share what is read of queries, and the keys in them.
static constexpr int64_t PAIR = 2, PAIR_KEYS = PAIR * KEYS;

INLINE int64_t gradient_tokens(int64_t group) { return larger(1, GRADIENT_ROWS / group); }

// The planned scratch is unused: a prompt's sums stay with the thread that computes them.
int64_t attention_scratch_elements(int32_t, int32_t) { return 1; }

// The arguments of attention_backward, of type TX, and what its tasks share.
template <class TX>
struct Gradient {
  float *dq, *dk, *dv;
  const float* dout;
  const TX *q, *k, *v, *out;
  const float* lse;
  const int32_t* segments;
  int64_t S, H, Hkv, group, Dh, Dp;
  int64_t window;  // tokens that a token attends to, itself included
  int64_t ldq, ldo;
  float scale;
  float* dots;    // (T, H): D
  int32_t* done;  // (blocks of queries of all segments, Hkv): pairs of blocks of keys whose share dq has
};

// A block of keys and values of one head, and its gradients.
struct KeyBlock {
  int64_t keys;
  float* panels;        // of keys (KEYS · Dh)
  float* value_panels;  // the same of values
  float* rows;          // of keys (KEYS, Dp)
  float* gradients;     // of keys, then of values (2, KEYS, Dp)
  float* share;         // the same, over one completion
};

INLINE int64_t key_block_floats(int64_t Dh) { return KEYS * (2 * Dh + 5 * padded(Dh)); }

// Rows of queries of one head group, a block of them.
struct QueryGradients {
  int64_t count;
  float* queries;   // (count, Dp)
  float* douts;     // (count, Dp)
  float* dqueries;  // (count, Dp)
  float* p;         // (count, KEYS): q·k, then P
  float* ds;        // (count, KEYS): dP, then dS
  float* lse;       // (count)
  float* dots;      // (count)
};

INLINE int64_t query_gradient_floats(int64_t group, int64_t Dh) {
  return gradient_tokens(group) * group * (3 * padded(Dh) + 2 * KEYS + 2);
}

// Maximum bytes in a slot of a thread's scratch memory, of all attention kernels: blocks of keys, and rows that attend to
// them (0); rows of gradients (1).
INLINE int64_t attention_scratch(int slot, int64_t group, int64_t Dh) {
  const int64_t rows = group * larger(query_tokens(group), DECODED_TOGETHER);
  if (slot == 0) return 4 * larger(KEYS * (Dh + padded(Dh)) + query_floats(rows, Dh), PAIR * key_block_floats(Dh));
  return slot == 1 ? 4 * query_gradient_floats(group, Dh) : 0;
}

// The same of one thread for all, in slot 3, for T tokens: D, and at most a counter for each of them.
INLINE int64_t attention_common_scratch(int64_t H, int64_t Hkv, int64_t T) { return 4 * T * (H + Hkv); }

// p and ds of row r, q·k and dP, into P and dS, zero for the first `outside` and from `visible` on for as far as a product
// reads.
INLINE void score_gradients(const QueryGradients& rows, int64_t r, int64_t visible, int64_t outside, int64_t keys,
                            float scale) {
  const V factor = set1(scale), shift = set1(rows.lse[r]), dot = set1(rows.dots[r]);
  float *p = rows.p + r * KEYS, *ds = rows.ds + r * KEYS;
  const int64_t whole = visible / W * W;
  int64_t j = 0;
  for (; j < whole; j += W) {
    const V probability = exp(sub(mul(load(p + j), factor), shift));
    store(p + j, probability);
    store(ds + j, mul(mul(probability, sub(load(ds + j), dot)), factor));
  }
  if (j < visible) {
    const V numbers = lane_numbers(), limit = set1((float)(visible - j));
    const V score = select_less(numbers, limit, sub(mul(load(p + j), factor), shift), set1(-INFINITY));
    const V probability = exp(score);
    const V gradient = mul(mul(probability, sub(load(ds + j), dot)), factor);
    store(p + j, probability);
    store(ds + j, select_less(numbers, limit, gradient, zero()));
    j += W;
  }
  for (const int64_t end = smaller(keys, visible + MR); j < end; j += W) {
    store(p + j, zero());
    store(ds + j, zero());
  }
  for (j = 0; j < outside; j++) p[j] = ds[j] = 0;
}

// gradients (2, KEYS, Dp) of the block and dqueries += what they share. `started`: dqueries holds a sum.
template <class Visible>
INLINE void block_gradients(const QueryGradients& rows, const KeyBlock& block, float* gradients, int64_t Dh, int64_t Dp,
                            float scale, const Visible& visible, bool started) {
  for (int64_t p = 0; p * PANEL < block.keys; p++)
    for_tiles(0, rows.count, [&](int64_t r, int64_t n) {
      if (p * PANEL >= visible(r + n - 1) || (p + 1) * PANEL <= visible.hidden(r)) return;
      const int64_t panel = p * PANEL * Dh, place = r * KEYS + p * PANEL;
      tile(n, rows.p + place, KEYS, rows.queries + r * Dp, Dp, 1, block.panels + panel, PANEL, Dh, false);
      tile(n, rows.ds + place, KEYS, rows.douts + r * Dp, Dp, 1, block.value_panels + panel, PANEL, Dh, false);
    });
  for (int64_t r = 0; r < rows.count; r++) score_gradients(rows, r, visible(r), visible.hidden(r), block.keys, scale);
  for (int64_t d = 0; d < Dp; d += PANEL) {
    for_tiles(0, block.keys, [&](int64_t j, int64_t n) {
      const int64_t r = visible.first_row(j), depth = rows.count - r, at = r * KEYS + j;
      if (depth <= 0) return;
      float* target = gradients + j * Dp + d;
      tile(n, target, Dp, rows.ds + at, 1, KEYS, rows.queries + r * Dp + d, Dp, depth, true);
      tile(n, target + KEYS * Dp, Dp, rows.p + at, 1, KEYS, rows.douts + r * Dp + d, Dp, depth, true);
    });
    for_tiles(0, rows.count, [&](int64_t r, int64_t n) {
      tile(n, rows.dqueries + r * Dp + d, Dp, rows.ds + r * KEYS, KEYS, 1, block.rows + d, Dp, visible(r + n - 1), started);
    });
  }
}

// A pair of blocks of keys, or only its first, and the queries of segment s from token `from` on, to the end of their block.
// `first`: the first key's index in the segment, −1 in its prefix. `distance`: tokens from the first key to `from`. `turn`: pairs
// whose share dq gets before; *done counts them. share: the gradients are those of one completion.
template <class TX>
INLINE void pair_gradients(const Gradient<TX>& g, const KeyBlock (&pair)[PAIR], bool share, const Segment& s, int64_t h,
                           int64_t from, int64_t first, int64_t distance, int32_t turn, int32_t* done) {
  const int64_t group = g.group, Dh = g.Dh, Dp = g.Dp, at_once = gradient_tokens(group), most = at_once * group;
  const int64_t end = smaller(s.length, (from / at_once + 1) * at_once), tokens = end - from;
  float* const dq = g.dq + (s.start + from) * g.ldq + h * group * Dh;
  const int64_t outside = distance - g.window + 1;  // keys before the window of token `from`
  if (outside >= pair[0].keys + pair[1].keys) {
    while (__atomic_load_n(done, __ATOMIC_ACQUIRE) != turn) sched_yield();
    for (int64_t t = 0; turn == 0 && t < tokens; t++) memset(dq + t * g.ldq, 0, sizeof(float) * group * Dh);
    __atomic_store_n(done, turn + 1, __ATOMIC_RELEASE);
    return;
  }
  QueryGradients rows;
  rows.count = tokens * group;
  rows.queries = (float*)thread_scratch(1, 4 * query_gradient_floats(group, Dh));
  rows.douts = rows.queries + most * Dp;
  rows.dqueries = rows.douts + most * Dp;
  rows.p = rows.dqueries + most * Dp;
  rows.ds = rows.p + most * KEYS;
  rows.lse = rows.ds + most * KEYS;
  rows.dots = rows.lse + most;
  for (int64_t t = 0; t < tokens; t++) {
    const int64_t token = s.start + from + t, r = t * group;
    pack_rows(rows.queries + r * Dp, g.q + token * g.ldq + h * group * Dh, group, Dh, Dh, Dp);
    pack_rows(rows.douts + r * Dp, g.dout + token * g.ldo + h * group * Dh, group, Dh, Dh, Dp);
    memcpy(rows.lse + r, g.lse + token * g.H + h * group, sizeof(float) * group);
    memcpy(rows.dots + r, g.dots + token * g.H + h * group, sizeof(float) * group);
  }
  while (__atomic_load_n(done, __ATOMIC_ACQUIRE) != turn) sched_yield();
  if (turn > 0)
    for (int64_t t = 0; t < tokens; t++) pack_rows(rows.dqueries + t * group * Dp, dq + t * g.ldq, group, Dh, Dh, Dp);
  bool started = turn > 0;
  for (int64_t i = 0; i < PAIR && pair[i].keys > 0; i++) {
    const int64_t key = first < 0 ? -1 : first + i * KEYS, hidden = outside - i * KEYS;
    if (key >= end) break;
    if (hidden >= pair[i].keys) continue;
    with_visible(pair[i].keys, group, from, tokens, key, hidden, [&](const auto& visible) {
      block_gradients(rows, pair[i], share ? pair[i].share : pair[i].gradients, Dh, Dp, g.scale, visible, started);
    });
    started = true;
  }
  for (int64_t r = 0; r < rows.count; r++)
    memcpy(dq + r / group * g.ldq + r % group * Dh, rows.dqueries + r * Dp, sizeof(float) * Dh);
  __atomic_store_n(done, turn + 1, __ATOMIC_RELEASE);
}

// dk and dv of pair `index` of a segment's blocks of keys =, and its share of the dq of all queries that attend to it.
template <class TX>
INLINE void key_gradients(const Gradient<TX>& g, int64_t segment, int64_t index, int64_t h) {
  const int64_t Dh = g.Dh, Dp = g.Dp, first = index * PAIR_KEYS, at_once = gradient_tokens(g.group);
  const Segment s = segment_at(g.segments, segment);
  KeyBlock pair[PAIR];
  float* memory = (float*)thread_scratch(0, 4 * PAIR * key_block_floats(Dh));
  for (int64_t i = 0; i < PAIR; i++, memory += key_block_floats(Dh)) {
    const int64_t key = s.start + first + i * KEYS;
    KeyBlock& block = pair[i];
    block.keys = larger(0, smaller(KEYS, s.length - first - i * KEYS));
    block.panels = memory;
    block.value_panels = block.panels + KEYS * Dh;
    block.rows = block.value_panels + KEYS * Dh;
    block.gradients = block.rows + KEYS * Dp;
    block.share = block.gradients + 2 * KEYS * Dp;
    pack_panels(block.panels, g.k + key * g.ldq + h * Dh, block.keys, g.ldq, Dh);
    pack_panels(block.value_panels, g.v + key * g.ldq + h * Dh, block.keys, g.ldq, Dh);
    pack_rows(block.rows, g.k + key * g.ldq + h * Dh, block.keys, g.ldq, Dh, Dp);
    memset(block.gradients, 0, sizeof(float) * 2 * KEYS * Dp);
  }

  int32_t* done = g.done + h;
  for (int64_t i = 0; i < g.S; i++) {
    const Segment queries = segment_at(g.segments, i);
    const bool own = i == segment;
    if (own || (i > segment && queries.prefix_start == s.start && queries.prefix_length > first)) {
      if (!own)
        for (const KeyBlock& block : pair) memset(block.share, 0, sizeof(float) * 2 * KEYS * Dp);
      const int64_t before = own ? ceil_div(s.prefix_length, PAIR_KEYS) + index : index;
      for (int64_t t = own ? first : 0; t < queries.length; t = (t / at_once + 1) * at_once) {
        const int64_t distance = (own ? 0 : queries.prefix_length) + t - first;
        pair_gradients(g, pair, !own, queries, h, t, own ? first : -1, distance, (int32_t)before,
                       done + t / at_once * g.Hkv);
      }
      if (!own)
        for (const KeyBlock& block : pair)
          for (int64_t j = 0; j < 2 * KEYS * Dp; j += W)
            store(block.gradients + j, add(load(block.gradients + j), load(block.share + j)));
    }
    done += ceil_div(queries.length, at_once) * g.Hkv;
  }
  for (const KeyBlock& block : pair)
    for (int64_t j = 0; j < block.keys; j++) {
      const int64_t target = (s.start + first + (&block - pair) * KEYS + j) * g.ldq + h * Dh;
      memcpy(g.dk + target, block.gradients + j * Dp, sizeof(float) * Dh);
      memcpy(g.dv + target, block.gradients + (KEYS + j) * Dp, sizeof(float) * Dh);
    }
}

// Gradients are float32 here.
void attention_backward(void* dq, void* dk, void* dv, const void* dout, const void* q, const void* k, const void* v,
                        const void* out, const float* lse, const int32_t* segments, float*, int32_t, int32_t S,
                        int32_t T, int32_t H, int32_t Hkv, int32_t Dh, int32_t window, int32_t ldq, int32_t ldo,
                        float scale, int32_t dtype, int32_t) {
  WITH_DTYPE(dtype, TX, {
    Gradient<TX> g{(float*)dq, (float*)dk, (float*)dv, (const float*)dout, (const TX*)q, (const TX*)k, (const TX*)v,
                   (const TX*)out, lse, segments, S, H, Hkv, H / Hkv, Dh, padded(Dh), window_tokens(window), ldq, ldo,
                   scale, nullptr, nullptr};
    int64_t pairs = 0;
    int64_t query_blocks = 0;
    for (int64_t s = 0; s < S; s++) {
      pairs += ceil_div(segments[4 * s + 1], PAIR_KEYS);
      query_blocks += ceil_div(segments[4 * s + 1], gradient_tokens(g.group));
    }
    g.dots = (float*)thread_scratch(3, 4 * ((int64_t)T * H + query_blocks * Hkv));
    g.done = (int32_t*)(g.dots + (int64_t)T * H);
    memset(g.done, 0, sizeof(int32_t) * query_blocks * Hkv);
    parallel(ceil_div(T, 16), [&](int64_t task) {
      for (int64_t i = task * 16 * H; i < smaller(T, task * 16 + 16) * H; i++) {
        const int64_t at = i / H * ldo + i % H * Dh;
        V dot = zero();
        for (int64_t d = 0; d < Dh; d += W) {
          const int n = (int)smaller(W, Dh - d);
          dot = fma(load_upto(g.dout + at + d, n), load_upto(g.out + at + d, n), dot);
        }
        g.dots[i] = sum_lanes(dot);
      }
    });
    int64_t taken = 0;
    parallel(pairs * Hkv, [&](int64_t) {
      const int64_t task = __atomic_fetch_add(&taken, 1, __ATOMIC_RELAXED);
      int64_t index = task / Hkv, s = 0;
      for (; index >= ceil_div(segments[4 * s + 1], PAIR_KEYS); s++) index -= ceil_div(segments[4 * s + 1], PAIR_KEYS);
      key_gradients(g, s, index, task % Hkv);
    });
  });
}

}  // namespace KERNEL_PATH
