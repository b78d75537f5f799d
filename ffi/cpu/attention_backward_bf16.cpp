// The gradient of attention over bfloat16 on a path that multiplies in bfloat16: attention.cpp's formulas, with all five products on
// tiles. P, dS and dout, which are float32, are each multiplied as the sum of two bfloat16 (attention_bf16.cpp), dout of three for
// dP, from which dS takes a difference. So the gradients are as exact as with float32 products.
//
// A task is one segment and one key-value head. The reduction of dk and dv runs over rows of queries, so P and dS are written as
// pairs of rows, and q and dout are transposed once per block of queries: dkᵀ = qᵀ dS, dvᵀ = doutᵀ P.
#include "attention_bf16.cpp"

namespace KERNEL_PATH {

// Floats per row of scratch.
static int64_t attention_scratch_elements(int32_t Hkv, int32_t Dh) { return Hkv * 2 * value_width(Dh); }

// The arguments of attention_backward.
struct TileGradient {
  float *dq, *dk, *dv;
  const float* dout;
  const bf16 *q, *k, *v, *out;
  const float* lse;
  const int32_t* segments;
  float* scratch;
  int64_t H, Hkv, group, Dh;
  int64_t window;  // tokens that a token attends to, itself included
  int64_t ldq, ldo;
  float scale;

