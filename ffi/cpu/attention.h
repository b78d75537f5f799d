// What the attention kernels share: blocks of keys and values, and rows of queries that attend to them.
//
// Keys are processed in blocks of 64, counted from the prefix's start and again from the segment's own start. A row's
// softmax state is carried from block to block in that order, and a masked key contributes exactly zero, so it may be
// skipped; so a row's bits are the same whether it is computed alone from the cache or among the rows of a training
// batch (promise 2).
#pragma once
#include <math.h>

#include "simd.h"
#include "threads.h"
#include "tile.h"

namespace KERNEL_PATH {

static constexpr int64_t KEYS = 64;            // keys in a block, tokens in a page
static constexpr int64_t ROWS = 48 / MR * MR;  // rows whose queries and scores stay in L1 beside a panel

INLINE int64_t padded(int64_t Dh) { return ceil_div(Dh, PANEL) * PANEL; }

// Tokens whose rows share a packed block: enough rows to make packing cheap, for any number of heads per key.
INLINE int64_t query_tokens(int64_t group) { return larger(1, 192 / (group * KEYS)) * KEYS; }

// Calls body(r, n) for tiles of n ≤ MR rows; the last two are about equal, since a tile of few rows waits for its sums.
template <class Body>
INLINE void for_tiles(int64_t from, int64_t to, const Body& body) {
  for (int64_t r = from, n; r < to; r += n) {
    const int64_t left = to - r;
    n = left > MR && left < 2 * MR ? ceil_div(left, 2) : smaller(MR, left);
    body(r, n);
  }
}

// Which keys of a block row r attends to: the first visible(r) but for the first hidden(r). first_row(j): the first row that
// attends to key j, window aside.
struct AllKeys {
  int64_t keys;
  int64_t operator()(int64_t) const { return keys; }
  int64_t hidden(int64_t) const { return 0; }
  int64_t first_row(int64_t) const { return 0; }
};
struct EarlierKeys {
  int64_t keys, group;
  int64_t first;  // keys of the first token; may be negative
  int64_t operator()(int64_t r) const { return larger(0, smaller(keys, first + r / group)); }
  int64_t hidden(int64_t) const { return 0; }
  int64_t first_row(int64_t j) const { return larger(0, (j + 1 - first) * group); }
};
struct WindowKeys {
  int64_t keys, group;
  int64_t first;    // keys of the first token that are not later than it; may be negative
  int64_t outside;  // keys that lie before the first token's window; may be negative
  int64_t operator()(int64_t r) const { return larger(0, smaller(keys, first + r / group)); }
  int64_t hidden(int64_t r) const { return larger(0, smaller(keys, outside + r / group)); }
  int64_t first_row(int64_t j) const { return larger(0, (j + 1 - first) * group); }
};

// Calls body with the kind of visibility that the rows of `tokens` tokens from `token` on have of `keys` keys from key `first`
// on (−1: in the prefix); `outside` as in WindowKeys.
template <class Body>
INLINE void with_visible(int64_t keys, int64_t group, int64_t token, int64_t tokens, int64_t first, int64_t outside,
                         const Body& body) {
  if (outside + tokens > 1) body(WindowKeys{keys, group, first < 0 ? keys : token - first + 1, outside});
  else if (first < 0 || token - first + 1 >= keys) body(AllKeys{keys});
  else body(EarlierKeys{keys, group, token - first + 1});
}

// Tokens that a token attends to, itself included; 0 stands for all.
INLINE int64_t window_tokens(int32_t window) { return window > 0 ? window : (int64_t)1 << 40; }

// The start of the first block with a key that is not among the first `outside`.
INLINE int64_t first_block(int64_t outside) { return outside > 0 ? outside / KEYS * KEYS : 0; }

INLINE V lane_numbers() {
  float a[W];
  for (int i = 0; i < W; i++) a[i] = (float)i;
  return load(a);
}

struct Segment {
  int64_t start, length, prefix_start, prefix_length;
};
INLINE Segment segment_at(const int32_t* segments, int64_t s) {
  return Segment{segments[4 * s], segments[4 * s + 1], segments[4 * s + 2], segments[4 * s + 3]};
}

// `count` rows of Dh elements as float32, Dp apart, zero beyond Dh.
template <class T>
INLINE void pack_rows(float* target, const T* rows, int64_t count, int64_t stride, int64_t Dh, int64_t Dp) {
  for (int64_t j = 0; j < count; j++) {
    int64_t d = 0;
    for (; d + W <= Dh; d += W) store(target + j * Dp + d, load(rows + j * stride + d));
    for (; d < Dp; d += W)
      store(target + j * Dp + d, d < Dh ? load_part(rows + j * stride + d, (int)(Dh - d)) : zero());
  }
}

// Panels [4][Dh][16] of up to 64 rows with the given stride; the last panel's lanes beyond `keys` are zero.
template <class T>
INLINE void pack_panels(float* panels, const T* rows, int64_t keys, int64_t stride, int64_t Dh) {
  for (int64_t p = 0; p * PANEL < keys; p++) {
    float* panel = panels + p * Dh * PANEL;
    const int64_t lanes = smaller(PANEL, keys - p * PANEL);
    const T* first = rows + p * PANEL * stride;
    int64_t d = 0;
#if defined(__AVX2__)
    if (lanes == PANEL)
      for (; d + 8 <= Dh; d += 8)
        for (int64_t lane = 0; lane < PANEL; lane += 8)
          transpose_8x8(panel + d * PANEL + lane, PANEL, first + lane * stride + d, stride);
#endif
    for (; d < Dh; d++)
      for (int64_t lane = 0; lane < PANEL; lane++)
        panel[d * PANEL + lane] = lane < lanes ? to_float(first[lane * stride + d]) : 0;
  }
}

// Rows of queries being processed block by block.
struct QueryRows {
  int64_t count;   // rows
  int64_t Dh, Dp;  // head size, and rounded up to 16
  float scale;
  float* q;       // (count, Dp)
  float* acc;     // (count, Dp)
  float* max;     // (count)
  float* sum;     // (count, W): lane j sums keys j, j + W, …
  float* scores;  // (ROWS, KEYS)

