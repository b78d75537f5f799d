// The gradient of attention over bfloat16 on a path that multiplies in bfloat16: attention.cpp's formulas, with all five products on
// tiles. P and dS are rounded to bfloat16, as the gradients themselves are, and as tensor cores take them; sums are float32. Those
// of a prompt wait in scratch for its completions and are rounded once, when all is added.
//
// A task is one segment and one key-value head. The reduction of dk and dv runs over rows of queries, so P and dS are written as
// pairs of rows, and q and dout are transposed once per block of queries: dkᵀ = qᵀ dS, dvᵀ = doutᵀ P.
#include "attention_bf16.cpp"

namespace KERNEL_PATH {

// Floats per row of scratch: a completion's share of the gradients of its prompt's keys and values, and their sum.
static int64_t attention_scratch_elements(int32_t Hkv, int32_t Dh) { return 2 * Hkv * 2 * value_width(Dh); }

// The arguments of attention_backward.
struct TileGradient {
  bf16 *dq, *dk, *dv;
  const bf16 *dout, *q, *k, *v, *out;
  const float* lse;
  const int32_t* segments;
  float* scratch;
  int64_t S, H, Hkv, group, Dh;
  int64_t window;  // tokens that a token attends to, itself included
  int64_t ldq, ldo;
  float scale;

  int64_t depth() const { return whole_groups(Dh); }
  int64_t width() const { return value_width(Dh); }
  int64_t row_floats() const { return attention_scratch_elements((int32_t)Hkv, (int32_t)Dh); }
  // A head's keys and values in a row of scratch, one beside the other.
  float* share(int64_t row, int64_t h) const { return scratch + row * row_floats() + h * 2 * width(); }
  float* sum(int64_t row, int64_t h) const { return share(row, Hkv + h); }
  // The segment after i attends to segment i, and so may others that follow.
  bool shared(int64_t i) const {
    const int32_t *segment = segments + 4 * i, *next = segment + 4;
    return i + 1 < S && segment[3] == 0 && next[3] > 0 && next[2] == segment[0];
  }
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
  bf16* dout;       // the same
  bf16* q_t;        // (width, most)
  bf16* dout_t;     // the same
  bf16* p;          // [4][most / 2][16][2]: P
  bf16* ds;         // the same of dS
  float* dq;        // [pairs of panels][most][32]
  float* lse;       // (most), times log₂ e
  float* dot;       // (most): dout · out
};

INLINE int64_t query_bytes(int64_t Dh) {
  return 2 * (2 * whole_groups(Dh) + 2 * value_width(Dh) + 2 * KEYS) + 4 * (pairs_of(value_width(Dh) / PANEL) * COLUMNS + 2);
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
  t.dout = take(most * depth);
  t.q_t = take(most * width);
  t.dout_t = take(most * width);
  t.p = take(most * KEYS);
  t.ds = take(most * KEYS);
  return t;
}

// (rows, depth) to (width, rows), both in whole groups.
static void transpose_rows(bf16* target, const bf16* source, int64_t rows, int64_t depth, int64_t width) {
  for (int64_t r = 0; r < rows; r += GROUP)
    for (int64_t d = 0; d < width; d += PANEL)
      transpose_group([&](int64_t i) __attribute__((always_inline)) { return row_pairs(source + (r + 2 * i) * depth + d, depth); },
                      [&](int64_t i, const Pairs& row) __attribute__((always_inline)) {
                        memcpy(target + (d + i) * rows + r, &row, sizeof row);
                      });
}

static void read_queries(const TileGradient& g, int64_t start, int64_t from, int64_t tokens, int64_t h, TileQueries& t) {
  constexpr double LOG2_E = 1.4426950408889634;
  const int64_t depth = g.depth();
  t.count = tokens * g.group;
  for (int64_t r = 0; r < t.most; r++) {
    const int64_t token = start + from + r / g.group, head = h * g.group + r % g.group;
    const bool there = r < t.count;
    const int64_t Dh = there ? g.Dh : 0;
    const int64_t at = there ? token * g.ldo + head * g.Dh : 0;
    V dot = zero();
    for (int64_t d = 0; d < depth; d += GROUP) {
      const Pairs query = whole_row(g.q + (there ? token * g.ldq + head * g.Dh : 0) + d, Dh - d);
      const Pairs dout = whole_row(g.dout + at + d, Dh - d);
      memcpy(t.q + r * depth + d, &query, sizeof query);
      memcpy(t.dout + r * depth + d, &dout, sizeof dout);
      for (int64_t i = d; i < smaller(Dh, d + GROUP); i += W) {
        const int n = (int)smaller(W, Dh - i);
        dot = fma(load_upto(g.dout + at + i, n), load_upto(g.out + at + i, n), dot);
      }
    }
    t.dot[r] = sum_lanes(dot);
    t.lse[r] = there ? (float)((double)g.lse[token * g.H + head] * LOG2_E) : 0.0f;
  }
  transpose_rows(t.q_t, t.q, t.most, depth, g.width());
  transpose_rows(t.dout_t, t.dout, t.most, depth, g.width());
  memset(t.dq, 0, pairs_of(g.width() / PANEL) * t.most * COLUMNS * 4);
}

// Rows r and r + 1 of a strip: scores and dP to P and dS. `row` counts from the strip's start, where `ds_rows` begins. MASKED:
// not every row attends to every one of 64 keys.
template <bool MASKED, class Visible, class Outside>
INLINE void score_gradients(const TileQueries& t, float scale, int64_t r, int64_t row, const float* scores, const float* dscores,
                            bf16* ds_rows, int64_t keys, const Visible& visible, const Outside& outside) {
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
      memcpy(ds_rows + (row + i) * KEYS + j * GROUP, &rounded, sizeof rounded);
    }
#pragma GCC unroll 4
  for (int64_t j = 0; j < KEYS / W; j++) {
    const int64_t at = j * PANEL * t.most + r * PANEL;
    const Pairs pairs[2] = {paired(rounded_halves(p[0][j], p[1][j])), paired(rounded_halves(ds[0][j], ds[1][j]))};
    memcpy(t.p + at, &pairs[0], sizeof pairs[0]);
    memcpy(t.ds + at, &pairs[1], sizeof pairs[1]);
  }
}