  int64_t depth() const { return whole_groups(Dh); }
  int64_t width() const { return value_width(Dh); }
  int64_t share_floats() const { return attention_scratch_elements((int32_t)Hkv, (int32_t)Dh); }
};

// Keys and values of a segment and its prefix for one head, in blocks of 64, and their gradients.
struct TileKeys {
  bf16* keys;       // (blocks) as in a page
  bf16* values;     // (blocks) as keys are in a page
  bf16* over_keys;  // (blocks) keys as values are in a page
  float* dkeys;     // [blocks][2][Dh in panels][32]: transposed
  float* dvalues;   // the same
};

INLINE int64_t key_bytes(int64_t Dh) { return 2 * (2 * whole_groups(Dh) + value_width(Dh)) + 8 * value_width(Dh); }

// Rows of queries of one head group. `most` is their number in whole groups, the stride of what is transposed.
struct TileQueries {
  int64_t count, most;
  bf16* q;          // (most, depth)
  bf16* dout[3];    // the same: rounded, the remainder, and what that leaves
  bf16* q_t;        // (width, most)
  bf16* dout_t[2];  // the same, of the first two
  bf16* p[2];       // [4][most / 2][16][2]: P, and the remainder
  bf16* ds[2];      // the same of dS
  float* dq;        // [pairs of panels][most][32]
  float* lse;       // (most), times log₂ e
  float* dot;       // (most): dout · out
};

INLINE int64_t query_bytes(int64_t Dh) {
  return 2 * (4 * whole_groups(Dh) + 3 * value_width(Dh) + 4 * KEYS) + 4 * (pairs_of(value_width(Dh) / PANEL) * COLUMNS + 2);
}

// Maximum bytes of a thread's scratch memory.
static int64_t attention_backward_bytes(int64_t group, int64_t Dh, int64_t longest) {
  return (longest + 2 * KEYS) * key_bytes(Dh) + whole_groups(query_tokens(group) * group) * query_bytes(Dh) + 2 * 4096;
}

static TileKeys tile_keys(const TileGradient& g, int64_t blocks) {
  TileKeys k;
  const int64_t rows = blocks * KEYS;
  k.dkeys = (float*)thread_scratch(0, rows * key_bytes(g.Dh));
  k.dvalues = k.dkeys + rows * g.width();
  k.keys = (bf16*)(k.dvalues + rows * g.width());
  k.values = k.keys + rows * g.depth();
  k.over_keys = k.values + rows * g.depth();
  memset(k.dkeys, 0, 2 * rows * g.width() * 4);
  return k;
}

static TileQueries tile_queries(const TileGradient& g, int64_t rows) {
  TileQueries t;
  const int64_t most = t.most = whole_groups(rows), depth = g.depth(), width = g.width();
  t.dq = (float*)thread_scratch(1, most * query_bytes(g.Dh));
  t.lse = t.dq + pairs_of(width / PANEL) * most * COLUMNS;
  t.dot = t.lse + most;
  bf16* next = (bf16*)(t.dot + most);
  const auto take = [&](int64_t elements) {
    bf16* taken = next;
    next += elements;
    return taken;
  };
  t.q = take(most * depth);
  for (bf16*& part : t.dout) part = take(most * depth);
  t.q_t = take(most * width);
  for (bf16*& part : t.dout_t) part = take(most * width);
  for (bf16*& part : t.p) part = take(most * KEYS);
  for (bf16*& part : t.ds) part = take(most * KEYS);
  return t;
}

// (rows, depth) to (width, rows), both in whole groups.
static void transpose_rows(bf16* target, const bf16* source, int64_t rows, int64_t depth, int64_t width) {
  for (int64_t r = 0; r < rows; r += PANEL)
    for (int64_t d = 0; d < width; d += PANEL) {
      Pairs v[8];
      for (int64_t i = 0; i < 8; i++) v[i] = row_pairs(source + r * depth + d, depth, 2 * i, PANEL, PANEL);
      transpose_pairs(v);
      for (int64_t i = 0; i < PANEL; i++) memcpy(target + (d + i) * rows + r, (const char*)v + i * 32, 32);
    }
}

static void read_queries(const TileGradient& g, int64_t start, int64_t from, int64_t tokens, int64_t h, TileQueries& t) {
  constexpr double LOG2_E = 1.4426950408889634;
  const int64_t depth = g.depth();
  t.count = tokens * g.group;
  for (int64_t r = 0; r < t.most; r++) {
    const int64_t token = start + from + r / g.group, head = h * g.group + r % g.group;
    const bool there = r < t.count;
    const int64_t Dh = there ? g.Dh : 0;
    const float* dout = g.dout + (there ? token * g.ldo + head * g.Dh : 0);
    V dot = zero();
    for (int64_t d = 0; d < depth; d += GROUP) {
      const Pairs query = whole_row(g.q + (there ? token * g.ldq + head * g.Dh : 0) + d, Dh - d);
      V part[2];
      for (int64_t i = 0; i < 2; i++) {
        const int64_t n = smaller(W, Dh - d - i * W);
        part[i] = n > 0 ? load_upto(dout + d + i * W, (int)n) : zero();
        if (n > 0) dot = fma(part[i], load_upto(g.out + token * g.ldo + head * g.Dh + d + i * W, (int)n), dot);
      }
      memcpy(t.q + r * depth + d, &query, sizeof query);
      for (bf16* target : t.dout) {
        const Pairs rounded = rounded_halves(part[0], part[1]);
        memcpy(target + r * depth + d, &rounded, sizeof rounded);
        for (int64_t i = 0; i < 2; i++) part[i] = sub(part[i], load(target + r * depth + d + i * W));
      }
    }
    t.dot[r] = sum_lanes(dot);
    t.lse[r] = there ? (float)((double)g.lse[token * g.H + head] * LOG2_E) : 0.0f;
  }
  transpose_rows(t.q_t, t.q, t.most, depth, g.width());
  for (int64_t i = 0; i < 2; i++) transpose_rows(t.dout_t[i], t.dout[i], t.most, depth, g.width());
  memset(t.dq, 0, pairs_of(g.width() / PANEL) * t.most * COLUMNS * 4);
}

// Rows r and r + 1 of a strip: scores and dP to P and dS. `row` counts from the strip's start, where `ds_rows` begins. MASKED:
// not every row attends to every one of 64 keys.
template <bool MASKED, class Visible, class Outside>
INLINE void score_gradients(const TileQueries& t, float scale, int64_t r, int64_t row, const float* scores, const float* dscores,
                            bf16 (*ds_rows)[STRIP * KEYS], int64_t keys, const Visible& visible, const Outside& outside) {
  constexpr double LOG2_E = 1.4426950408889634;
  const V numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const V factor = set1(scale), in_powers = set1((float)((double)scale * LOG2_E)), hidden = set1(-INFINITY);
  V p[2][KEYS / W], ds[2][KEYS / W];
#pragma GCC unroll 2
  for (int64_t i = 0; i < 2; i++) {
    const V limit = set1((float)visible(r + i)), shift = set1(-t.lse[r + i]), dot = set1(t.dot[r + i]);
    const V before = set1((float)outside(r + i));
#pragma GCC unroll 4
    for (int64_t j = 0; j < KEYS / W; j++) {
      if (MASKED && (j * W >= keys || r + i >= t.count)) {
        p[i][j] = ds[i][j] = zero();
        continue;
      }
      const int64_t at = j / 2 * STRIP * COLUMNS + (row + i) * COLUMNS + j % 2 * W;
      const V index = add(numbers, set1((float)(j * W)));
      V x = fma(load(scores + at), in_powers, shift);
      if (MASKED) x = select_less(index, limit, x, hidden);
      p[i][j] = exp2_of_negative(x);
      ds[i][j] = mul(mul(p[i][j], sub(load(dscores + at), dot)), factor);
      if (!MASKED) continue;
      ds[i][j] = select_less(index, limit, ds[i][j], zero());
      p[i][j] = select_less(index, before, zero(), p[i][j]);
      ds[i][j] = select_less(index, before, zero(), ds[i][j]);
    }
  }
#pragma GCC unroll 2
  for (int64_t i = 0; i < 2; i++)
#pragma GCC unroll 2
    for (int64_t j = 0; j < KEYS / GROUP; j++) {
      const Pairs rounded = rounded_halves(ds[i][2 * j], ds[i][2 * j + 1]);
      const Pairs rest = remaining_halves(ds[i][2 * j], ds[i][2 * j + 1], rounded);
      memcpy(ds_rows[0] + (row + i) * KEYS + j * GROUP, &rounded, sizeof rounded);
      memcpy(ds_rows[1] + (row + i) * KEYS + j * GROUP, &rest, sizeof rest);
    }
#pragma GCC unroll 4
  for (int64_t j = 0; j < KEYS / W; j++) {
    const int64_t at = j * PANEL * t.most + r * PANEL;
    const Pairs rounded[2] = {rounded_halves(p[0][j], p[1][j]), rounded_halves(ds[0][j], ds[1][j])};
    const Pairs pairs[4] = {paired(rounded[0]), paired(remaining_halves(p[0][j], p[1][j], rounded[0])), paired(rounded[1]),
                            paired(remaining_halves(ds[0][j], ds[1][j], rounded[1]))};
    bf16* const targets[4] = {t.p[0], t.p[1], t.ds[0], t.ds[1]};
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; i++) memcpy(targets[i] + at, &pairs[i], sizeof pairs[i]);
  }
}