  QueryRows part(int64_t from, int64_t rows) const {
    return QueryRows{rows, Dh, Dp, scale, q + from * Dp, acc + from * Dp, max + from, sum + from * W, scores};
  }
};

INLINE int64_t query_floats(int64_t rows, int64_t Dh) { return rows * (2 * padded(Dh) + 1 + W) + ROWS * KEYS; }

INLINE QueryRows query_rows(float* memory, int64_t rows, int64_t Dh, float scale) {
  const int64_t Dp = padded(Dh);
  float* acc = memory + rows * Dp;
  float* sum = acc + rows * Dp;
  float* max = sum + rows * W;
  return QueryRows{rows, Dh, Dp, scale, memory, acc, max, sum, max + rows};
}

// Row r's scores of `visible` keys into weights, zero from there to key `limit` and for the first `outside`; the state so far
// is scaled to the new maximum. Blocks of which a row sees no key come before all others.
INLINE void softmax_row(const QueryRows& rows, int64_t r, float* s, int64_t visible, int64_t limit, bool first,
                        int64_t outside) {
  if (outside > 0 && outside >= visible) {
    for (int64_t j = 0; j < limit; j += W) store(s + j, zero());
    if (!first) return;
    rows.max[r] = -INFINITY;
    store(rows.sum + r * W, zero());
    return;
  }
  for (int64_t j = 0; j < outside; j++) s[j] = -INFINITY;
  const V scale = set1(rows.scale), hidden = set1(-INFINITY);
  const int64_t whole = visible / W * W;
  V top = hidden, last = hidden;
  for (int64_t j = 0; j < whole; j += W) top = max(mul(load(s + j), scale), top);
  if (whole < visible) {
    last = select_less(lane_numbers(), set1((float)(visible - whole)), mul(load(s + whole), scale), hidden);
    top = max(last, top);
  }
  const float block_max = max_lanes(top), old_max = first ? -INFINITY : rows.max[r];
  const float new_max = block_max > old_max ? block_max : old_max;
  const V shift = set1(new_max);
  V sum = first ? zero() : load(rows.sum + r * W);
  if (!first && new_max != old_max) {
    const V correction = exp_below(sub(set1(old_max), shift));
    sum = mul(sum, correction);
    float* acc = rows.acc + r * rows.Dp;
    for (int64_t d = 0; d < rows.Dp; d += W) store(acc + d, mul(load(acc + d), correction));
  }
  int64_t j = 0;
  for (; j < whole; j += W) {
    const V p = exp_below(sub(mul(load(s + j), scale), shift));
    store(s + j, p);
    sum = add(sum, p);
  }
  if (whole < visible) {
    const V p = exp_below(sub(last, shift));
    store(s + whole, p);
    sum = add(sum, p);
    j += W;
  }
  for (; j < limit; j += W) store(s + j, zero());
  store(rows.sum + r * W, sum);
  rows.max[r] = new_max;
}

// scores += q · keys, for the few rows of one sequence: two panels side by side where their sums fit the registers.
template <class TB>
INLINE void score_few(const QueryRows& rows, const TB* key_panels, int64_t keys) {
  const int64_t Dh = rows.Dh;
  int64_t p = 0;
  if (rows.count * 2 * PV <= SUMS)
    for (; (p + 1) * PANEL < keys; p += 2)
      tile<2>(rows.count, rows.scores + p * PANEL, KEYS, rows.q, rows.Dp, 1, key_panels + p * Dh * PANEL, PANEL, Dh, false,
              PANEL, Dh * PANEL);
  for (; p * PANEL < keys; p++)
    tile(rows.count, rows.scores + p * PANEL, KEYS, rows.q, rows.Dp, 1, key_panels + p * Dh * PANEL, PANEL, Dh, false);
}

// Panels beside each other in a tile of one row.
static constexpr int ROW_PANELS = SUMS / PV < 4 ? SUMS / PV : 4;

// acc += weights · values for the same: a row at a time over several panels, so that values are read from memory in order.
template <class TB>
INLINE void add_few(const QueryRows& rows, const TB* values, int64_t keys, bool first) {
  const int64_t Dp = rows.Dp;
  for (int64_t r = 0; r < rows.count; r++) {
    float* acc = rows.acc + r * Dp;
    const float* weights = rows.scores + r * KEYS;
    int64_t d = 0;
    for (; d + ROW_PANELS * PANEL <= Dp; d += ROW_PANELS * PANEL)
      tile<ROW_PANELS>(1, acc + d, Dp, weights, KEYS, 1, values + d, Dp, keys, !first, PANEL, PANEL);
    for (; d < Dp; d += PANEL) tile(1, acc + d, Dp, weights, KEYS, 1, values + d, Dp, keys, !first);
  }
}

// One block of keys for all rows: keys in panels [4][Dh][16], values in rows of Dp. `first`: the rows have no state yet.
template <class TB, class Visible>
INLINE void attend_block(const QueryRows& rows, const TB* key_panels, const TB* values, bool first,
                         const Visible& visible) {
  const int64_t Dh = rows.Dh, Dp = rows.Dp;
  for (int64_t from = 0; from < rows.count; from += ROWS) {
    const int64_t to = smaller(rows.count, from + ROWS);
    float* scores = rows.scores - from * KEYS;
    for (int64_t p = 0; p * PANEL < visible.keys; p++)
      for_tiles(from, to, [&](int64_t r, int64_t n) {
        if (p * PANEL < visible(r + n - 1) && (p + 1) * PANEL > visible.hidden(r))
          tile(n, scores + r * KEYS + p * PANEL, KEYS, rows.q + r * Dp, Dp, 1, key_panels + p * Dh * PANEL, PANEL, Dh,
               false);
      });
    for_tiles(from, to, [&](int64_t r, int64_t n) {
      const int64_t limit = visible(r + n - 1);
      for (int64_t i = r; i < r + n; i++) softmax_row(rows, i, scores + i * KEYS, visible(i), limit, first, visible.hidden(i));
    });
    for (int64_t d = 0; d < Dp; d += PANEL)
      for_tiles(from, to, [&](int64_t r, int64_t n) {
        tile(n, rows.acc + r * Dp + d, Dp, scores + r * KEYS, KEYS, 1, values + d, Dp, visible(r + n - 1), !first);
      });
  }
}

// The same for the few rows of one sequence, which do not see the first `outside` keys.
template <class TB>
INLINE void attend_block_few(const QueryRows& rows, const TB* key_panels, const TB* values, bool first, int64_t keys,
                             int64_t outside) {
  score_few(rows, key_panels, keys);
  for (int64_t r = 0; r < rows.count; r++) softmax_row(rows, r, rows.scores + r * KEYS, keys, keys, first, outside);
  add_few(rows, values, keys, first);
}

// acc / sum into out (Dh elements); returns the row's log-sum-exp.
template <class T>
INLINE float finish_row(const QueryRows& rows, int64_t r, T* out) {
  const float sum = sum_lanes(load(rows.sum + r * W));
  const V inverse = set1(1.0f / sum);
  const float* acc = rows.acc + r * rows.Dp;
  for (int64_t d = 0; d < rows.Dh; d += W)
    store_upto(out + d, mul(load(acc + d), inverse), (int)smaller(W, rows.Dh - d));
  return rows.max[r] + (float)::log((double)sum);
}

}  // namespace KERNEL_PATH
