// Causal attention with grouped queries, flash style (Dao et al. 2022): no (T, T) buffer.
//
//   attention_forward   out (T, H, Dh) =, lse (T, H) =     over packed segments
//   attention_backward  dq, dk, dv =                       of the same
//   attention_decode    out (B, H, Dh) =                   one new token a sequence, keys and values in pages
//   kv_store            puts keys and values of T tokens into pages
//
// segments (S, 4): start, length, prefix start, prefix length, all in rows of the packed tokens. A completion names its
// group's prompt as prefix and sees all of it; a prompt has no prefix and comes before its completions.
// q, k and v are parts of one buffer: row stride ldq for all three, heads Dh apart.
//
// Keys are taken in blocks of 64, counted from the prefix's start and anew from the segment's own start. A row's
// softmax state is carried from block to block in that order, and a masked key adds exactly nothing; so its bits are
// the same whether it is computed alone from the cache or among the rows of a training batch (promise 2).
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

// Rows of queries on their way through the blocks.
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

// One block of keys for all rows; row r sees the first visible(r) of its `keys`.
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

// Panels [4][Dh][16] of up to 64 rows that lie `stride` apart; lanes beyond `keys` are zero.
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
// the prefix) for the blocks that the first `own` tokens of the segment see.
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

// P = exp(scale · q·k − lse), dP = dout · v, dS = scale · P ∘ (dP − D) with D = dout · out, row by row;
// dv = Pᵀ dout, dq = dS k, dk = dSᵀ q. A task is one segment and one key-value head. What a completion adds to its
// prompt's dk and dv goes to `scratch` first and is summed in the order of the completions, in waves of as many
// segments as its scratch_rows (each Hkv · 2 · Dp floats) hold.
void attention_backward(float* dq, float* dk, float* dv, const float* dout, const void* q, const void* k,
                        const void* v, const void* out, const float* lse, const int32_t* segments, float* scratch,
                        int32_t scratch_rows, int32_t S, int32_t T, int32_t H, int32_t Hkv, int32_t Dh, int32_t ldq,
                        int32_t ldo, float scale, int32_t dtype) {
  (void)T;
  WITH_DTYPE(dtype, TX, {
    const int64_t group = H / Hkv, Dp = padded(Dh), row_floats = Hkv * 2 * Dp;
    for (int64_t first = 0, last; first < S; first = last) {
      int64_t used = 0;
      for (last = first; last < S && (last == first || used + segments[4 * last + 3] <= scratch_rows); last++)
        used += segments[4 * last + 3];
      parallel((last - first) * Hkv, [&](int64_t task) {
        const int64_t h = task % Hkv, index = first + task / Hkv;
        const Segment s = segment_at(segments, index);
        int64_t offset = 0;
        for (int64_t i = first; i < index; i++) offset += segments[4 * i + 3];
        // All keys of the segment, packed once: prefix blocks, then own blocks.
        const int64_t prefix_blocks = ceil_div(s.prefix_length, KEYS), own_blocks = ceil_div(s.length, KEYS);
        const int64_t keys_padded = (prefix_blocks + own_blocks) * KEYS;
        float* key_panels = (float*)thread_scratch(0, 4 * keys_padded * (2 * Dh + 3 * Dp));
        float* value_panels = key_panels + keys_padded * Dh;
        float* key_rows = value_panels + keys_padded * Dh;
        float* dkeys = key_rows + keys_padded * Dp;
        float* dvalues = dkeys + keys_padded * Dp;
        for (int64_t i = 0; i < 2 * keys_padded * Dp; i++) dkeys[i] = 0;
        int64_t b = 0;
        for_blocks(s, s.length, [&](int64_t row, int64_t keys, int64_t) {
          const TX* kb = (const TX*)k + row * ldq + h * Dh;
          pack_panels(key_panels + b * KEYS * Dh, kb, keys, ldq, Dh);
          pack_panels(value_panels + b * KEYS * Dh, (const TX*)v + row * ldq + h * Dh, keys, ldq, Dh);
          pack_rows(key_rows + b * KEYS * Dp, kb, keys, ldq, Dh, Dp);
          b++;
        });
        const int64_t most = smaller(QUERY_TOKENS, s.length) * group;
        float* queries = (float*)thread_scratch(1, 4 * most * (3 * Dp + 2 * KEYS + 2));
        float* douts = queries + most * Dp;
        float* dqueries = douts + most * Dp;
        float* p = dqueries + most * Dp;
        float* ds = p + most * KEYS;
        float* row_lse = ds + most * KEYS;
        float* row_dot = row_lse + most;
        for (int64_t from = 0; from < s.length; from += QUERY_TOKENS) {
          const int64_t tokens = smaller(QUERY_TOKENS, s.length - from), rows = tokens * group;
          for (int64_t r = 0; r < rows; r++) {
            int64_t token = s.start + from + r / group, head = h * group + r % group;
            pack_rows(queries + r * Dp, (const TX*)q + token * ldq + head * Dh, 1, 0, Dh, Dp);
            pack_rows(douts + r * Dp, dout + token * ldo + head * Dh, 1, 0, Dh, Dp);
            const TX* o = (const TX*)out + token * ldo + head * Dh;
            V dot = zero();
            for (int64_t d = 0; d < Dh; d += W)
              dot = KERNEL_PATH::fma(load(douts + r * Dp + d), load_upto(o + d, (int)smaller(W, Dh - d)), dot);
            row_dot[r] = sum_lanes(dot);
            row_lse[r] = lse[token * H + head];
          }
          for (int64_t i = 0; i < rows * Dp; i++) dqueries[i] = 0;
          int64_t block = 0;
          for_blocks(s, from + tokens, [&](int64_t, int64_t keys, int64_t first_key) {
            const float* kp = key_panels + block * KEYS * Dh;
            const float* vp = value_panels + block * KEYS * Dh;
            for (int64_t j = 0; j * PANEL < keys; j++) {
              tiles(rows, p + j * PANEL, KEYS, queries, Dp, 1, kp + j * Dh * PANEL, PANEL, Dh, false);
              tiles(rows, ds + j * PANEL, KEYS, douts, Dp, 1, vp + j * Dh * PANEL, PANEL, Dh, false);
            }
            const V numbers = lane_numbers(), factor = set1(scale), hidden = set1(-INFINITY);
            for (int64_t r = 0; r < rows; r++) {
              int64_t visible = first_key < 0 ? keys : larger(0, smaller(keys, from + r / group - first_key + 1));
              const V limit = set1((float)visible), shift = set1(row_lse[r]), dot = set1(row_dot[r]);
              for (int64_t j = 0; j < ceil_div(keys, PANEL) * PANEL; j += W) {
                V index = KERNEL_PATH::add(numbers, set1((float)j));
                V score = select_less(index, limit, sub(mul(load(p + r * KEYS + j), factor), shift), hidden);
                V probability = KERNEL_PATH::exp(score);
                V grad = mul(mul(probability, sub(load(ds + r * KEYS + j), dot)), factor);
                store(p + r * KEYS + j, probability);
                store(ds + r * KEYS + j, select_less(index, limit, grad, zero()));
              }
            }
            for (int64_t d = 0; d < Dp; d += PANEL) {
              tiles(rows, dqueries + d, Dp, ds, KEYS, 1, key_rows + block * KEYS * Dp + d, Dp, keys, true);
              tiles(keys, dkeys + block * KEYS * Dp + d, Dp, ds, 1, KEYS, queries + d, Dp, rows, true);
              tiles(keys, dvalues + block * KEYS * Dp + d, Dp, p, 1, KEYS, douts + d, Dp, rows, true);
            }
            block++;
          });
          for (int64_t r = 0; r < rows; r++)
            memcpy(dq + (s.start + from + r / group) * ldq + (h * group + r % group) * Dh, dqueries + r * Dp,
                   sizeof(float) * Dh);
        }
        for (int64_t j = 0; j < s.length; j++) {
          memcpy(dk + (s.start + j) * ldq + h * Dh, dkeys + (prefix_blocks * KEYS + j) * Dp, sizeof(float) * Dh);
          memcpy(dv + (s.start + j) * ldq + h * Dh, dvalues + (prefix_blocks * KEYS + j) * Dp, sizeof(float) * Dh);
        }
        for (int64_t j = 0; j < s.prefix_length; j++) {
          float* target = scratch + (offset + j) * row_floats + h * 2 * Dp;
          memcpy(target, dkeys + j * Dp, sizeof(float) * Dp);
          memcpy(target + Dp, dvalues + j * Dp, sizeof(float) * Dp);
        }
      });
      // The completions' shares into their prompts' rows, in order.
      int64_t longest = 0;
      for (int64_t i = first; i < last; i++) longest = larger(longest, segments[4 * i + 3]);
      parallel(Hkv * ceil_div(longest, KEYS), [&](int64_t task) {
        const int64_t h = task % Hkv, from = task / Hkv * KEYS;
        int64_t offset = 0;
        for (int64_t i = first; i < last; i++) {
          const Segment s = segment_at(segments, i);
          for (int64_t j = from; j < smaller(s.prefix_length, from + KEYS); j++) {
            const float* share = scratch + (offset + j) * row_floats + h * 2 * Dp;
            float* key = dk + (s.prefix_start + j) * ldq + h * Dh;
            float* value = dv + (s.prefix_start + j) * ldq + h * Dh;
            for (int64_t d = 0; d < Dh; d++) {
              key[d] += share[d];
              value[d] += share[Dp + d];
            }
          }
          offset += s.prefix_length;
        }
      });
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