// target [2][width][32] += Σ left (width, most) · right, pairs of rows over `keys`.
static void add_transposed(Tiles& tiles, float* target, const bf16* left, const bf16* right, int64_t width, int64_t most,
                           int64_t keys, int64_t count, const Part* parts) {
  const int64_t panels = ceil_div(keys, PANEL), next = PANEL * most;
  for (int64_t i = 0; i < panels; i += 2)
    for (int64_t d = 0; d < width; d += STRIP) {
      float* c = target + (i / 2 * width + d) * COLUMNS;
      multiply(tiles, smaller(STRIP, width - d), smaller(2, panels - i),
               Block{left + d * most, most, GROUP, right + i * next, next, most, c, c, count, parts}, [](int64_t) {});
    }
}

// The gradients between block b of the keys and the rows of queries; row r attends to the first visible(r) of `keys` but for
// the first outside(r).
template <class Visible, class Outside>
static void block_gradients(Tiles& tiles, const TileGradient& g, const TileKeys& k, TileQueries& t, int64_t b, int64_t keys,
                            const Visible& visible, const Outside& outside) {
  alignas(64) float scores[2][STRIP * COLUMNS * 2];
  alignas(64) bf16 ds_rows[2][STRIP * KEYS];
  const int64_t depth = g.depth(), width = g.width(), panels = ceil_div(keys, PANEL);
  const bf16 *key = k.keys + b * KEYS * depth, *value = k.values + b * KEYS * depth, *over = k.over_keys + b * KEYS * width;
  const auto nothing = [](int64_t) {};
  const Part of_dout[3] = {{0, 0}, {t.dout[1] - t.dout[0], 0}, {t.dout[2] - t.dout[0], 0}};
  static constexpr Part of_ds[2] = {{0, 0}, {STRIP * KEYS, 0}};
  for (int64_t first = 0; first < t.most; first += STRIP) {
    const int64_t count = smaller(STRIP, t.most - first);
    for (int64_t i = 0; i < panels; i += 2) {
      const int64_t beside = smaller(2, panels - i), next = depth * PANEL;
      float *s = scores[0] + i / 2 * STRIP * COLUMNS, *ds = scores[1] + i / 2 * STRIP * COLUMNS;
      multiply(tiles, count, beside, Block{t.q + first * depth, depth, GROUP, key + i * next, next, depth, nullptr, s}, nothing);
      multiply(tiles, count, beside,
               Block{t.dout[0] + first * depth, depth, GROUP, value + i * next, next, depth, nullptr, ds, 3, of_dout}, nothing);
    }
    for (int64_t row = 0; row < count; row += 2) {
      const int64_t r = first + row;
      if (r + 2 <= t.count && smaller(visible(r), visible(r + 1)) >= KEYS && larger(outside(r), outside(r + 1)) <= 0)
        score_gradients<false>(t, g.scale, r, row, scores[0], scores[1], ds_rows, keys, visible, outside);
      else score_gradients<true>(t, g.scale, r, row, scores[0], scores[1], ds_rows, keys, visible, outside);
    }
    for (int64_t i = 0; i < width / PANEL; i += 2) {
      float* c = t.dq + (i / 2 * t.most + first) * COLUMNS;
      multiply(tiles, count, smaller(2, width / PANEL - i),
               Block{ds_rows[0], KEYS, GROUP, over + i * KEYS * PANEL, KEYS * PANEL, whole_groups(keys), c, c, 2, of_ds}, nothing);
    }
  }
  const Part of_keys[2] = {{0, 0}, {0, t.ds[1] - t.ds[0]}};
  const Part of_values[3] = {{0, 0}, {0, t.p[1] - t.p[0]}, {t.dout_t[1] - t.dout_t[0], 0}};
  add_transposed(tiles, k.dkeys + b * KEYS * width, t.q_t, t.ds[0], width, t.most, keys, 2, of_keys);
  add_transposed(tiles, k.dvalues + b * KEYS * width, t.dout_t[0], t.p[0], width, t.most, keys, 3, of_values);
}

