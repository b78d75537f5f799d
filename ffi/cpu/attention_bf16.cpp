// Attention over bfloat16 on a path that multiplies in bfloat16 (tile_bf16.h): attention.cpp's order and blocks, with both products
// on tiles. Scores and sums are float32. A probability is multiplied as the sum of two bfloat16, its rounding and the remainder:
// the second product costs less than the softmax, and the result is as exact as a float32 product. Float32 inputs are the base
// path's.
//
//   attention_forward, kv_store, attention_decode: as in attention.cpp
//
// A row's softmax state is carried from block to block of 64 keys; a masked key contributes exactly zero; every product has one
// order in groups of 32. So a row's bits are the same from the cache and in a training batch (promise 2).
//
// A page holds one block as pairs, which both products load as they are: keys [Hkv][4][Dh/2][16][2], Dh padded to whole groups,
// over the head size; values [Hkv][Dh/16][32][16][2] over the keys.
#include <math.h>

#include "threads.h"
#include "tile_bf16.h"

namespace KERNEL_PATH {

static constexpr int64_t KEYS = 64;  // keys in a block, tokens in a page

// Tokens whose rows share a packed block of keys: about 200 rows.
INLINE int64_t query_tokens(int64_t group) { return group == 1 ? 192 : group == 2 ? 96 : 64; }

// Tokens that a token attends to, itself included; 0 stands for all.
INLINE int64_t window_tokens(int32_t window) { return window > 0 ? window : (int64_t)1 << 40; }
// The start of the first block with a key that is not among the first `outside`.
INLINE int64_t first_block(int64_t outside) { return outside > 0 ? outside / KEYS * KEYS : 0; }

INLINE int64_t value_width(int64_t Dh) { return ceil_div(Dh, PANEL) * PANEL; }

// With float32 pages, the part beyond the base path's layout stays unused.
static int64_t key_page_elements(int32_t Hkv, int32_t Dh) { return Hkv * KEYS * whole_groups(Dh); }

// 2^x for x ≤ 0 to about one ulp: exactly 1 at 0, exactly 0 from −127 on (so −inf gives 0), NaN of NaN. Half the work of simd.h's exp,
// which has to know ln 2 in two parts; softmax takes more time here than its products.
INLINE V exp2_of_negative(V x) {
  x = max(set1(-127.0f), x);  // in this order max preserves NaN
  const V n = round_nearest(x), r = sub(x, n);
  V p = set1(1.535336699e-4f);  // the polynomial with the least relative error, 2e-9, for |r| ≤ ½
  p = fma(p, r, set1(1.339887997e-3f));
  p = fma(p, r, set1(9.618437383e-3f));
  p = fma(p, r, set1(5.550332453e-2f));
  p = fma(p, r, set1(2.402264791e-1f));
  p = fma(p, r, set1(6.931472029e-1f));
  p = fma(p, r, set1(1.0f));
  return mul(p, pow2(n));
}

// Lane i: the largest lane of v[i], for vectors without NaN.
INLINE V largest(V (&v)[W]) {
#pragma GCC unroll 4
  for (int n = W / 2; n > 0; n /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
      v[i] = max((V)interleaved_low((Pairs)v[i], (Pairs)v[i + n]), (V)interleaved_high((Pairs)v[i], (Pairs)v[i + n]));
  return v[0];
}

// Rows of queries being processed block by block.
struct TileRows {
  int64_t count, depth, panels;  // rows; the head size in whole groups; panels of values
  float scale;                   // of scores, in powers of two
  bf16* q;                       // (count, depth)
  float* acc;                    // [pairs of panels][count][32]
  float* max;                    // (count), times `scale`
  float* sum;                    // (count, W): lane j sums keys j, j + W, …
};

INLINE int64_t pairs_of(int64_t panels) { return ceil_div(panels, 2); }
INLINE int64_t row_bytes(int64_t Dh) {
  return 2 * whole_groups(Dh) + 4 * (pairs_of(value_width(Dh) / PANEL) * COLUMNS + 1 + W);
}
INLINE int64_t block_bytes(int64_t Dh) { return 2 * KEYS * (whole_groups(Dh) + value_width(Dh)); }

// Maximum bytes of a thread's scratch memory.
static int64_t attention_scratch_bytes(int64_t group, int64_t Dh) {
  return query_tokens(group) * group * row_bytes(Dh) + 2 * block_bytes(Dh) + 4096;
}

// Returns space for two blocks of keys with their values.
template <class Query>
INLINE bf16* tile_rows(TileRows* rows, int64_t count, int64_t Dh, float scale, const Query& query) {
  constexpr double LOG2_E = 1.4426950408889634;
  const int64_t depth = whole_groups(Dh), panels = value_width(Dh) / PANEL;
  char* memory = (char*)thread_scratch(1, count * row_bytes(Dh) + 2 * block_bytes(Dh));
  bf16* block = (bf16*)memory;
  bf16* q = block + 2 * KEYS * (depth + value_width(Dh));
  float* acc = (float*)(q + count * depth);
  float* sum = acc + pairs_of(panels) * count * COLUMNS;
  *rows = TileRows{count, depth, panels, (float)((double)scale * LOG2_E), q, acc, sum + count * W, sum};
  for (int64_t r = 0; r < count; r++) {
    const bf16* source = query(r);
    for (int64_t d = 0; d < depth; d += GROUP) {
      const Pairs part = whole_row(source + d, Dh - d);
      memcpy(q + r * depth + d, &part, sizeof part);
    }
    rows->max[r] = -INFINITY;
  }
  memset(acc, 0, pairs_of(panels) * count * COLUMNS * 4);
  memset(sum, 0, count * W * 4);
  return block;
}

// The first of four vectors of a row's scores with a block; the second two are with the strip's second pair of panels.
template <class Float>
INLINE Float* scores_of(Float* scores, int64_t row, int64_t j) {
  return scores + (j / 2 * STRIP + row) * COLUMNS + j % 2 * W;
}

// Which keys of a block its rows attend to: `group` rows belong to one token; token i of the rows sees the first own + i + 1 keys,
// but for the first before + i. Blocks of which a row sees no key come before all others.
struct Mask {
  int64_t keys, group, own, before;

  int64_t visible(int64_t r) const { return smaller(keys, own + r / group + 1); }
  int64_t outside(int64_t r) const { return larger(0, smaller(keys, before + r / group)); }
  // The same without the keys that none of the first `rows` rows attends to.
  Mask of_rows(int64_t rows) const { return Mask{larger(1, visible(rows - 1)), group, own, before}; }
  // Whether `count` rows from `first` on attend to a whole block.
  bool everything(int64_t first, int64_t count) const {
    return keys == KEYS && own + first / group + 1 >= KEYS && before + (first + count - 1) / group <= 0;
  }
};

// Up to STRIP rows and a block of keys.
struct StripOfBlock {
  int64_t first, count;
  const bf16 *keys_at, *values_at;
  Mask mask;

  int64_t key_pairs() const { return ceil_div(mask.keys, 2 * PANEL); }
};

// Runs through blocks of keys. A strip's probabilities are computed between the multiplications of its neighbours: those of the
// next strip's scores, and of the values with the probabilities of the one before.
class Attention {
 public:
  Attention(Tiles& tiles, const TileRows& rows) : tiles_(tiles), rows_(rows), alone_(rows.count <= STRIP) {}

  // All rows with one block, whose memory must stay as it is until the block after it was added. `meanwhile` as in multiply.
  template <class Meanwhile>
  void add_block(const bf16* keys_at, const bf16* values_at, const Mask& mask, const Meanwhile& meanwhile) {
    for (int64_t first = 0; first < rows_.count; first += STRIP) {
      const int64_t count = smaller(STRIP, rows_.count - first);
      add_strip(StripOfBlock{first, count, keys_at, values_at, mask.of_rows(first + count)}, meanwhile);
    }
  }

  void finish() {
    const auto nothing = [](int64_t) {};
    Background<Row> current = probabilities(before_.count > 0 ? products_with_values(before_) : 1);
    if (before_.count > 0) add_values(before_, p_[1 - turn_], current, nothing);
    current.finish();
    if (current_.count > 0) add_values(current_, p_[turn_], current, nothing);
    before_.count = current_.count = 0;
  }

 private:
  // The probabilities (64) of a row of the current strip, and their remainders.
  struct Row {
    const TileRows* rows;
    const float *scores, *shift;
    float* sum;
    bf16* p;

    inline __attribute__((always_inline)) void operator()() {
      const V down = set1(*shift), scale = set1(rows->scale);
      V s[KEYS / W], total = load(sum);
      // Rounded before the maximum is subtracted, as that was: a fused difference of huge scores would be far above 0.
#pragma GCC unroll 4
      for (int64_t j = 0; j < KEYS / W; j++) s[j] = exp2_of_negative(sub(mul(load(scores_of(scores, 0, j)), scale), down));
#pragma GCC unroll 4
      for (int64_t j = 0; j < KEYS / W; j++) total = add(total, s[j]);
      store(sum, total);
#pragma GCC unroll 2
      for (int64_t j = 0; j < KEYS / GROUP; j++) {
        const Pairs part = rounded_halves(s[2 * j], s[2 * j + 1]);
        const Pairs rest = remaining_halves(s[2 * j], s[2 * j + 1], part);
        memcpy(p + j * GROUP, &part, sizeof part);
        memcpy(p + STRIP * KEYS + j * GROUP, &rest, sizeof rest);
      }
      scores += COLUMNS;
      shift++;
      sum += W;
      p += KEYS;
    }
  };

  // Rows of a strip without a maximum yet have none to subtract.
  Background<Row> probabilities(int64_t steps) {
    return {Row{&rows_, scores_[turn_], shift_[turn_], rows_.sum + current_.first * W, p_[turn_]}, 0, current_.count,
            ceil_div(current_.count, steps)};
  }
  int64_t products_with_values(const StripOfBlock& s) const {
    return pairs_of(rows_.panels) * 2 * (whole_groups(s.mask.keys) / GROUP);
  }

  template <class Meanwhile>
  void add_strip(const StripOfBlock& next, const Meanwhile& meanwhile) {
    const bool values = before_.count > 0;
    Background<Row> current =
        probabilities(next.key_pairs() * (rows_.depth / GROUP) + (values ? products_with_values(before_) : 0));
    const int64_t next_key = rows_.depth * PANEL;
    for (int64_t i = 0; i < ceil_div(next.mask.keys, PANEL); i += 2)
      multiply(tiles_, next.count, smaller(2, ceil_div(next.mask.keys, PANEL) - i),
               Block{rows_.q + next.first * rows_.depth, rows_.depth, GROUP, next.keys_at + i * next_key, next_key, rows_.depth,
                     nullptr, scores_[1 - turn_] + i / 2 * STRIP * COLUMNS},
               [&](int64_t group) __attribute__((always_inline)) {
                 meanwhile(group);
                 current.step();
               });
    if (values) add_values(before_, p_[1 - turn_], current, meanwhile);
    current.finish();
    before_ = current_;
    current_ = next;
    turn_ = 1 - turn_;
    // The next block would change what these rows have summed up: nothing can wait.
    if (alone_ && before_.count > 0) {
      add_values(before_, p_[1 - turn_], current, meanwhile);
      before_.count = 0;
    }
    for (int64_t row = 0; row < next.count; row += W) find_largest(row, smaller(W, next.count - row));
  }

  // The largest scores of `count` rows of the current strip, at most 16, and what that changes.
  void find_largest(int64_t row, int64_t count) {
    const V numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const V hidden = set1(-INFINITY);
    const Mask& mask = current_.mask;
    const int64_t first = current_.first + row;
    float* scores = scores_[turn_];
    V top[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) top[i] = hidden;
    if (mask.everything(first, count)) {
      for (int64_t i = 0; i < count; i++) {
        V s[KEYS / W];
#pragma GCC unroll 4
        for (int64_t j = 0; j < KEYS / W; j++) s[j] = load(scores_of(scores, row + i, j));
        top[i] = max(max(s[0], s[1]), max(s[2], s[3]));
      }
    } else {
      for (int64_t i = 0; i < count; i++) {
        const V seen = set1((float)mask.visible(first + i)), before = set1((float)mask.outside(first + i));
        for (int64_t j = 0; j < KEYS / W; j++) {
          const V index = add(numbers, set1((float)(j * W)));
          V s = hidden;
          if (j * W < mask.keys) s = select_less(index, seen, load(scores_of(scores, row + i, j)), hidden);
          s = select_less(index, before, hidden, s);
          store(scores_of(scores, row + i, j), s);
          top[i] = max(s, top[i]);
        }
      }
    }
    float* max_at = rows_.max + first;
    const V old_max = load_upto(max_at, (int)count), new_max = max(mul(largest(top), set1(rows_.scale)), old_max);
    // A row that has seen no key yet has no maximum.
    const V shift = select_less(hidden, new_max, new_max, zero());
    store(shift_[turn_] + row, shift);
    uint32_t changed = ~at_least(old_max, new_max) & ((1u << count) - 1);
    if (changed == 0) return;  // the correction is exactly 1
    alignas(64) float correction[W];
    store(correction, exp2_of_negative(sub(old_max, shift)));
    for (; changed != 0; changed &= changed - 1) {
      const int64_t i = __builtin_ctz(changed), r = first + i;
      const V factor = set1(correction[i]);
      store(rows_.sum + r * W, mul(load(rows_.sum + r * W), factor));
      for (int64_t pair = 0; pair < pairs_of(rows_.panels); pair++) {
        float* acc = rows_.acc + (pair * rows_.count + r) * COLUMNS;
        store(acc, mul(load(acc), factor));
        store(acc + W, mul(load(acc + W), factor));
      }
    }
    store_upto(max_at, new_max, (int)count);
  }

  template <class Meanwhile>
  void add_values(const StripOfBlock& s, const bf16* p, Background<Row>& current, const Meanwhile& meanwhile) {
    static constexpr Part both[2] = {{0, 0}, {STRIP * KEYS, 0}};
    for (int64_t i = 0; i < rows_.panels; i += 2) {
      float* acc = rows_.acc + (i / 2 * rows_.count + s.first) * COLUMNS;
      multiply(tiles_, s.count, smaller(2, rows_.panels - i),
               Block{p, KEYS, GROUP, s.values_at + i * KEYS * PANEL, KEYS * PANEL, whole_groups(s.mask.keys), acc, acc, 2, both},
               [&](int64_t group) __attribute__((always_inline)) {
                 meanwhile(group);
                 current.step();
               });
    }
  }

  Tiles& tiles_;
  const TileRows& rows_;
  const bool alone_;
  int turn_ = 0;
  StripOfBlock before_{}, current_{};
  alignas(64) float scores_[2][KEYS / COLUMNS * STRIP * COLUMNS];
  alignas(64) float shift_[2][2 * W];
  alignas(64) bf16 p_[2][2 * STRIP * KEYS];
};

// acc / sum into out (Dh elements); returns the row's log-sum-exp.
INLINE float finish_row(const TileRows& rows, int64_t r, int64_t Dh, bf16* out) {
  constexpr double LN_2 = 0.6931471805599453;
  const float sum = sum_lanes(load(rows.sum + r * W));
  const V inverse = set1(1.0f / sum);
  for (int64_t d = 0; d < Dh; d += W) {
    const float* acc = rows.acc + (d / COLUMNS * rows.count + r) * COLUMNS + d % COLUMNS;
    store_upto(out + d, mul(load(acc), inverse), (int)smaller(W, Dh - d));
  }
  return (float)((double)rows.max[r] * LN_2 + ::log((double)sum));
}

// A block of up to 64 keys, `stride` apart, as in a page.
static void pack_keys(bf16* target, const bf16* keys_from, int64_t keys, int64_t stride, int64_t Dh) {
  const int64_t depth = whole_groups(Dh);
  for (int64_t j = 0; j < keys; j += PANEL)
    for (int64_t d = 0; d < depth; d += GROUP) {
      Pairs v[PANEL];
#pragma GCC unroll 16
      for (int64_t i = 0; i < PANEL; i++)
        v[i] = j + i < keys ? whole_row(keys_from + (j + i) * stride + d, Dh - d) : Pairs{};
      transpose_pairs(v);
      memcpy(target + j * depth + d * PANEL, v, sizeof v);
    }
}

// The same for values, zero up to whole groups of keys.
static void pack_values(bf16* target, const bf16* values, int64_t keys, int64_t stride, int64_t Dh) {
  for (int64_t d = 0; d < Dh; d += PANEL)
    for (int64_t j = 0; j < whole_groups(keys); j += 2) {
      const Pairs pairs = row_pairs(values + d, stride, j, keys, Dh - d);
      memcpy(target + d * KEYS + j * PANEL, &pairs, sizeof pairs);
    }
}

static void attention_forward(void* out, float* lse, const void* q, const void* k, const void* v, const int32_t* segments,
                              int32_t S, int32_t T, int32_t H, int32_t Hkv, int32_t Dh, int32_t window, int32_t ldo,
                              int32_t ldq, float scale, int32_t dtype) {
  if (dtype != BFLOAT16)
    return BASE_PATH::attention_forward(out, lse, q, k, v, segments, S, T, H, Hkv, Dh, window, ldo, ldq, scale, dtype);
  const int64_t group = H / Hkv, seen = window_tokens(window), tokens_at_once = query_tokens(group);
  int64_t longest = 1;
  for (int64_t s = 0; s < S; s++) longest = larger(longest, segments[4 * s + 1]);
  const int64_t blocks = ceil_div(longest, tokens_at_once);
  parallel((int64_t)S * blocks * Hkv, [&](int64_t task) {
    const int64_t h = task % Hkv;
    const int32_t* segment = segments + 4 * (task / Hkv / blocks);
    const int64_t start = segment[0], length = segment[1], prefix_start = segment[2], prefix_length = segment[3];
    // the longest rows first, so that no thread is left with one at the end
    const int64_t from = (blocks - 1 - task / Hkv % blocks) * tokens_at_once;
    if (from >= length) return;
    const int64_t tokens = smaller(tokens_at_once, length - from);
    TileRows rows;
    bf16* blocks_at = tile_rows(&rows, tokens * group, Dh, scale, [&](int64_t r) {
      return (const bf16*)q + (start + from + r / group) * ldq + (h * group + r % group) * Dh;
    });
    const int64_t block_elements = KEYS * (rows.depth + value_width(Dh));
    Tiles tiles;
    Attention attention(tiles, rows);
    int64_t turn = 0;
    const auto attend = [&](int64_t row, const Mask& mask) {
      bf16 *keys_at = blocks_at + turn * block_elements, *values_at = keys_at + KEYS * rows.depth;
      turn = 1 - turn;
      pack_keys(keys_at, (const bf16*)k + row * ldq + h * Dh, mask.keys, ldq, Dh);
      pack_values(values_at, (const bf16*)v + row * ldq + h * Dh, mask.keys, ldq, Dh);
      attention.add_block(keys_at, values_at, mask, [](int64_t) {});
    };
    const int64_t own_before = from - seen + 1, before = own_before + prefix_length;
    for (int64_t j = first_block(before); j < prefix_length; j += KEYS) {
      const int64_t keys = smaller(KEYS, prefix_length - j);
      if (before - j < keys) attend(prefix_start + j, Mask{keys, group, keys, before - j});
    }
    for (int64_t j = first_block(own_before); j < from + tokens; j += KEYS) {
      const int64_t keys = smaller(KEYS, from + tokens - j);
      attend(start + j, Mask{keys, group, from - j, own_before - j});
    }
    attention.finish();
    for (int64_t r = 0; r < rows.count; r++) {
      const int64_t token = start + from + r / group, head = h * group + r % group;
      const float l = finish_row(rows, r, Dh, (bf16*)out + token * ldo + head * Dh);
      if (lse) lse[token * H + head] = l;
    }
  });
}

static void kv_store(void* kpages, void* vpages, const void* k, const void* v, const int32_t* page, const int32_t* offset,
                     int32_t T, int32_t Hkv, int32_t Dh, int32_t ldkv, int32_t dtype) {
  if (dtype != BFLOAT16)
    return BASE_PATH::kv_store(kpages, vpages, k, v, page, offset, T, Hkv, Dh, ldkv, dtype);
  const int64_t depth = whole_groups(Dh), width = value_width(Dh);
  parallel(ceil_div(T, 16), [&](int64_t block) {
    for (int64_t t = block * 16; t < smaller(T, block * 16 + 16); t++)
      for (int64_t h = 0; h < Hkv; h++) {
        const bf16* key = (const bf16*)k + t * ldkv + h * Dh;
        const bf16* value = (const bf16*)v + t * ldkv + h * Dh;
        const int64_t at = (int64_t)page[t] * Hkv + h, j = offset[t];
        bf16* pairs = (bf16*)kpages + at * KEYS * depth + j / PANEL * PANEL * depth + j % PANEL * 2;
        for (int64_t d = 0; d < depth; d++) pairs[d / 2 * 2 * PANEL + d % 2] = d < Dh ? key[d] : bf16{0};
        bf16* over_keys = (bf16*)vpages + at * KEYS * width + j / 2 * 2 * PANEL + j % 2;
        for (int64_t d = 0; d < width; d++)
          over_keys[d / PANEL * PANEL * KEYS + d % PANEL * 2] = d < Dh ? value[d] : bf16{0};
      }
  });
}

// The first `keys` of a page's values, zero up to whole groups: the rest of a page is undefined.
static void copy_values(bf16* target, const bf16* page, int64_t keys, int64_t width) {
  for (int64_t d = 0; d < width; d += PANEL)
    for (int64_t j = 0; j < whole_groups(keys); j += 2) {
      Pairs pairs = {};
      if (j < keys) memcpy(&pairs, page + d * KEYS + j * PANEL, sizeof pairs);
      if (j + 1 == keys) pairs &= 0xffffu;
      memcpy(target + d * KEYS + j * PANEL, &pairs, sizeof pairs);
    }
}

static void attention_decode(void* out, const void* q, const void* kpages, const void* vpages, const int32_t* page_table,
                             const int32_t* prompt_lengths, const int32_t* completion_lengths, int32_t B,
                             int32_t table_width, int32_t H, int32_t Hkv, int32_t Dh, int32_t window, int32_t ldo,
                             int32_t ldq, float scale, int32_t dtype) {
  if (dtype != BFLOAT16)
    return BASE_PATH::attention_decode(out, q, kpages, vpages, page_table, prompt_lengths, completion_lengths, B,
                                       table_width, H, Hkv, Dh, window, ldo, ldq, scale, dtype);
  const int64_t group = H / Hkv, width = value_width(Dh);
  parallel((int64_t)B * Hkv, [&](int64_t task) {
    const int64_t b = task / Hkv, h = task % Hkv;
    TileRows rows;
    bf16* block = tile_rows(&rows, group, Dh, scale,
                            [&](int64_t r) { return (const bf16*)q + b * ldq + (h * group + r) * Dh; });
    const int32_t* pages = page_table + b * table_width;
    const int32_t* end = pages + ceil_div(prompt_lengths[b], KEYS) + ceil_div(completion_lengths[b], KEYS);
    const int64_t key_bytes = KEYS * rows.depth * 2, value_bytes = KEYS * width * 2;
    Tiles tiles;
    Attention attention(tiles, rows);
    int64_t turn = 0;
    const auto attend = [&](int64_t length, int64_t outside) {
      const int64_t skipped = outside >= length ? ceil_div(length, KEYS) * KEYS : first_block(outside);
      pages += skipped / KEYS;
      for (int64_t j = skipped; j < length; j += KEYS) {
        const int64_t keys = smaller(KEYS, length - j), place = (int64_t)*pages++ * Hkv + h;
        const bf16* keys_at = (const bf16*)kpages + place * KEYS * rows.depth;
        const bf16* values_at = (const bf16*)vpages + place * KEYS * width;
        if (keys % GROUP != 0) {
          bf16* copy = block + turn * KEYS * width;
          turn = 1 - turn;
          copy_values(copy, values_at, keys, width);
          values_at = copy;
        }
        // the next page, while this one is multiplied: 1 KiB a group of each product
        const int64_t next = pages < end ? (int64_t)*pages * Hkv + h : place;
        const char* next_keys = (const char*)kpages + next * key_bytes;
        const char* next_values = (const char*)vpages + next * value_bytes;
        int64_t ahead = 0;
        // All rows are of one token.
        attention.add_block(keys_at, values_at, Mask{keys, group, keys, outside - j}, [&](int64_t) {
          constexpr int64_t STEP = 2048;
          for (int64_t line = ahead; line < smaller(key_bytes, ahead + STEP); line += 64)
            __builtin_prefetch(next_keys + line, 0, 2);
          for (int64_t line = ahead; line < smaller(value_bytes, ahead + STEP); line += 64)
            __builtin_prefetch(next_values + line, 0, 2);
          ahead += STEP;
        });
      }
    };
    const int64_t outside = (int64_t)prompt_lengths[b] + completion_lengths[b] - window_tokens(window);
    attend(prompt_lengths[b], outside);
    attend(completion_lengths[b], outside - prompt_lengths[b]);
    attention.finish();
    for (int64_t r = 0; r < group; r++) finish_row(rows, r, Dh, (bf16*)out + b * ldo + (h * group + r) * Dh);
  });
}

}  // namespace KERNEL_PATH
