// Causal attention with grouped queries, flash style (Dao et al. 2022): no (T, T) buffer.
//
//   attention_forward   out (T, H, Dh) =, lse (T, H) =     over packed segments
//   attention_backward  dq, dk, dv =                       for the same
//   attention_decode    out (B, H, Dh) =                   one new token per sequence, keys and values in pages
//   kv_store            stores keys and values of T tokens in pages
//
// segments (S, 4): start, length, prefix start, prefix length, all in rows of the packed tokens. A completion has its
// group's prompt as prefix and attends to all of it; a prompt has no prefix and comes before its completions.
// q, k and v are parts of one buffer: row stride ldq for all three, heads Dh apart.
//
// Keys are processed in blocks of 64, counted from the prefix's start and again from the segment's own start. A row's
// softmax state is carried from block to block in that order, and a masked key contributes exactly zero; so its bits
// are the same whether it is computed alone from the cache or among the rows of a training batch (promise 2).
//
// A page holds one block: keys as panels [Hkv][4][Dh][16], values [Hkv][64][Dh rounded up to 16].
#include <math.h>

#include "simd.h"
#include "threads.h"
#include "tile.h"

namespace KERNEL_PATH {

static constexpr int64_t KEYS = 64;         // keys in a block, tokens in a page
static constexpr int64_t QUERY_TOKENS = 64;  // tokens whose rows share a packed block of keys

INLINE int64_t padded(int64_t Dh) { return ceil_div(Dh, PANEL) * PANEL; }

int64_t key_page_elements(int32_t Hkv, int32_t Dh) { return (int64_t)Hkv * KEYS * Dh; }
int64_t value_page_elements(int32_t Hkv, int32_t Dh) { return Hkv * KEYS * padded(Dh); }
int64_t attention_scratch_elements(int32_t Hkv, int32_t Dh) { return Hkv * 2 * padded(Dh); }

// Rows of queries being processed block by block.
struct QueryRows {
  int64_t count;   // rows
  int64_t Dh, Dp;  // head size, and rounded up to 16
  float scale;
  float* q;        // (count, Dh)
  float* scores;   // (count, KEYS)
  float* acc;      // (count, Dp)
  float* max;      // (count)
  float* sum;      // (count, W): lane j sums keys j, j + W, …
};

INLINE int64_t query_floats(int64_t rows, int64_t Dh) { return rows * (Dh + KEYS + padded(Dh) + 1 + W); }

INLINE QueryRows query_rows(float* memory, int64_t rows, int64_t Dh, float scale) {
  QueryRows r{rows, Dh, padded(Dh), scale, nullptr, nullptr, nullptr, nullptr, nullptr};
  r.q = memory;
  r.scores = r.q + rows * Dh;
  r.acc = r.scores + rows * KEYS;
  r.max = r.acc + rows * r.Dp;
  r.sum = r.max + rows;
  for (int64_t i = 0; i < rows * r.Dp; i++) r.acc[i] = 0;
  for (int64_t i = 0; i < rows; i++) r.max[i] = -INFINITY;
  for (int64_t i = 0; i < rows * W; i++) r.sum[i] = 0;
  return r;
}

INLINE V lane_numbers() {
  float a[W];
  for (int i = 0; i < W; i++) a[i] = (float)i;
  return load(a);
}

// One block of keys for all rows; row r attends to the first visible(r) of its `keys`.
template <class Visible>
INLINE void attend_block(const QueryRows& rows, const float* key_panels, const float* values, int64_t keys,
                         const Visible& visible) {
  for (int64_t p = 0; p * PANEL < keys; p++)
    tiles(rows.count, rows.scores + p * PANEL, KEYS, rows.q, rows.Dh, 1, key_panels + p * rows.Dh * PANEL, PANEL,
          rows.Dh, false);
  const V numbers = lane_numbers(), scale = set1(rows.scale), hidden = set1(-INFINITY);
  for (int64_t r = 0; r < rows.count; r++) {
    const V limit = set1((float)visible(r));
    float* s = rows.scores + r * KEYS;
    V top = hidden;
    for (int64_t j = 0; j < KEYS; j += W) {
      V score = j < keys ? mul(load(s + j), scale) : hidden;
      score = select_less(add(numbers, set1((float)j)), limit, score, hidden);
      store(s + j, score);
      top = max(score, top);
    }
    float block_max = max_lanes(top), old_max = rows.max[r];
    float new_max = block_max > old_max ? block_max : old_max;
    const V shift = set1(new_max);
    const V correction = exp(sub(set1(old_max), shift));
    V sum = mul(load(rows.sum + r * W), correction);
    for (int64_t j = 0; j < KEYS; j += W) {
      V p = exp(sub(load(s + j), shift));
      store(s + j, p);
      sum = add(sum, p);
    }
    store(rows.sum + r * W, sum);
    rows.max[r] = new_max;
    float* acc = rows.acc + r * rows.Dp;
    for (int64_t d = 0; d < rows.Dp; d += W) store(acc + d, mul(load(acc + d), correction));
  }
  for (int64_t d = 0; d < rows.Dp; d += PANEL)
    tiles(rows.count, rows.acc + d, rows.Dp, rows.scores, KEYS, 1, values + d, rows.Dp, keys, true);
}

// acc / sum into out (Dh elements); returns the row's log-sum-exp.
template <class T>
INLINE float finish_row(const QueryRows& rows, int64_t r, T* out) {
  float sum = sum_lanes(load(rows.sum + r * W));
  const V inverse = set1(1.0f / sum);
  const float* acc = rows.acc + r * rows.Dp;
  for (int64_t d = 0; d < rows.Dh; d += W) {
    int n = (int)smaller(W, rows.Dh - d);
    store_upto(out + d, mul(load(acc + d), inverse), n);
  }
  return rows.max[r] + (float)::log((double)sum);
}

// Panels [4][Dh][16] of up to 64 rows with the given stride; lanes beyond `keys` are zero.
template <class T>
INLINE void pack_panels(float* panels, const T* rows, int64_t keys, int64_t stride, int64_t Dh) {
  for (int64_t p = 0; p * PANEL < keys; p++) {
    float* panel = panels + p * Dh * PANEL;
    int64_t lanes = smaller(PANEL, keys - p * PANEL);
    for (int64_t lane = 0; lane < PANEL; lane++) {
      if (lane >= lanes) {
        for (int64_t d = 0; d < Dh; d++) panel[d * PANEL + lane] = 0;
        continue;
      }
      const T* row = rows + (p * PANEL + lane) * stride;
      for (int64_t d = 0; d < Dh; d++) panel[d * PANEL + lane] = to_float(row[d]);
    }
  }
}

// Rows [keys][Dp] in float32, zero beyond Dh.
template <class T>
INLINE void pack_rows(float* target, const T* rows, int64_t keys, int64_t stride, int64_t Dh, int64_t Dp) {
  for (int64_t j = 0; j < keys; j++)
    for (int64_t d = 0; d < Dp; d += W) {
      int n = (int)(Dh - d);
      store(target + j * Dp + d, n >= W ? load(rows + j * stride + d) : n > 0 ? load_part(rows + j * stride + d, n) : zero());
    }
}

struct Segment {
  int64_t start, length, prefix_start, prefix_length;
};
INLINE Segment segment_at(const int32_t* segments, int64_t s) {
  return Segment{segments[4 * s], segments[4 * s + 1], segments[4 * s + 2], segments[4 * s + 3]};
}

// Calls body(first row of the block in the packed tokens, keys in it, its first key's index in the segment or −1 in
// the prefix) for the blocks that the first `own` tokens of the segment attend to.
template <class Body>
INLINE void for_blocks(const Segment& s, int64_t own, const Body& body) {
  for (int64_t j = 0; j < s.prefix_length; j += KEYS) body(s.prefix_start + j, smaller(KEYS, s.prefix_length - j), -1);
  for (int64_t j = 0; j < own; j += KEYS) body(s.start + j, smaller(KEYS, own - j), j);
}

void attention_forward(void* out, float* lse, const void* q, const void* k, const void* v, const int32_t* segments,
                       int32_t S, int32_t T, int32_t H, int32_t Hkv, int32_t Dh, int32_t ldo, int32_t ldq, float scale,
                       int32_t dtype) {
  (void)T;
  WITH_DTYPE(dtype, TX, {
    const int64_t group = H / Hkv, Dp = padded(Dh);
    int64_t longest = 1;
    for (int64_t s = 0; s < S; s++) longest = larger(longest, segments[4 * s + 1]);
    const int64_t blocks = ceil_div(longest, QUERY_TOKENS);
    parallel((int64_t)S * blocks * Hkv, [&](int64_t task) {
      const int64_t h = task % Hkv, from = task / Hkv % blocks * QUERY_TOKENS;
      const Segment s = segment_at(segments, task / Hkv / blocks);
      if (from >= s.length) return;
      const int64_t tokens = smaller(QUERY_TOKENS, s.length - from);
      float* memory = (float*)thread_scratch(0, 4 * (query_floats(tokens * group, Dh) + KEYS * (Dh + Dp)));
      QueryRows rows = query_rows(memory, tokens * group, Dh, scale);
      float* panels = memory + query_floats(tokens * group, Dh);
      float* values = panels + KEYS * Dh;
      for (int64_t r = 0; r < rows.count; r++) {
        const TX* source = (const TX*)q + (s.start + from + r / group) * ldq + (h * group + r % group) * Dh;
        for (int64_t d = 0; d < Dh; d++) rows.q[r * Dh + d] = to_float(source[d]);
      }
      for_blocks(s, from + tokens, [&](int64_t row, int64_t keys, int64_t first) {
        pack_panels(panels, (const TX*)k + row * ldq + h * Dh, keys, ldq, Dh);
        pack_rows(values, (const TX*)v + row * ldq + h * Dh, keys, ldq, Dh, Dp);
        attend_block(rows, panels, values, keys, [&](int64_t r) {
          return first < 0 ? keys : larger(0, smaller(keys, from + r / group - first + 1));
        });
      });
      for (int64_t r = 0; r < rows.count; r++) {
        int64_t token = s.start + from + r / group, head = h * group + r % group;
        float l = finish_row(rows, r, (TX*)out + token * ldo + head * Dh);
        if (lse) lse[token * H + head] = l;
      }
    });
  });
}

// The gradient:
// P = exp(scale · q·k − lse), dP = dout · v, dS = scale · P ∘ (dP − D) with D = dout · out, row by row;
// dv = Pᵀ dout, dq = dS k, dk = dSᵀ q. A task is one segment and one key-value head. A completion's share of its
// prompt's dk and dv is first written to `scratch`, then summed in the order of the completions, in waves of as many
// segments as fit in scratch_rows (each Hkv · 2 · Dp floats).

// The arguments of attention_backward, of type TX.
template <class TX>
struct Gradient {
  float *dq, *dk, *dv;
  const float* dout;
  const TX *q, *k, *v, *out;
  const float* lse;
  const int32_t* segments;
  float* scratch;
  int64_t H, Hkv, group, Dh, Dp;
  int64_t ldq, ldo;
  float scale;

