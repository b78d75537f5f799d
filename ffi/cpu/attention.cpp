// Causal attention with grouped queries, flash style (Dao et al. 2022): no (T, T) buffer.
//
//   attention_forward   out (T, H, Dh) =, lse (T, H) =     over packed segments
//   attention_decode    out (B, H, Dh) =                   one new token per sequence, keys and values in pages
//   kv_store            stores keys and values of T tokens in pages
//
// segments (S, 4): start, length, prefix start, prefix length, all in rows of the packed tokens. A completion has its
// group's prompt as prefix and attends to all of it; a prompt has no prefix and comes before its completions. `window`: a token
// attends to itself and the window − 1 tokens before it, counted through the prefix; 0: to all.
// q, k and v are parts of one buffer: row stride ldq for all three, heads Dh apart.
//
// A page holds one block: keys as panels [Hkv][4][Dh][16], values [Hkv][64][Dh rounded up to 16].
#include "attention.h"

namespace KERNEL_PATH {

int64_t key_page_elements(int32_t Hkv, int32_t Dh) { return (int64_t)Hkv * KEYS * Dh; }
int64_t value_page_elements(int32_t Hkv, int32_t Dh) { return Hkv * KEYS * padded(Dh); }

// Calls body(first row of the block in the packed tokens, keys in it, its first key's index in the segment or −1 in
// the prefix, how many of them lie before the window of token `from`) for the blocks that the segment's tokens from
// `from` to `own` − 1 attend to.
template <class Body>
INLINE void for_blocks(const Segment& s, int64_t from, int64_t own, int64_t window, const Body& body) {
  const int64_t own_outside = from - window + 1, outside = own_outside + s.prefix_length;
  if (outside < s.prefix_length)
    for (int64_t j = first_block(outside); j < s.prefix_length; j += KEYS)
      body(s.prefix_start + j, smaller(KEYS, s.prefix_length - j), -1, outside - j);
  for (int64_t j = first_block(own_outside); j < own; j += KEYS)
    body(s.start + j, smaller(KEYS, own - j), j, own_outside - j);
}

void attention_forward(void* out, float* lse, const void* q, const void* k, const void* v, const int32_t* segments,
                       int32_t S, int32_t T, int32_t H, int32_t Hkv, int32_t Dh, int32_t window, int32_t ldo,
                       int32_t ldq, float scale, int32_t dtype) {
  (void)T;
  WITH_DTYPE(dtype, TX, {
    const int64_t group = H / Hkv, Dp = padded(Dh), at_once = query_tokens(group), seen = window_tokens(window);
    int64_t longest = 1;
    for (int64_t s = 0; s < S; s++) longest = larger(longest, segments[4 * s + 1]);
    const int64_t blocks = ceil_div(longest, at_once);
    // Late tokens attend to the most keys; they come first, so that threads finish together.
    parallel((int64_t)S * blocks * Hkv, [&](int64_t task) {
      const int64_t h = task % Hkv, from = (blocks - 1 - task / Hkv / S) * at_once;
      const Segment s = segment_at(segments, task / Hkv % S);
      if (from >= s.length) return;
      const int64_t tokens = smaller(at_once, s.length - from), count = tokens * group;
      float* panels = (float*)thread_scratch(0, 4 * (KEYS * (Dh + Dp) + query_floats(count, Dh)));
      float* values = panels + KEYS * Dh;
      const QueryRows rows = query_rows(values + KEYS * Dp, count, Dh, scale);
      for (int64_t t = 0; t < tokens; t++)
        pack_rows(rows.q + t * group * Dp, (const TX*)q + (s.start + from + t) * ldq + h * group * Dh, group, Dh, Dh, Dp);
      bool first_block = true;
      for_blocks(s, from, from + tokens, seen, [&](int64_t row, int64_t keys, int64_t first, int64_t outside) {
        pack_panels(panels, (const TX*)k + row * ldq + h * Dh, keys, ldq, Dh);
        pack_rows(values, (const TX*)v + row * ldq + h * Dh, keys, ldq, Dh, Dp);
        with_visible(keys, group, from, tokens, first, outside, [&](const auto& visible) {
          attend_block(rows, panels, values, first_block, visible);
        });
        first_block = false;
      });
      for (int64_t r = 0; r < count; r++) {
        const int64_t token = s.start + from + r / group, head = h * group + r % group;
        const float l = finish_row(rows, r, (TX*)out + token * ldo + head * Dh);
        if (lse) lse[token * H + head] = l;
      }
    });
  });
}

void kv_store(void* kpages, void* vpages, const void* k, const void* v, const int32_t* page, const int32_t* offset,
              int32_t T, int32_t Hkv, int32_t Dh, int32_t ldkv, int32_t dtype) {
  WITH_DTYPE(dtype, TX, {
    const int64_t Dp = padded(Dh);
    parallel(ceil_div(T, PANEL), [&](int64_t block) {
      const int64_t from = block * PANEL, to = smaller(T, from + PANEL);
      for (int64_t h = 0; h < Hkv; h++) {
        const TX* keys = (const TX*)k + from * ldkv + h * Dh;
        TX* panel = (TX*)kpages + ((int64_t)page[from] * Hkv + h) * KEYS * Dh + offset[from] / PANEL * Dh * PANEL;
        int64_t whole = 0;  // elements of keys that are already there, of a panel stored as a whole
#if defined(__AVX2__)
        if constexpr (sizeof(TX) == 4) {
          bool together = to - from == PANEL && offset[from] % PANEL == 0;
          for (int64_t t = from; t < to; t++)
            together = together && page[t] == page[from] && offset[t] == offset[from] + t - from;
          for (; together && whole + 8 <= Dh; whole += 8)
            for (int64_t lane = 0; lane < PANEL; lane += 8)
              transpose_8x8((float*)panel + whole * PANEL + lane, PANEL, (const float*)keys + lane * ldkv + whole, ldkv);
        }
#endif
        for (int64_t t = from; t < to; t++) {
          const int64_t place = (int64_t)page[t] * Hkv + h;
          TX* lane = (TX*)kpages + place * KEYS * Dh + offset[t] / PANEL * Dh * PANEL + offset[t] % PANEL;
          for (int64_t d = whole; d < Dh; d++) lane[d * PANEL] = keys[(t - from) * ldkv + d];
          TX* row = (TX*)vpages + (place * KEYS + offset[t]) * Dp;
          memcpy(row, (const TX*)v + t * ldkv + h * Dh, sizeof(TX) * Dh);
          for (int64_t d = Dh; d < Dp; d++) store_scalar(row + d, 0.0f);
        }
      }
    });
  });
}

// Sequences of a decode task, at most: their rows share what they read of a common prompt.
static constexpr int64_t DECODED_TOGETHER = 8;

// Where sequences' keys and values are, for one key-value head.
template <class TX>
struct Pages {
  const TX* keys;
  const TX* values;
  int64_t Hkv, h, key_elements, value_elements;

