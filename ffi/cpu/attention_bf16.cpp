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

static constexpr int64_t KEYS = 64;          // keys in a block, tokens in a page
static constexpr int64_t QUERY_TOKENS = 64;  // tokens whose rows share a packed block of keys

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

// The largest lane of a vector without NaN.
INLINE float largest(V x) {
  const Pairs lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#pragma GCC unroll 4
  for (uint32_t half = 8; half > 0; half /= 2) x = max(x, (V)permuted((Pairs)x, lanes ^ half, (Pairs)x));
  return ((const float*)&x)[0];
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
  return QUERY_TOKENS * group * row_bytes(Dh) + block_bytes(Dh) + 4096;
}

// `bytes` more are left behind the rows, at the returned address.
template <class Query>
INLINE bf16* tile_rows(TileRows* rows, int64_t count, int64_t Dh, float scale, const Query& query) {
  constexpr double LOG2_E = 1.4426950408889634;
  const int64_t depth = whole_groups(Dh), panels = value_width(Dh) / PANEL;
  char* memory = (char*)thread_scratch(1, count * row_bytes(Dh) + block_bytes(Dh));
  bf16* block = (bf16*)memory;
  bf16* q = block + KEYS * (depth + value_width(Dh));
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

// The scores of one row with a block, (pairs of panels, 32) `next` floats apart, to probabilities (64) and remainders; the row attends to the first
// `visible` keys but for the first `outside`. Blocks of which a row sees no key come before all others.
INLINE void probabilities(const TileRows& rows, int64_t r, const float* scores, int64_t next, int64_t visible,
                          int64_t outside, int64_t keys, bf16* p, bf16* remainder) {
  if (outside > 0 && outside >= visible) {
    memset(p, 0, KEYS * sizeof(bf16));
    memset(remainder, 0, KEYS * sizeof(bf16));
    return;
  }
  const V numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const V limit = set1((float)visible), scale = set1(rows.scale), hidden = set1(-INFINITY);
  V s[KEYS / W], top = hidden;
#pragma GCC unroll 4
  for (int64_t j = 0; j < KEYS / W; j++) {
    s[j] = hidden;
    if (j * W >= keys) continue;
    const V score = mul(load(scores + j / 2 * next + j % 2 * W), scale);
    const V index = add(numbers, set1((float)(j * W)));
    s[j] = select_less(index, limit, score, hidden);
    if (outside > 0) s[j] = select_less(index, set1((float)outside), hidden, s[j]);
    top = max(s[j], top);
  }
  const float old_max = rows.max[r], block_max = largest(top), new_max = block_max > old_max ? block_max : old_max;
  const V shift = set1(new_max);
  V sum = load(rows.sum + r * W);
  if (new_max != old_max) {  // else the correction is exactly 1
    const V correction = exp2_of_negative(sub(set1(old_max), shift));
    sum = mul(sum, correction);
    for (int64_t pair = 0; pair < pairs_of(rows.panels); pair++) {
      float* acc = rows.acc + (pair * rows.count + r) * COLUMNS;
      store(acc, mul(load(acc), correction));
      store(acc + W, mul(load(acc + W), correction));
    }
    rows.max[r] = new_max;
  }
#pragma GCC unroll 4
  for (int64_t j = 0; j < KEYS / W; j++) {
    s[j] = exp2_of_negative(sub(s[j], shift));
    sum = add(sum, s[j]);
  }
  store(rows.sum + r * W, sum);
#pragma GCC unroll 2
  for (int64_t j = 0; j < KEYS / GROUP; j++) {
    const Pairs part = rounded_halves(s[2 * j], s[2 * j + 1]);
    const Pairs rest = remaining_halves(s[2 * j], s[2 * j + 1], part);
    memcpy(p + j * GROUP, &part, sizeof part);
    memcpy(remainder + j * GROUP, &rest, sizeof rest);
  }
}

// One block of keys for all rows; row r attends to the first visible(r) of its `keys` but for the first outside(r). Pairs of
// values beyond them are zero up to whole groups. `meanwhile` as in multiply.
template <class Visible, class Outside, class Meanwhile>
static void attend_block(Tiles& tiles, const TileRows& rows, const bf16* keys_at, const bf16* values_at, int64_t keys,
                         const Visible& visible, const Outside& outside, const Meanwhile& meanwhile) {
  alignas(64) float scores[KEYS / COLUMNS][STRIP * COLUMNS];
  alignas(64) bf16 p[2][STRIP * KEYS];
  const int64_t panels = ceil_div(keys, PANEL), next_key = rows.depth * PANEL, next_value = KEYS * PANEL;
  for (int64_t first = 0; first < rows.count; first += STRIP) {
    const int64_t count = smaller(STRIP, rows.count - first);
    for (int64_t i = 0; i < panels; i += 2)
      multiply(tiles, count, smaller(2, panels - i),
               Block{rows.q + first * rows.depth, rows.depth, GROUP, keys_at + i * next_key, next_key, rows.depth, nullptr,
                     scores[i / 2]},
               meanwhile);
    for (int64_t r = 0; r < count; r++)
      probabilities(rows, first + r, scores[0] + r * COLUMNS, STRIP * COLUMNS, visible(first + r),
                    outside(first + r), keys, p[0] + r * KEYS, p[1] + r * KEYS);
    for (int64_t i = 0; i < rows.panels; i += 2) {
      float* acc = rows.acc + (i / 2 * rows.count + first) * COLUMNS;
      for (const bf16* part : p)
        multiply(tiles, count, smaller(2, rows.panels - i),
                 Block{part, KEYS, GROUP, values_at + i * next_value, next_value, whole_groups(keys), acc, acc}, meanwhile);
    }
  }
}

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
  const int64_t group = H / Hkv, seen = window_tokens(window);
  int64_t longest = 1;
  for (int64_t s = 0; s < S; s++) longest = larger(longest, segments[4 * s + 1]);
  const int64_t blocks = ceil_div(longest, QUERY_TOKENS);
  parallel((int64_t)S * blocks * Hkv, [&](int64_t task) {
    const int64_t h = task % Hkv;
    const int32_t* segment = segments + 4 * (task / Hkv / blocks);
    const int64_t start = segment[0], length = segment[1], prefix_start = segment[2], prefix_length = segment[3];
    // the longest rows first, so that no thread is left with one at the end
    const int64_t from = (blocks - 1 - task / Hkv % blocks) * QUERY_TOKENS;
    if (from >= length) return;
    const int64_t tokens = smaller(QUERY_TOKENS, length - from);
    TileRows rows;
    bf16* keys_at = tile_rows(&rows, tokens * group, Dh, scale, [&](int64_t r) {
      return (const bf16*)q + (start + from + r / group) * ldq + (h * group + r % group) * Dh;
    });
    bf16* values_at = keys_at + KEYS * rows.depth;
    Tiles tiles;
    // `before`: keys before the window of token `from`
    const auto attend = [&](int64_t row, int64_t keys, int64_t before, const auto& visible) {
      pack_keys(keys_at, (const bf16*)k + row * ldq + h * Dh, keys, ldq, Dh);
      pack_values(values_at, (const bf16*)v + row * ldq + h * Dh, keys, ldq, Dh);
      attend_block(tiles, rows, keys_at, values_at, keys, visible,
                   [&](int64_t r) { return larger(0, smaller(keys, before + r / group)); }, [](int64_t) {});
    };
    const int64_t own_before = from - seen + 1, before = own_before + prefix_length;
    for (int64_t j = first_block(before); j < prefix_length; j += KEYS) {
      const int64_t keys = smaller(KEYS, prefix_length - j);
      if (before - j < keys) attend(prefix_start + j, keys, before - j, [&](int64_t) { return keys; });
    }
    for (int64_t j = first_block(own_before); j < from + tokens; j += KEYS) {
      const int64_t keys = smaller(KEYS, from + tokens - j);
      attend(start + j, keys, own_before - j, [&](int64_t r) { return smaller(keys, from + r / group - j + 1); });
    }
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
    const auto attend = [&](int64_t length, int64_t outside) {
      const int64_t skipped = outside >= length ? ceil_div(length, KEYS) * KEYS : first_block(outside);
      pages += skipped / KEYS;
      for (int64_t j = skipped; j < length; j += KEYS) {
        const int64_t keys = smaller(KEYS, length - j), place = (int64_t)*pages++ * Hkv + h;
        const bf16* keys_at = (const bf16*)kpages + place * KEYS * rows.depth;
        const bf16* values_at = (const bf16*)vpages + place * KEYS * width;
        if (keys % GROUP != 0) {
          copy_values(block, values_at, keys, width);
          values_at = block;
        }
        // the next page, while this one is multiplied: 1 KiB a group of each product
        const int64_t next = pages < end ? (int64_t)*pages * Hkv + h : place;
        const char* next_keys = (const char*)kpages + next * key_bytes;
        const char* next_values = (const char*)vpages + next * value_bytes;
        int64_t ahead = 0;
        const int64_t hidden = larger(0, outside - j);
        attend_block(tiles, rows, keys_at, values_at, keys, [&](int64_t) { return keys; },
                     [&](int64_t) { return hidden; }, [&](int64_t) {
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
    for (int64_t r = 0; r < group; r++) finish_row(rows, r, Dh, (bf16*)out + b * ldo + (h * group + r) * Dh);
  });
}

}  // namespace KERNEL_PATH