// One segment and one key-value head: dq, dk and dv of its own tokens =, and its prefix's share to the rows of scratch from `share` on.
static void segment_gradients(const TileGradient& g, const int32_t* segment, int64_t h, int64_t share) {
  const int64_t start = segment[0], length = segment[1], prefix_start = segment[2], prefix_length = segment[3];
  const int64_t Dh = g.Dh, depth = g.depth(), width = g.width(), prefix_blocks = ceil_div(prefix_length, KEYS);
  const TileKeys k = tile_keys(g, prefix_blocks + ceil_div(length, KEYS));
  const auto pack = [&](int64_t b, int64_t row, int64_t keys) {
    const bf16 *key = g.k + row * g.ldq + h * Dh, *value = g.v + row * g.ldq + h * Dh;
    pack_keys(k.keys + b * KEYS * depth, key, keys, g.ldq, Dh);
    pack_keys(k.values + b * KEYS * depth, value, keys, g.ldq, Dh);
    pack_values(k.over_keys + b * KEYS * width, key, keys, g.ldq, Dh);
  };
  for (int64_t j = 0; j < prefix_length; j += KEYS) pack(j / KEYS, prefix_start + j, smaller(KEYS, prefix_length - j));
  for (int64_t j = 0; j < length; j += KEYS) pack(prefix_blocks + j / KEYS, start + j, smaller(KEYS, length - j));
  Tiles tiles;
  const int64_t tokens_at_once = query_tokens(g.group);
  for (int64_t from = 0; from < length; from += tokens_at_once) {
    const int64_t tokens = smaller(tokens_at_once, length - from);
    TileQueries t = tile_queries(g, tokens * g.group);
    read_queries(g, start, from, tokens, h, t);
    // keys before the window of token `from`, of the segment's own and with its prefix
    const int64_t own_before = from - g.window + 1, before = own_before + prefix_length;
    const auto outside = [&](int64_t keys, int64_t first) {
      return [&g, keys, first](int64_t r) { return larger(0, smaller(keys, first + r / g.group)); };
    };
    for (int64_t j = first_block(before); j < prefix_length; j += KEYS) {
      const int64_t keys = smaller(KEYS, prefix_length - j);
      if (before - j < keys)
        block_gradients(tiles, g, k, t, j / KEYS, keys, [&](int64_t) { return keys; }, outside(keys, before - j));
    }
    for (int64_t j = first_block(own_before); j < from + tokens; j += KEYS) {
      const int64_t keys = smaller(KEYS, from + tokens - j);
      block_gradients(tiles, g, k, t, prefix_blocks + j / KEYS, keys,
                      [&](int64_t r) { return smaller(keys, from + r / g.group - j + 1); },
                      outside(keys, own_before - j));
    }
    for (int64_t r = 0; r < t.count; r++) {
      float* dq = g.dq + (start + from + r / g.group) * g.ldq + (h * g.group + r % g.group) * Dh;
      for (int64_t d = 0; d < Dh; d += W)
        store_upto(dq + d, load(t.dq + (d / COLUMNS * t.most + r) * COLUMNS + d % COLUMNS), (int)smaller(W, Dh - d));
    }
  }
  const auto copy = [&](float* to, const float* from, int64_t key, int64_t elements) {
    const float* column = from + key / COLUMNS * width * COLUMNS + key % COLUMNS;
    for (int64_t d = 0; d < elements; d++) to[d] = column[d * COLUMNS];
  };
  for (int64_t j = 0; j < length; j++) {
    const int64_t target = (start + j) * g.ldq + h * Dh;
    copy(g.dk + target, k.dkeys, prefix_blocks * KEYS + j, Dh);
    copy(g.dv + target, k.dvalues, prefix_blocks * KEYS + j, Dh);
  }
  for (int64_t j = 0; j < prefix_length; j++) {
    float* target = g.scratch + (share + j) * g.share_floats() + h * 2 * width;
    copy(target, k.dkeys, j, width);
    copy(target + width, k.dvalues, j, width);
  }
}