// target [2][width][32] += Σ left (width, most) · right, pairs of rows over `keys`.
static void add_transposed(Tiles& tiles, float* target, const bf16* left, const bf16* right, int64_t width, int64_t most,
                           int64_t keys) {
  const int64_t panels = ceil_div(keys, PANEL), next = PANEL * most;
  for (int64_t i = 0; i < panels; i += 2)
    for (int64_t d = 0; d < width; d += STRIP) {
      float* c = target + (i / 2 * width + d) * COLUMNS;
      multiply(tiles, smaller(STRIP, width - d), smaller(2, panels - i),
               Block{left + d * most, most, GROUP, right + i * next, next, most, c, c}, [](int64_t) {});
    }
}

// The gradients between block b of the keys and the rows of queries; row r attends to the first visible(r) of `keys` but for
// the first outside(r).
template <class Visible, class Outside>
static void block_gradients(Tiles& tiles, const TileGradient& g, const TileKeys& k, TileQueries& t, int64_t b, int64_t keys,
                            const Visible& visible, const Outside& outside) {
  alignas(64) float scores[2][STRIP * COLUMNS * 2];
  alignas(64) bf16 ds_rows[STRIP * KEYS];
  const int64_t depth = g.depth(), width = g.width();
  const bf16 *key = k.keys + b * KEYS * depth, *value = k.values + b * KEYS * depth, *over = k.over_keys + b * KEYS * width;
  const auto nothing = [](int64_t) {};
  for (int64_t first = 0; first < t.most; first += STRIP) {
    const int64_t count = smaller(STRIP, t.most - first);
    // without the keys that none of these rows attends to
    const int64_t seen = larger(1, smaller(keys, visible(smaller(first + count, t.count) - 1)));
    const int64_t panels = ceil_div(seen, PANEL);
    for (int64_t i = 0; i < panels; i += 2) {
      const int64_t beside = smaller(2, panels - i), next = depth * PANEL;
      float *s = scores[0] + i / 2 * STRIP * COLUMNS, *ds = scores[1] + i / 2 * STRIP * COLUMNS;
      multiply(tiles, count, beside, Block{t.q + first * depth, depth, GROUP, key + i * next, next, depth, nullptr, s}, nothing);
      multiply(tiles, count, beside,
               Block{t.dout + first * depth, depth, GROUP, value + i * next, next, depth, nullptr, ds}, nothing);
    }
    for (int64_t row = 0; row < count; row += 2) {
      const int64_t r = first + row;
      if (r + 2 <= t.count && smaller(visible(r), visible(r + 1)) >= KEYS && larger(outside(r), outside(r + 1)) <= 0)
        score_gradients<false>(t, g.scale, r, row, scores[0], scores[1], ds_rows, seen, visible, outside);
      else score_gradients<true>(t, g.scale, r, row, scores[0], scores[1], ds_rows, seen, visible, outside);
    }
    for (int64_t i = 0; i < width / PANEL; i += 2) {
      float* c = t.dq + (i / 2 * t.most + first) * COLUMNS;
      multiply(tiles, count, smaller(2, width / PANEL - i),
               Block{ds_rows, KEYS, GROUP, over + i * KEYS * PANEL, KEYS * PANEL, whole_groups(seen), c, c}, nothing);
    }
  }
  add_transposed(tiles, k.dkeys + b * KEYS * width, t.q_t, t.ds, width, t.most, keys);
  add_transposed(tiles, k.dvalues + b * KEYS * width, t.dout_t, t.p, width, t.most, keys);
}