  const TX* keys_of(int32_t page) const { return keys + (page * Hkv + h) * key_elements; }
  const TX* values_of(int32_t page) const { return values + (page * Hkv + h) * value_elements; }
};

// The rows attend to `length` tokens in `pages`, but for the first `outside`.
template <class TX>
INLINE void attend_pages(const QueryRows& rows, const Pages<TX>& in, const int32_t* pages, int64_t length,
                         int64_t outside, bool first, float* widened) {
  if (outside >= length) return;
  for (int64_t j = first_block(outside); j < length; j += KEYS, first = false) {
    const int64_t keys = smaller(KEYS, length - j), hidden = larger(0, outside - j);
    const TX* k = in.keys_of(pages[j / KEYS]);
    const TX* v = in.values_of(pages[j / KEYS]);
    if (rows.count <= MR) {
      attend_block_few(rows, k, v, first, keys, hidden);
    } else if (hidden > 0) {
      // of one sequence: they see the same keys
      float* values = widened + in.key_elements;
      for (int64_t i = 0; i < ceil_div(keys, PANEL) * PANEL * rows.Dh; i += W) store(widened + i, load(k + i));
      for (int64_t i = 0; i < keys * rows.Dp; i += W) store(values + i, load(v + i));
      attend_block(rows, widened, values, first, WindowKeys{keys, rows.count, keys, hidden});
    } else if constexpr (sizeof(TX) == 4) {
      attend_block(rows, k, v, first, AllKeys{keys});
    } else {
      float* values = widened + in.key_elements;
      for (int64_t i = 0; i < ceil_div(keys, PANEL) * PANEL * rows.Dh; i += W) store(widened + i, load(k + i));
      for (int64_t i = 0; i < keys * rows.Dp; i += W) store(values + i, load(v + i));
      attend_block(rows, widened, values, first, AllKeys{keys});
    }
  }
}

// page_table (B, table_width): the prompt's pages, then the completion's. Lengths count the tokens in the cache, the
// new one included. Neighbours with the same prompt pages attend to them together, each then to its own completion; those that
// do not see their whole prompt, each by itself.
void attention_decode(void* out, const void* q, const void* kpages, const void* vpages, const int32_t* page_table,
                      const int32_t* prompt_lengths, const int32_t* completion_lengths, int32_t B, int32_t table_width,
                      int32_t H, int32_t Hkv, int32_t Dh, int32_t window, int32_t ldo, int32_t ldq, float scale,
                      int32_t dtype) {
  WITH_DTYPE(dtype, TX, {
    const int64_t group = H / Hkv, Dp = padded(Dh), seen = window_tokens(window);
    const int64_t at_once = larger(1, smaller(DECODED_TOGETHER, (int64_t)B * Hkv / 8)), chunks = ceil_div(B, at_once);
    const auto outside_of = [&](int64_t b) { return (int64_t)prompt_lengths[b] + completion_lengths[b] - seen; };
    const auto shared = [&](int64_t a, int64_t b) {
      return outside_of(a) <= 0 && outside_of(b) <= 0 && prompt_lengths[a] == prompt_lengths[b] &&
             memcmp(page_table + a * table_width, page_table + b * table_width,
                    ceil_div(prompt_lengths[a], KEYS) * sizeof(int32_t)) == 0;
    };
    parallel(chunks * Hkv, [&](int64_t task) {
      const int64_t h = task % Hkv, end = smaller(B, (task / Hkv + 1) * at_once);
      const Pages<TX> in{(const TX*)kpages, (const TX*)vpages, Hkv, h, KEYS * Dh, KEYS * Dp};
      float* widened = (float*)thread_scratch(0, 4 * (KEYS * (Dh + Dp) + query_floats(at_once * group, Dh)));
      for (int64_t from = task / Hkv * at_once, to; from < end; from = to) {
        for (to = from + 1; to < end && shared(from, to);) to++;
        const int64_t prompt = prompt_lengths[from], pages = ceil_div(prompt, KEYS);
        const QueryRows rows = query_rows(widened + KEYS * (Dh + Dp), (to - from) * group, Dh, scale);
        for (int64_t b = from; b < to; b++)
          pack_rows(rows.q + (b - from) * group * Dp, (const TX*)q + b * ldq + h * group * Dh, group, Dh, Dh, Dp);
        const int64_t outside = outside_of(from);  // above 0 of one sequence alone
        attend_pages(rows, in, page_table + from * table_width, prompt, outside, true, widened);
        for (int64_t b = from; b < to; b++)
          attend_pages(rows.part((b - from) * group, group), in, page_table + b * table_width + pages,
                       completion_lengths[b], outside - prompt, prompt == 0 || outside >= prompt, widened);
        for (int64_t r = 0; r < rows.count; r++)
          finish_row(rows, r, (TX*)out + (from + r / group) * ldo + (h * group + r % group) * Dh);
      }
    });
  });
}

}  // namespace KERNEL_PATH