// dk and dv += the shares of segments first … last − 1 in scratch, in that order; for one key-value head and KEYS rows of
// a prefix, from row `from` on.
static void add_shares(const TileGradient& g, int64_t first, int64_t last, int64_t h, int64_t from) {
  const int64_t width = g.width();
  int64_t offset = 0;
  for (int64_t i = first; i < last; i++) {
    const int64_t prefix_start = g.segments[4 * i + 2], prefix_length = g.segments[4 * i + 3];
    for (int64_t j = from; j < smaller(prefix_length, from + KEYS); j++) {
      const float* share = g.scratch + (offset + j) * g.share_floats() + h * 2 * width;
      float* key = g.dk + (prefix_start + j) * g.ldq + h * g.Dh;
      float* value = g.dv + (prefix_start + j) * g.ldq + h * g.Dh;
      for (int64_t d = 0; d < g.Dh; d++) {
        key[d] += share[d];
        value[d] += share[width + d];
      }
    }
    offset += prefix_length;
  }
}

static void attention_backward(float* dq, float* dk, float* dv, const float* dout, const void* q, const void* k, const void* v,
                               const void* out, const float* lse, const int32_t* segments, float* scratch,
                               int32_t scratch_rows, int32_t S, int32_t T, int32_t H, int32_t Hkv, int32_t Dh,
                               int32_t window, int32_t ldq, int32_t ldo, float scale, int32_t dtype) {
  if (dtype != BFLOAT16)
    return BASE_PATH::attention_backward(dq, dk, dv, dout, q, k, v, out, lse, segments, scratch, scratch_rows, S, T, H, Hkv,
                                         Dh, window, ldq, ldo, scale, dtype);
  const TileGradient g{dq,       dk,      dv, dout, (const bf16*)q, (const bf16*)k, (const bf16*)v, (const bf16*)out, lse,
                       segments, scratch, H,  Hkv,  H / Hkv,        Dh,             window_tokens(window), ldq, ldo, scale};
  // In waves of as many segments as fit in scratch.
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
      segment_gradients(g, segments + 4 * index, task % Hkv, share);
    });
    parallel(Hkv * ceil_div(longest, KEYS),
             [&](int64_t task) { add_shares(g, first, last, task % Hkv, task / Hkv * KEYS); });
  }
}

}  // namespace KERNEL_PATH