// Where a segment's part of the gradients of a prompt goes: rows of scratch from `share` on are its own, from `sum` on those of
// the prompt.
struct ScratchPlace {
  int64_t share, sum, used;  // rows that are used up to this segment
};

// `first`: the first segment of those that use scratch at the same time. A prompt's completions follow it.
static ScratchPlace scratch_place(const TileGradient& g, int64_t first, int64_t index) {
  ScratchPlace place{0, 0, 0};
  int64_t next = 0;
  for (int64_t i = first; i <= index; i++) {
    const int64_t length = g.segments[4 * i + 1], prefix_length = g.segments[4 * i + 3];
    if (prefix_length == 0) {
      place.share = place.sum = next = place.used;
      if (g.shared(i)) place.used += length;
    } else {
      place.share = next;
      next += prefix_length;
      place.used = larger(place.used, next);
    }
  }
  return place;
}

// Gradients of keys [from, to) of one head as rows of Dh elements, `ld` apart, from [blocks][2][width][32], where they are columns.
template <class T>
static void write_keys(T* target, int64_t ld, const float* transposed, int64_t from, int64_t to, int64_t Dh, int64_t width) {
  for (int64_t key = from; key < to;) {
    const int64_t first = key / PANEL * PANEL, end = smaller(to, first + PANEL);
    const float* column = transposed + key / COLUMNS * width * COLUMNS + first % COLUMNS;
    for (int64_t d = 0; d < Dh; d += PANEL) {
      Pairs v[PANEL];
      for (int64_t i = 0; i < PANEL; i++) memcpy(&v[i], column + (d + i) * COLUMNS, sizeof v[i]);
      transpose_pairs(v);
      for (int64_t i = key; i < end; i++) store_upto(target + (i - from) * ld + d, (V)v[i - first], (int)smaller(PANEL, Dh - d));
    }
    key = end;
  }
}

// One segment and one key-value head: dq, dk and dv of its own tokens =, and what it adds to a prompt in scratch.
static void segment_gradients(const TileGradient& g, int64_t index, int64_t h, const ScratchPlace& place) {
  const int32_t* segment = g.segments + 4 * index;
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
      bf16* dq = g.dq + (start + from + r / g.group) * g.ldq + (h * g.group + r % g.group) * Dh;
      for (int64_t d = 0; d < Dh; d += W)
        store_upto(dq + d, load(t.dq + (d / COLUMNS * t.most + r) * COLUMNS + d % COLUMNS), (int)smaller(W, Dh - d));
    }
  }
  const int64_t row = g.row_floats(), own = prefix_blocks * KEYS;
  const auto write = [&](auto* keys, auto* values, int64_t ld, int64_t from, int64_t to) {
    write_keys(keys, ld, k.dkeys, from, to, Dh, width);
    write_keys(values, ld, k.dvalues, from, to, Dh, width);
  };
  if (g.shared(index)) write(g.sum(place.sum, h), g.sum(place.sum, h) + width, row, own, own + length);
  else write(g.dk + start * g.ldq + h * Dh, g.dv + start * g.ldq + h * Dh, g.ldq, own, own + length);
  if (prefix_length > 0) write(g.share(place.share, h), g.share(place.share, h) + width, row, 0, prefix_length);
}