  int64_t row_floats() const { return Hkv * 2 * Dp; }  // of scratch
};

// The keys and values of a segment and its prefix for one head, block by block, and their gradients.
struct KeyBlocks {
  int64_t prefix_blocks;
  float* panels;        // of keys (blocks, KEYS · Dh)
  float* value_panels;  // the same of values
  float* rows;          // of keys (blocks · KEYS, Dp)
  float* dkeys;         // (blocks · KEYS, Dp)
  float* dvalues;       // (blocks · KEYS, Dp)
};

INLINE int64_t key_block_floats(int64_t keys, int64_t Dh) { return keys * (2 * Dh + 3 * padded(Dh)); }

template <class TX>
INLINE KeyBlocks pack_key_blocks(const Gradient<TX>& g, const Segment& s, int64_t h) {
  const int64_t Dh = g.Dh, Dp = g.Dp;
  KeyBlocks blocks;
  blocks.prefix_blocks = ceil_div(s.prefix_length, KEYS);
  const int64_t keys = (blocks.prefix_blocks + ceil_div(s.length, KEYS)) * KEYS;
  blocks.panels = (float*)thread_scratch(0, 4 * key_block_floats(keys, Dh));
  blocks.value_panels = blocks.panels + keys * Dh;
  blocks.rows = blocks.value_panels + keys * Dh;
  blocks.dkeys = blocks.rows + keys * Dp;
  blocks.dvalues = blocks.dkeys + keys * Dp;
  for (int64_t i = 0; i < 2 * keys * Dp; i++) blocks.dkeys[i] = 0;
  int64_t b = 0;
  for_blocks(s, s.length, [&](int64_t row, int64_t count, int64_t) {
    const TX* key = g.k + row * g.ldq + h * Dh;
    pack_panels(blocks.panels + b * KEYS * Dh, key, count, g.ldq, Dh);
    pack_panels(blocks.value_panels + b * KEYS * Dh, g.v + row * g.ldq + h * Dh, count, g.ldq, Dh);
    pack_rows(blocks.rows + b * KEYS * Dp, key, count, g.ldq, Dh, Dp);
    b++;
  });
  return blocks;
}

// Rows of queries of one head group, tokens `from` … of a segment.
struct QueryGradients {
  int64_t from, count;  // first token, rows
  float* queries;       // (count, Dp)
  float* douts;         // (count, Dp)
  float* dqueries;      // (count, Dp)
  float* p;             // (count, KEYS): q·k, then P
  float* ds;            // (count, KEYS): dP, then dS
  float* lse;           // (count)
  float* dot;           // (count): D
};

INLINE int64_t query_gradient_floats(int64_t rows, int64_t Dp) { return rows * (3 * Dp + 2 * KEYS + 2); }

// Maximum bytes in a slot of a thread's scratch memory: all keys of a sequence (0), the rows of a query block (1).
INLINE int64_t attention_scratch(int slot, int64_t group, int64_t Dh, int64_t longest) {
  if (slot == 0) return 4 * key_block_floats(longest + 2 * KEYS, Dh);  // the last prefix block and own block are partial
  if (slot > 1) return 0;
  return 4 * QUERY_TOKENS * group * (3 * padded(Dh) + 2 * KEYS + 64);  // with a margin for a row's statistics
}

// Room for `most` rows.
INLINE QueryGradients query_gradients(int64_t most, int64_t Dp) {
  QueryGradients rows;
  rows.queries = (float*)thread_scratch(1, 4 * query_gradient_floats(most, Dp));
  rows.douts = rows.queries + most * Dp;
  rows.dqueries = rows.douts + most * Dp;
  rows.p = rows.dqueries + most * Dp;
  rows.ds = rows.p + most * KEYS;
  rows.lse = rows.ds + most * KEYS;
  rows.dot = rows.lse + most;
  return rows;
}

template <class TX>
INLINE void read_queries(const Gradient<TX>& g, const Segment& s, int64_t h, int64_t from, QueryGradients& rows) {
  const int64_t Dh = g.Dh, Dp = g.Dp;
  rows.from = from;
  rows.count = smaller(QUERY_TOKENS, s.length - from) * g.group;
  for (int64_t r = 0; r < rows.count; r++) {
    const int64_t token = s.start + from + r / g.group, head = h * g.group + r % g.group;
    float* dout = rows.douts + r * Dp;
    pack_rows(rows.queries + r * Dp, g.q + token * g.ldq + head * Dh, 1, 0, Dh, Dp);
    pack_rows(dout, g.dout + token * g.ldo + head * Dh, 1, 0, Dh, Dp);
    const TX* out = g.out + token * g.ldo + head * Dh;
    V dot = zero();
    for (int64_t d = 0; d < Dh; d += W) dot = fma(load(dout + d), load_upto(out + d, (int)smaller(W, Dh - d)), dot);
    rows.dot[r] = sum_lanes(dot);
    rows.lse[r] = g.lse[token * g.H + head];
  }
  for (int64_t i = 0; i < rows.count * Dp; i++) rows.dqueries[i] = 0;
}

// p and ds, q·k and dP, into P and dS; row r attends to the first visible(r) of `keys`.
template <class Visible>
INLINE void score_gradients(const QueryGradients& rows, float scale, int64_t keys, const Visible& visible) {
  const V numbers = lane_numbers(), factor = set1(scale), hidden = set1(-INFINITY);
  for (int64_t r = 0; r < rows.count; r++) {
    const V limit = set1((float)visible(r)), shift = set1(rows.lse[r]), dot = set1(rows.dot[r]);
    float *p = rows.p + r * KEYS, *ds = rows.ds + r * KEYS;
    for (int64_t j = 0; j < ceil_div(keys, PANEL) * PANEL; j += W) {
      const V index = add(numbers, set1((float)j));
      const V score = select_less(index, limit, sub(mul(load(p + j), factor), shift), hidden);
      const V probability = exp(score);
      const V gradient = mul(mul(probability, sub(load(ds + j), dot)), factor);
      store(p + j, probability);
      store(ds + j, select_less(index, limit, gradient, zero()));
    }
  }
}

// The gradients between block b of `keys` and the rows of queries.
template <class Visible>
INLINE void block_gradients(const QueryGradients& rows, const KeyBlocks& blocks, int64_t b, int64_t keys, int64_t Dh,
                            float scale, const Visible& visible) {
  const int64_t Dp = padded(Dh);
  for (int64_t j = 0; j * PANEL < keys; j++) {
    const int64_t panel = (b * KEYS + j * PANEL) * Dh;
    tiles(rows.count, rows.p + j * PANEL, KEYS, rows.queries, Dp, 1, blocks.panels + panel, PANEL, Dh, false);
    tiles(rows.count, rows.ds + j * PANEL, KEYS, rows.douts, Dp, 1, blocks.value_panels + panel, PANEL, Dh, false);
  }
  score_gradients(rows, scale, keys, visible);
  const int64_t first = b * KEYS * Dp;
  for (int64_t d = 0; d < Dp; d += PANEL) {
    tiles(rows.count, rows.dqueries + d, Dp, rows.ds, KEYS, 1, blocks.rows + first + d, Dp, keys, true);
    tiles(keys, blocks.dkeys + first + d, Dp, rows.ds, 1, KEYS, rows.queries + d, Dp, rows.count, true);
    tiles(keys, blocks.dvalues + first + d, Dp, rows.p, 1, KEYS, rows.douts + d, Dp, rows.count, true);
  }
}

// One segment and one key-value head: dq, dk and dv of its own tokens =, and its prefix's share to the rows of scratch
// from `share` on.
template <class TX>
INLINE void segment_gradients(const Gradient<TX>& g, const Segment& s, int64_t h, int64_t share) {
  const int64_t Dh = g.Dh, Dp = g.Dp;
  const KeyBlocks blocks = pack_key_blocks(g, s, h);
  QueryGradients rows = query_gradients(smaller(QUERY_TOKENS, s.length) * g.group, Dp);
  for (int64_t from = 0; from < s.length; from += QUERY_TOKENS) {
    read_queries(g, s, h, from, rows);
    int64_t b = 0;
    for_blocks(s, from + rows.count / g.group, [&](int64_t, int64_t keys, int64_t first) {
      block_gradients(rows, blocks, b++, keys, Dh, g.scale, [&](int64_t r) {
        return first < 0 ? keys : larger(0, smaller(keys, from + r / g.group - first + 1));
      });
    });
    for (int64_t r = 0; r < rows.count; r++)
      memcpy(g.dq + (s.start + from + r / g.group) * g.ldq + (h * g.group + r % g.group) * Dh, rows.dqueries + r * Dp,
             sizeof(float) * Dh);
  }
  for (int64_t j = 0; j < s.length; j++) {
    const int64_t row = (blocks.prefix_blocks * KEYS + j) * Dp, target = (s.start + j) * g.ldq + h * Dh;
    memcpy(g.dk + target, blocks.dkeys + row, sizeof(float) * Dh);
    memcpy(g.dv + target, blocks.dvalues + row, sizeof(float) * Dh);
  }
  for (int64_t j = 0; j < s.prefix_length; j++) {
    float* target = g.scratch + (share + j) * g.row_floats() + h * 2 * Dp;
    memcpy(target, blocks.dkeys + j * Dp, sizeof(float) * Dp);
    memcpy(target + Dp, blocks.dvalues + j * Dp, sizeof(float) * Dp);
  }
}

// dk and dv += the shares of segments first … last − 1 in scratch, in that order; for one key-value head and KEYS rows of
// a prefix, from row `from` on.
template <class TX>
INLINE void add_shares(const Gradient<TX>& g, int64_t first, int64_t last, int64_t h, int64_t from) {
  int64_t offset = 0;
  for (int64_t i = first; i < last; i++) {
    const Segment s = segment_at(g.segments, i);
    for (int64_t j = from; j < smaller(s.prefix_length, from + KEYS); j++) {
      const float* share = g.scratch + (offset + j) * g.row_floats() + h * 2 * g.Dp;
      float* key = g.dk + (s.prefix_start + j) * g.ldq + h * g.Dh;
      float* value = g.dv + (s.prefix_start + j) * g.ldq + h * g.Dh;
      for (int64_t d = 0; d < g.Dh; d++) {
        key[d] += share[d];
        value[d] += share[g.Dp + d];
      }
    }
    offset += s.prefix_length;
  }
}

void attention_backward(float* dq, float* dk, float* dv, const float* dout, const void* q, const void* k,
                        const void* v, const void* out, const float* lse, const int32_t* segments, float* scratch,
                        int32_t scratch_rows, int32_t S, int32_t T, int32_t H, int32_t Hkv, int32_t Dh, int32_t ldq,
                        int32_t ldo, float scale, int32_t dtype) {
  (void)T;
  WITH_DTYPE(dtype, TX, {
    const Gradient<TX> g{dq,      dk,       dv,      dout, (const TX*)q, (const TX*)k, (const TX*)v, (const TX*)out, lse,
                         segments, scratch, H,   Hkv,  H / Hkv,      Dh,           padded(Dh),   ldq,            ldo,
                         scale};
    for (int64_t first = 0, last; first < S; first = last) {
      int64_t used = 0, longest = 0;  // rows of scratch, of a prefix
      for (last = first; last < S && (last == first || used + segments[4 * last + 3] <= scratch_rows); last++) {
        used += segments[4 * last + 3];
        longest = larger(longest, segments[4 * last + 3]);
      }
      parallel((last - first) * Hkv, [&](int64_t task) {
        const int64_t index = first + task / Hkv;
        int64_t share = 0;
        for (int64_t i = first; i < index; i++) share += segments[4 * i + 3];
        segment_gradients(g, segment_at(segments, index), task % Hkv, share);
      });
      parallel(Hkv * ceil_div(longest, KEYS),
               [&](int64_t task) { add_shares(g, first, last, task % Hkv, task / Hkv * KEYS); });
    }
  });
}

void kv_store(void* kpages, void* vpages, const void* k, const void* v, const int32_t* page, const int32_t* offset,
              int32_t T, int32_t Hkv, int32_t Dh, int32_t ldkv, int32_t dtype) {
  WITH_DTYPE(dtype, TX, {
    const int64_t Dp = padded(Dh);
    parallel(ceil_div(T, 16), [&](int64_t block) {
      for (int64_t t = block * 16; t < smaller(T, block * 16 + 16); t++)
        for (int64_t h = 0; h < Hkv; h++) {
          const TX* key = (const TX*)k + t * ldkv + h * Dh;
          const TX* value = (const TX*)v + t * ldkv + h * Dh;
          TX* panel = (TX*)kpages + ((int64_t)page[t] * Hkv + h) * KEYS * Dh + offset[t] / PANEL * Dh * PANEL + offset[t] % PANEL;
          TX* row = (TX*)vpages + (((int64_t)page[t] * Hkv + h) * KEYS + offset[t]) * Dp;
          for (int64_t d = 0; d < Dh; d++) {
            panel[d * PANEL] = key[d];
            row[d] = value[d];
          }
          for (int64_t d = Dh; d < Dp; d++) store_scalar(row + d, 0.0f);
        }
    });
  });
}

// page_table (B, table_width): the prompt's pages, then the completion's. Lengths count the tokens in the cache, the
// new one included.
void attention_decode(void* out, const void* q, const void* kpages, const void* vpages, const int32_t* page_table,
                      const int32_t* prompt_lengths, const int32_t* completion_lengths, int32_t B, int32_t table_width,
                      int32_t H, int32_t Hkv, int32_t Dh, int32_t ldo, int32_t ldq, float scale, int32_t dtype) {
  WITH_DTYPE(dtype, TX, {
    const int64_t group = H / Hkv, Dp = padded(Dh);
    parallel((int64_t)B * Hkv, [&](int64_t task) {
      const int64_t b = task / Hkv, h = task % Hkv;
      float* memory = (float*)thread_scratch(0, 4 * (query_floats(group, Dh) + KEYS * (Dh + Dp)));
      QueryRows rows = query_rows(memory, group, Dh, scale);
      float* panels = memory + query_floats(group, Dh);
      float* values = panels + KEYS * Dh;
      for (int64_t r = 0; r < group; r++) {
        const TX* source = (const TX*)q + b * ldq + (h * group + r) * Dh;
        for (int64_t d = 0; d < Dh; d++) rows.q[r * Dh + d] = to_float(source[d]);
      }
      const int32_t* pages = page_table + b * table_width;
      auto attend = [&](int64_t length) {
        for (int64_t j = 0; j < length; j += KEYS) {
          const int64_t keys = smaller(KEYS, length - j), place = (int64_t)*pages++ * Hkv + h;
          const TX* kp = (const TX*)kpages + place * KEYS * Dh;
          const TX* vp = (const TX*)vpages + place * KEYS * Dp;
          const float* key_panels;
          const float* value_rows;
          if constexpr (sizeof(TX) == 4) {
            key_panels = (const float*)kp;
            value_rows = (const float*)vp;
          } else {
            for (int64_t i = 0; i < ceil_div(keys, PANEL) * PANEL * Dh; i += W) store(panels + i, load(kp + i));
            for (int64_t i = 0; i < keys * Dp; i += W) store(values + i, load(vp + i));
            key_panels = panels;
            value_rows = values;
          }
          attend_block(rows, key_panels, value_rows, keys, [&](int64_t) { return keys; });
        }
      };
      attend(prompt_lengths[b]);
      attend(completion_lengths[b]);
      for (int64_t r = 0; r < group; r++) finish_row(rows, r, (TX*)out + b * ldo + (h * group + r) * Dh);
    });
  });
}

}  // namespace KERNEL_PATH