// Adds the shares of completions to their prompt's sum, in their order, for one head; segments first … last − 1 are in scratch, of
// them `index` is the prompt or, if it was there before, the first completion. When all are added, dk and dv = the sum.
static void add_shares(const TileGradient& g, int64_t first, int64_t last, int64_t index, int64_t h) {
  const int32_t* segment = g.segments + 4 * index;
  const bool prompt = segment[3] == 0;
  if (prompt ? !g.shared(index) : index > first) return;
  const int64_t start = prompt ? segment[0] : segment[2], length = prompt ? segment[1] : segment[3];
  const ScratchPlace place = scratch_place(g, first, index);
  int64_t share = place.share, i = index + (prompt ? 1 : 0);
  const auto belongs = [&](int64_t other) {
    return other < g.S && g.segments[4 * other + 3] > 0 && g.segments[4 * other + 2] == start;
  };
  for (; i < last && belongs(i); i++, share += length)
    for (int64_t j = 0; j < length; j++) {
      float* sum = g.sum(place.sum + j, h);
      const float* added = g.share(share + j, h);
      for (int64_t d = 0; d < 2 * g.width(); d += W) store(sum + d, add(load(sum + d), load(added + d)));
    }
  if (i == last && belongs(i)) return;
  for (int64_t j = 0; j < length; j++) {
    const float* sum = g.sum(place.sum + j, h);
    const int64_t target = (start + j) * g.ldq + h * g.Dh;
    for (int64_t d = 0; d < g.Dh; d += W) {
      const int n = (int)smaller(W, g.Dh - d);
      store_upto(g.dk + target + d, load(sum + d), n);
      store_upto(g.dv + target + d, load(sum + g.width() + d), n);
    }
  }
}

static void attention_backward(void* dq, void* dk, void* dv, const void* dout, const void* q, const void* k, const void* v,
                               const void* out, const float* lse, const int32_t* segments, float* scratch,
                               int32_t scratch_rows, int32_t S, int32_t T, int32_t H, int32_t Hkv, int32_t Dh,
                               int32_t window, int32_t ldq, int32_t ldo, float scale, int32_t dtype, int32_t gdtype) {
  if (dtype != BFLOAT16 || gdtype != BFLOAT16)
    return BASE_PATH::attention_backward(dq, dk, dv, dout, q, k, v, out, lse, segments, scratch, scratch_rows, S, T, H, Hkv,
                                         Dh, window, ldq, ldo, scale, dtype, gdtype);
  const TileGradient g{(bf16*)dq, (bf16*)dk, (bf16*)dv, (const bf16*)dout, (const bf16*)q, (const bf16*)k, (const bf16*)v,
                       (const bf16*)out, lse, segments, scratch, S, H, Hkv, H / Hkv, Dh, window_tokens(window), ldq, ldo, scale};
  // In waves of as many segments as fit in scratch.
  for (int64_t first = 0, last; first < S; first = last) {
    for (last = first + 1; last < S && scratch_place(g, first, last).used <= scratch_rows;) last++;
    parallel((last - first) * Hkv, [&](int64_t task) {
      const int64_t index = first + task / Hkv;
      segment_gradients(g, index, task % Hkv, scratch_place(g, first, index));
    });
    parallel((last - first) * Hkv, [&](int64_t task) { add_shares(g, first, last, first + task / Hkv, task % Hkv); });
    // The sum that goes on moves to where the next wave expects it.
    if (last == S || segments[4 * last + 3] == 0) continue;
    const int64_t from = scratch_place(g, first, last - 1).sum;
    for (int64_t j = 0; from > 0 && j < segments[4 * last + 3]; j++)
      memcpy(g.sum(j, 0), g.sum(from + j, 0), Hkv * 2 * g.width() * sizeof(float));
  }
}

}  // namespace KERNEL_PATH
