// Products of bfloat16 operands with a weight in pairs (weights_bf16.cpp), both directions, and its gradient:
//
//   matmul_forward           y (M, N)  (=|+=)  factor · x (M, K) · wᵀ  (+ bias)  B is the weight as it is stored
//   matmul_backward_input    dx (M, K) (=|+=)  factor · dy (M, N) · w           B is the weight with pairs over n
//   matmul_backward_weight   dw (N, K) +=      dyᵀ · x                          A is xᵀ, B is dy with pairs of tokens
//
// They belong here when the weight is bfloat16 (the gradient: when x is, as under such weights). A float32 operand, a gradient, is
// first rounded to nearest even. M, the threads and the blocking never change an element's bits (tile_bf16.h), so decoding
// one row takes the same instruction as training on thousands.
//
// A task owns a block of rows and a range of panels. It takes the reduction in chunks, of a chunk a group of panels that L2 holds,
// and of A a strip after the other, which stays in L1 while B streams from L2 and a row's outputs are written side by side. A
// reduction longer than L1 holds of a strip is taken in parts. Sums wait in scratch memory between parts, those of a group's
// strip, and between chunks, those of the whole block. What has to be converted is converted between the multiplications.
// Gradients of inputs over a long reduction have a loop of their own (products_by_pairs).
#include "threads.h"
#include "tile_bf16.h"

namespace KERNEL_PATH {

// Elements of the reduction in a chunk, less where B is converted, and bytes of a group of panels in L2 (2 MiB where there are
// tiles, otherwise at least 1).
static constexpr int64_t CHUNK = 1536, CONVERTED_CHUNK = 576;
#if defined(AMX_TILES)
static constexpr int64_t GROUP_BYTES = 896 << 10;
#else
static constexpr int64_t GROUP_BYTES = 448 << 10;
#endif
// Rows of a block at most, and at least where more tasks would need smaller ones; of one that goes by pairs; and what is few. Every
// block reads B from beyond L2.
static constexpr int64_t ROWS = 1024, FEWEST_ROWS = 128, PAIRS_ROWS = 256, FEW_ROWS = 64;
// Bytes of a block's sums, and of its rows if they are converted.
static constexpr int64_t SUMS_BYTES = 2 << 20, ROWS_BYTES = 2 << 20;
// An output that is written past the caches, without reading it first: what follows would find little of it there.
#ifndef BEYOND_CACHES
#define BEYOND_CACHES (24 << 20)
#endif
// A whole operand that is converted for all tasks takes at most this many bytes; the tests make it small.
#ifndef CONVERTED_BYTES
#define CONVERTED_BYTES (32 << 20)
#endif

// Writes rows of sums to a row-major output: factor, bias, residual, rounding.
template <class TY>
struct RowOutput {
  TY* y;
  int64_t ld, N;
  const bf16* bias;
  bool accumulate;
  float factor;
  bool past_caches = false;  // bfloat16 rows in whole cache lines, more than the caches hold

  // `count` rows of c, COLUMNS wide, to (row, column). What is written while others are multiplied must be short.
  inline __attribute__((always_inline)) void write(const float* c, int64_t row, int64_t column, int64_t count) const {
    TY* out = y + row * ld + column;
    if (column + COLUMNS > N || bias || factor != 1) return write_any(c, out, column, count);
    for (int64_t r = 0; r < count; r++) {
      V low = load(c + r * COLUMNS), high = load(c + r * COLUMNS + W);
      if (accumulate) low = add(load(out), low), high = add(load(out + W), high);
      if (sizeof(TY) == 2 && past_caches) stream((bf16*)out, rounded_halves(low, high));
      else store_all(out, low, high);
      out += ld;
    }
  }

 private:
  __attribute__((noinline)) void write_any(const float* c, TY* out, int64_t column, int64_t count) const {
    const int first = (int)smaller(W, N - column), second = (int)larger(0, smaller(W, N - column - W));
    for (int64_t r = 0; r < count; r++, out += ld) {
      V low = load(c + r * COLUMNS), high = load(c + r * COLUMNS + W);
      if (factor != 1) low = mul(low, set1(factor)), high = mul(high, set1(factor));
      if (bias) low = add(low, load_upto(bias + column, first));
      if (bias && second > 0) high = add(high, load_upto(bias + column + W, second));
      if (accumulate) low = add(load_upto(out, first), low);
      if (accumulate && second > 0) high = add(load_upto(out + W, second), high);
      if (second == W) {
        store_all(out, low, high);
        continue;
      }
      alignas(64) TY row[COLUMNS];
      store_all(row, low, high);
      memcpy(out, row, (size_t)(first + second) * sizeof(TY));
    }
  }

  static inline __attribute__((always_inline)) void store_all(float* out, V low, V high) {
    store(out, low);
    store(out + W, high);
  }
  static inline __attribute__((always_inline)) void store_all(bf16* out, V low, V high) {
    const Pairs halves = rounded_halves(low, high);
    memcpy(out, &halves, sizeof halves);
  }
};

// Adds to a gradient in the weight's layout. Rows are k and come in twos; columns are n.
struct WeightOutput {
  float* dw;
  int64_t padded, panels;  // K in whole groups

  inline __attribute__((always_inline)) void write(const float* c, int64_t k, int64_t column, int64_t) const {
    for (int64_t v = 0; v < 2 && column / PANEL + v < panels; v++) {
      Pairs even, odd;
      memcpy(&even, c + v * PANEL, 64);
      memcpy(&odd, c + COLUMNS + v * PANEL, 64);
      float* out = dw + ((column / PANEL + v) * padded + k) * PANEL;
      store(out, add(load(out), (V)interleaved_low(even, odd)));
      store(out + W, add(load(out + W), (V)interleaved_high(even, odd)));
    }
  }
};

// A finished strip of sums that is still to be written, a few rows at a time while the next strip is multiplied: the conversion
// and the stores then cost nothing.
template <class Output>
struct Pending {
  static constexpr int64_t ROWS_AT_ONCE = 2;  // 16 groups of k suffice for a strip of 32 rows
  const Output* output;
  const float* c;
  int64_t row, column, left;

  inline __attribute__((always_inline)) void step() {
    if (left <= 0) return;
    output->write(c, row, column, smaller(ROWS_AT_ONCE, left));
    c += ROWS_AT_ONCE * COLUMNS;
    row += ROWS_AT_ONCE;
    left -= ROWS_AT_ONCE;
  }
  void finish() {
    while (left > 0) step();
  }
};

// Prefetches what comes next into L2, between the multiplications: whole tiles of B where its panels come from memory, and
// some of the cache lines of A's next strip, a share of them with each pair of panels.
struct Ahead {
  const bf16* b;  // null: none
  int64_t next_b, from, to;  // from a panel to the second one; lines of a tile
  const bf16* a;
  int64_t lda, next_a, count;  // lines a step, between them and between steps

  inline __attribute__((always_inline)) void step(int64_t group) const {
    if (b) {
      for (int64_t line = from; line < to; line++) {
        const bf16* at = b + (group * 16 + line) * GROUP;
        __builtin_prefetch(at, 0, 2);
        __builtin_prefetch(at + next_b, 0, 2);
      }
    }
    const bf16* at = a + group * next_a;
    for (int64_t line = 0; line < count; line++, at += lda) __builtin_prefetch(at, 0, 2);
  }
};

INLINE int64_t even(int64_t n) { return ceil_div(n, 2) * 2; }

// Nothing to do meanwhile.
struct Idle {
  void step() const {}
  void finish() const {}
};

// Where a strip of A begins, or a group of panels of B.
struct Strip {
  const bf16* a;
  int64_t lda, next, after;  // elements between rows, between groups of the reduction, and to the strip after it
};
struct Panels {
  const bf16* b;
  int64_t next;  // elements from a panel to the one after it
};

// A in place.
struct Rows {
  static constexpr bool CONVERTED = false;
  const bf16* x;
  int64_t ld;

  Strip strip(int64_t row, int64_t s, int64_t k, int64_t) const { return {x + (row + s * STRIP) * ld + k, ld, GROUP, STRIP * ld}; }
};

// A as strips of [groups of the reduction][STRIP][GROUP], over `depth` elements.
struct PackedRows {
  static constexpr bool CONVERTED = false;
  const bf16* strips;
  int64_t depth;

  Strip strip(int64_t row, int64_t s, int64_t k, int64_t) const {
    return {strips + ((row / STRIP + s) * depth + k) * STRIP, GROUP, STRIP * GROUP, STRIP * depth};
  }
};

// A as bfloat16, zero-padded to whole groups, in the thread's scratch memory.
template <class T>
struct ConvertedRows {
  static constexpr bool CONVERTED = true;
  const T* x;
  int64_t ld, depth;

  // Space for so many strips.
  static void reserve(int64_t strips, int64_t elements) { thread_scratch(2, strips * STRIP * row_stride(elements) * 2); }
  static bf16* memory(int64_t s, int64_t elements) { return (bf16*)thread_scratch(2, 0) + s * STRIP * row_stride(elements); }
  Strip strip(int64_t, int64_t s, int64_t, int64_t elements) const {
    return {memory(s, elements), row_stride(elements), GROUP, STRIP * row_stride(elements)};
  }

  // One group of one row.
  struct Piece {
    const T* x;
    int64_t ld, inside, elements;  // elements of a row that exist, and all
    bf16* target;
    int64_t at = 0;  // in this row

    inline __attribute__((always_inline)) void operator()() {
      const Pairs halves = at + GROUP <= inside ? whole_row(x + at) : whole_row(x + at, inside - at);
      memcpy(target + at, &halves, sizeof halves);
      at += GROUP;
      if (at < elements) return;
      at = 0;
      x += ld;
      target += row_stride(elements);
    }
  };
  // In about `steps` steps.
  Background<Piece> conversion(int64_t row, int64_t rows, int64_t s, int64_t k, int64_t elements, int64_t steps) const {
    const int64_t count = smaller(STRIP, rows - s * STRIP) * (elements / GROUP);
    return {Piece{x + (row + s * STRIP) * ld + k, ld, smaller(elements, depth - k), elements, memory(s, elements)}, 0, count,
            ceil_div(count, steps)};
  }
};

// B as it is stored: panels of pairs over `padded` elements.
struct StoredPanels {
  static constexpr bool IN_PLACE = true;
  const bf16* w;
  int64_t padded;

  Panels group(int64_t p, int64_t k, int64_t) const { return {w + (p * padded + k) * PANEL, padded * PANEL}; }
};

// Pairs over n of 16 columns of a weight, 16 rows.
INLINE void exchange(bf16* target, const bf16* tile) {
  Pairs v[8];
  memcpy(v, tile, sizeof v);
  exchange_pairs(v);
  memcpy(target, v, sizeof v);
}

// B's panels are columns of a weight, with pairs over its rows.
struct ExchangedPanels {
  static constexpr bool IN_PLACE = false;
  const bf16* w;
  int64_t N, K;

  struct Piece {
    const bf16* w;
    int64_t columns, inside, blocks;  // columns between rows; blocks of 16 rows that exist, and all
    bf16* target;
    int64_t block = 0;

    inline __attribute__((always_inline)) void operator()() {
      if (block < inside) exchange(target, w + block * columns * PANEL);
      else memset(target, 0, PANEL * PANEL * sizeof(bf16));
      target += PANEL * PANEL;
      if (++block < blocks) return;
      block = 0;
      w += PANEL * PANEL;
    }
  };
  Background<Piece> conversion(bf16* target, int64_t p, int64_t panels, int64_t n, int64_t elements, int64_t steps) const {
    const int64_t columns = whole_groups(K), blocks = elements / PANEL;
    const int64_t count = smaller(even(panels), columns / PANEL - p) * blocks;
    return {Piece{w + n * columns + p * PANEL * PANEL, columns, ceil_div(N - n, PANEL), blocks, target}, 0, count,
            ceil_div(count, steps)};
  }
};

// B's panels are columns of a gradient, in pairs of tokens.
template <class T>
struct PairedRows {
  static constexpr bool IN_PLACE = false;
  const T* dy;
  int64_t ld, tokens, N;

  struct Piece {
    const T* dy;
    int64_t ld, tokens, columns, panels, next;  // tokens from `dy` on, and columns
    bf16* target;
    int64_t panel = 0;

    inline __attribute__((always_inline)) void operator()() {
      const int64_t n = panel * PANEL;
      const Pairs pairs = tokens >= 2 && n + PANEL <= columns ? row_pairs(dy + n, ld)
                                                              : row_pairs(dy + n, ld, 0, tokens, smaller(PANEL, columns - n));
      memcpy(target + panel * next, &pairs, sizeof pairs);
      if (++panel < panels) return;
      panel = 0;
      dy += 2 * ld;
      tokens -= 2;
      target += 2 * PANEL;
    }
  };
  Background<Piece> conversion(bf16* target, int64_t p, int64_t panels, int64_t t, int64_t elements, int64_t steps) const {
    const int64_t count = panels * (elements / 2);
    return {Piece{dy + t * ld + p * PANEL, ld, tokens - t, N - p * PANEL, panels, elements * PANEL, target}, 0, count,
            ceil_div(count, steps)};
  }
};

// The terms of adapters, whose sums go on with those of the weight. A block's are of `rows` rows from `row` on, at most STRIP,
// and of `panels` panels from p on.
class Terms {
 public:
  static constexpr bool NONE = false;
  Terms(const AdapterTerm* terms, int64_t count, int32_t dtype) : terms_(terms), count_(count), dtype_(dtype) {}

  // The product of the term that has all of the block's panels; null: none has.
  const Block* whole(int64_t row, int64_t rows, int64_t p, int64_t panels) {
    block_.depth = 0;
    each(row, rows, p, panels, [&](const Block& block, int64_t, int64_t width) {
      if (width == panels) block_ = block;
    });
    return block_.depth > 0 ? &block_ : nullptr;
  }
  // Adds those of the terms that have some of them, where none has all.
  void add_parts(Tiles& tiles, float* c, int64_t row, int64_t rows, int64_t p, int64_t panels) {
    each(row, rows, p, panels, [&](Block block, int64_t from, int64_t width) {
      block.from = block.to = c + (from - p) * PANEL;
      multiply(tiles, rows, width, block, [](int64_t) {});
    });
  }

 private:
  // body(product, first panel, panels) for the terms with panels of a block.
  template <class Body>
  void each(int64_t row, int64_t rows, int64_t p, int64_t panels, const Body& body) {
    if (row != row_) convert(row, rows);
    const bf16* a = strip_;
    for (const AdapterTerm* t = terms_; t < terms_ + count_; t++) {
      const int64_t rank = whole_groups(t->rank), first = t->first / PANEL, end = first + ceil_div(t->N, PANEL);
      const int64_t from = larger(p, first), width = smaller(p + panels, end) - from;
      const bf16* b = (const bf16*)t->b + (from - first) * rank * PANEL;
      if (width > 0) body(Block{a, rank, GROUP, b, rank * PANEL, rank, nullptr, nullptr}, from, width);
      a += STRIP * rank;
    }
  }
  // The strip's rows as bfloat16, zero-padded to whole groups, term after term.
  void convert(int64_t row, int64_t rows) {
    int64_t elements = 0;
    for (const AdapterTerm* t = terms_; t < terms_ + count_; t++) elements += whole_groups(t->rank);
    bf16* to = strip_ = (bf16*)thread_scratch(0, STRIP * elements * (int64_t)sizeof(bf16));
    for (const AdapterTerm* t = terms_; t < terms_ + count_; t++)
      WITH_DTYPE(dtype_, T, {
        for (int64_t i = 0; i < rows; i++)
          for (int64_t k = 0; k < whole_groups(t->rank); k += GROUP) {
            const Pairs halves = whole_row((const T*)t->down + (row + i) * t->ld + k, t->rank - k);
            memcpy(to + i * whole_groups(t->rank) + k, &halves, sizeof halves);
          }
        to += STRIP * whole_groups(t->rank);
      });
    row_ = row;
  }

  const AdapterTerm* terms_;
  int64_t count_;
  int32_t dtype_;  // of `down`
  int64_t row_ = -1;
  bf16* strip_ = nullptr;
  Block block_{nullptr, 0, 0, nullptr, 0, 0, nullptr, nullptr};
};

struct NoTerms {
  static constexpr bool NONE = true;
  const Block* whole(int64_t, int64_t, int64_t, int64_t) const { return nullptr; }
  void add_parts(Tiles&, float*, int64_t, int64_t, int64_t, int64_t) const {}
};

// How products are divided: counts of rows and panels, and of elements of the reduction.
struct Division {
  int64_t part, chunk, group, rows, blocks, range, ranges;
};

static Division divided(int64_t M, int64_t panels, int64_t depth, bool converted, bool in_place) {
  Division d;
  // For few rows, B comes from memory whatever they do: then a pair of panels is used by all of them at once.
  const bool few = M <= FEW_ROWS && !converted && in_place;
  const int64_t parts = few && M <= 2 * STRIP ? 1 : ceil_div(depth, DEPTH);
  // Tasks for each thread: more of them even out, fewer repeat less.
  const int64_t wanted = (few ? 8 : converted ? 2 : 4) * thread_total();
  d.part = ceil_div(ceil_div(depth, parts), GROUP) * GROUP;
  const int64_t chunks = few ? 1 : ceil_div(parts, larger(1, (in_place ? CHUNK : CONVERTED_CHUNK) / d.part));
  d.chunk = ceil_div(parts, chunks) * d.part;
  const bool waiting = d.chunk < depth;
  // A group that is converted takes half of the space: the next one is converted meanwhile.
  const int64_t bytes = in_place ? GROUP_BYTES : GROUP_BYTES / 2;
  const int64_t most = few ? 2 : smaller(even(panels), larger(2, bytes / (2 * PANEL * d.chunk) / 2 * 2));
  if (in_place) {
    int64_t rows = smaller(waiting ? ROWS : ROWS / 2, M);
    if (converted) rows = smaller(rows, larger(STRIP, ROWS_BYTES / (2 * row_stride(d.chunk))));
    d.blocks = ceil_div(M, rows);
    // Ranges share no conversions of rows, and blocks none of panels.
    d.ranges = converted ? 1 : smaller(ceil_div(panels, most), ceil_div(wanted, d.blocks));
    if (d.blocks * d.ranges < wanted)
      d.blocks = larger(d.blocks, smaller(ceil_div(M, converted ? 2 * FEWEST_ROWS : FEWEST_ROWS), ceil_div(wanted, d.ranges)));
    d.ranges = larger(d.ranges, ceil_div(wanted, d.blocks));
    d.range = even(ceil_div(panels, d.ranges));
  } else if (converted) {
    // Blocks repeat the conversion of panels, ranges that of rows.
    d.blocks = smaller(ceil_div(M, STRIP), thread_total());
    d.ranges = ceil_div(thread_total(), d.blocks);
    d.range = even(ceil_div(panels, d.ranges));
  } else {
    d.range = even(ceil_div(panels, 4 * thread_total()));
    d.blocks = 1;
  }
  if (waiting) d.blocks = larger(d.blocks, ceil_div(M, ROWS));
  if (converted) d.blocks = larger(d.blocks, ceil_div(M, larger(STRIP, ROWS_BYTES / (2 * row_stride(d.chunk)))));
  d.rows = ceil_div(ceil_div(M, d.blocks), STRIP) * STRIP;
  d.blocks = ceil_div(M, d.rows);
  if (waiting) d.range = smaller(d.range, larger(2, SUMS_BYTES / (4 * PANEL * d.rows) / 2 * 2));
  d.ranges = ceil_div(panels, d.range);
  d.range = even(ceil_div(panels, d.ranges));
  d.ranges = ceil_div(panels, d.range);
  d.group = even(ceil_div(d.range, ceil_div(d.range, most)));
  return d;
}

// All sums over `depth` elements, in whole groups, for M rows and all panels.
template <class Left, class Right, class Output, class Added>
static void products(int64_t M, int64_t panels, int64_t depth, const Left& left, const Right& right, const Output& output,
                     const Added& added) {
  const Division d = divided(M, panels, depth, Left::CONVERTED, Right::IN_PLACE);
  parallel(d.blocks * d.ranges, [&](int64_t task) {
    const int64_t row = task / d.ranges * d.rows, rows = smaller(d.rows, M - row), strips = ceil_div(rows, STRIP);
    const int64_t begin = task % d.ranges * d.range, end = smaller(panels, begin + d.range);
    constexpr int64_t SUMS = STRIP * COLUMNS;  // of a strip and a pair of panels
    const int64_t pairs = ceil_div(end - begin, 2);
    const int64_t of_block = d.chunk < depth ? strips * pairs * SUMS : 0, of_strip = d.part < d.chunk ? d.group / 2 * SUMS : 0;
    float* block_sums = of_block + of_strip > 0 ? (float*)thread_scratch(1, (of_block + of_strip) * 4) : nullptr;
    float* strip_sums = block_sums + of_block;
    alignas(64) float finished[2][SUMS];
    int turn = 0;
    Pending<Output> pending{&output, nullptr, 0, 0, 0};
    Tiles tiles;
    Added terms = added;
    bf16* converted = nullptr;
    if constexpr (Left::CONVERTED) left.reserve(strips, smaller(d.chunk, depth));
    if constexpr (!Right::IN_PLACE) converted = (bf16*)thread_scratch(0, 2 * d.group * PANEL * d.chunk * 2);
    int64_t groups_done = 0;
    for (int64_t start = 0; start < depth; start += d.chunk) {
      const int64_t length = smaller(d.chunk, depth - start), stop = start + length;
      for (int64_t first = begin; first < end; first += d.group, groups_done++) {
        const int64_t last = smaller(end, first + d.group), count = ceil_div(last - first, 2), steps = count * (length / GROUP);
        const Panels b = [&] {
          if constexpr (Right::IN_PLACE) return right.group(first, start, length);
          else return Panels{converted + groups_done % 2 * d.group * PANEL * d.chunk, length * PANEL};
        }();
        // The pair after this one, where B comes from memory: a group that L2 holds costs less than its prefetch.
        const Panels next_b = [&] {
          if constexpr (Right::IN_PLACE)
            if (d.group == 2 && last < end) return right.group(last, start, length);
          return Panels{nullptr, 0};
        }();
        auto panels_after = [&] {
          if constexpr (Right::IN_PLACE) return Idle{};
          else {
            if (groups_done == 0) right.conversion(converted, first, last - first, start, length, 1).finish();
            const bool same = last < end;
            const int64_t at = same ? last : begin, k = same ? start : stop;
            return right.conversion(converted + (groups_done + 1) % 2 * d.group * PANEL * d.chunk, at,
                                    k < depth ? smaller(end, at + d.group) - at : 0, k, larger(0, smaller(d.chunk, depth - k)),
                                    strips * steps);
          }
        }();
        for (int64_t s = 0; s < strips; s++) {
          const int64_t r = s * STRIP, count_rows = smaller(STRIP, rows - r), share = ceil_div(STRIP, count);
          auto strip_after = [&] {
            if constexpr (!Left::CONVERTED) return Idle{};
            else {
              if (first == begin && s == 0) left.conversion(row, rows, 0, start, length, 1).finish();
              return left.conversion(row, first == begin ? rows : 0, s + 1, start, length, steps);
            }
          }();
          const Strip strip = left.strip(row, s, start, length);
          for (int64_t k = start; k < stop; k += d.part) {
            const int64_t elements = smaller(d.part, stop - k);
            const bf16* at = strip.a + (k - start) / GROUP * strip.next;
            for (int64_t i = 0; i < count; i++) {
              const int64_t p = first + 2 * i, width = smaller(2, last - p);
              float* of_pair = block_sums + (s * pairs + (p - begin) / 2) * SUMS;
              const float* from = k > start ? strip_sums + i * SUMS : start > 0 ? of_pair : nullptr;
              const bool done = k + elements >= depth;
              float* to = done ? finished[turn] : k + elements < stop ? strip_sums + i * SUMS : of_pair;
              const bf16* pair = b.b + (p - first) * b.next + (k - start) * PANEL;
              // Rows of the strip after this one, from i · share on.
              const int64_t after = i * share, lines = larger(0, smaller(smaller(share, STRIP - after), rows - r - STRIP - after));
              const Ahead ahead{next_b.b ? next_b.b + (pair - b.b) : nullptr, next_b.next, s * 16 / strips, (s + 1) * 16 / strips,
                                at + strip.after + after * strip.lda, strip.lda, strip.next,
                                Left::CONVERTED && first == begin ? 0 : lines};
              const Block* more = done ? terms.whole(row + r, count_rows, p, width) : nullptr;
              const Block block{at, strip.lda, strip.next, pair, b.next, elements, from, to, 1, WHOLE, more};
              const auto meanwhile = [&](int64_t group) __attribute__((always_inline)) {
                ahead.step(group);
                pending.step();
                strip_after.step();
                panels_after.step();
              };
              multiply<B_STREAMS>(tiles, count_rows, width, block, meanwhile);
              if (!done) continue;
              if (!more) terms.add_parts(tiles, to, row + r, count_rows, p, width);
              pending.finish();
              pending = Pending<Output>{&output, to, row + r, p * PANEL, count_rows};
              turn ^= 1;
            }
          }
          strip_after.finish();
        }
        panels_after.finish();
      }
    }
    pending.finish();
    stream_fence();
  });
}

// The same for rows that have to be converted and a reduction longer than L1 holds of a strip: a block's rows and all its sums
// stay in L2, a pair of panels in L1, and each part of the reduction is converted once.
template <class Left, class Output>
static void products_by_pairs(int64_t M, int64_t panels, int64_t depth, const Left& left, const StoredPanels& right,
                              const Output& output) {
  const int64_t blocks = ceil_div(M, PAIRS_ROWS), block = ceil_div(ceil_div(M, blocks), STRIP) * STRIP;
  const int64_t range = even(ceil_div(panels, ceil_div(4 * thread_total(), blocks))), ranges = ceil_div(panels, range);
  const int64_t part = ceil_div(ceil_div(depth, ceil_div(depth, DEPTH)), GROUP) * GROUP;
  parallel(blocks * ranges, [&](int64_t task) {
    const int64_t row = task / ranges * block, rows = smaller(block, M - row);
    if (rows <= 0) return;
    const int64_t begin = task % ranges * range, end = smaller(panels, begin + range);
    const int64_t strips = ceil_div(rows, STRIP), floats = strips * STRIP * COLUMNS;  // of a pair of panels
    const int64_t at_once = smaller(even(end - begin), larger(2, SUMS_BYTES / (4 * floats) * 2));
    float* sums = (float*)thread_scratch(1, at_once / 2 * floats * 4);
    left.reserve(strips, part);
    alignas(64) float finished[2][STRIP * COLUMNS];
    int turn = 0;
    Pending<Output> pending{&output, nullptr, 0, 0, 0};
    Tiles tiles;
    for (int64_t first = begin; first < end; first += at_once) {
      const int64_t last = smaller(end, first + at_once);
      for (int64_t k = 0; k < depth; k += part) {
        const int64_t elements = smaller(part, depth - k);
        for (int64_t s = 0; s < strips; s++) left.conversion(row, rows, s, k, elements, 1).finish();
        for (int64_t p = first; p < last; p += 2) {
          const int64_t count = smaller(2, last - p);
          const Panels b = right.group(p, k, elements);
          const Panels next = p + 3 < last ? right.group(p + 2, k, elements)
                              : k + part < depth ? right.group(first, k + part, elements)
                                                 : Panels{nullptr, 0};
          for (int64_t s = 0; s < strips; s++) {
            const int64_t count_rows = smaller(STRIP, rows - s * STRIP);
            float* waiting = sums + (p - first) / 2 * floats + s * STRIP * COLUMNS;
            const bool done = k + part >= depth;
            const Strip strip = left.strip(row, s, k, elements);
            const Ahead ahead{next.b, next.next, s * 16 / strips, (s + 1) * 16 / strips, nullptr, 0, 0, 0};
            multiply<A_STREAMS>(tiles, count_rows, count,
                                Block{strip.a, strip.lda, strip.next, b.b, b.next, elements, k > 0 ? waiting : nullptr,
                                      done ? finished[turn] : waiting},
                                [&](int64_t group) __attribute__((always_inline)) {
                                  ahead.step(group);
                                  pending.step();
                                });
            if (!done) continue;
            pending.finish();
            pending = Pending<Output>{&output, finished[turn], row + s * STRIP, p * PANEL, count_rows};
            turn ^= 1;
          }
        }
      }
    }
    pending.finish();
    stream_fence();
  });
}

// The same for rows as they are stored. Rows that are a multiple of 4 KiB apart would share a few sets of the caches.
template <class T, class Right, class Output, class Added = NoTerms>
static void row_products(const T* x, int64_t ldx, int64_t M, int64_t panels, int64_t depth, const Right& right,
                         const Output& output, const Added& added = {}) {
  const int64_t padded = whole_groups(depth);
  if constexpr (sizeof(T) == 2) {
    if (padded == depth && (ldx * 2 % 4096 != 0 || M <= 2 * STRIP))
      return products(M, panels, depth, Rows{x, ldx}, right, output, added);
  }
  const ConvertedRows<T> rows{x, ldx, depth};
  if constexpr (Right::IN_PLACE && Added::NONE) {
    if (padded > DEPTH) return products_by_pairs(M, panels, padded, rows, right, output);
  }
  products(M, panels, padded, rows, right, output, added);
}

// Of a weight as it is stored, and of what is added to its sums.
template <class Added>
static void forward(void* y, const void* x, const void* w, const void* bias, int64_t M, int64_t N, int64_t K, int64_t ldy,
                    int64_t ldx, int32_t ydtype, int32_t xdtype, bool accumulate, float factor, const Added& added) {
  if (M <= 0 || N <= 0) return;
  const StoredPanels panels{(const bf16*)w, whole_groups(K)};
  WITH_DTYPE(ydtype, TY, WITH_DTYPE(xdtype, TX, {
    const bool lines = sizeof(TY) == 2 && ((uintptr_t)y | (ldy * sizeof(TY))) % 64 == 0;
    const bool past_caches = lines && !accumulate && M * N * (int64_t)sizeof(TY) >= BEYOND_CACHES;
    const RowOutput<TY> output{(TY*)y, ldy, N, (const bf16*)bias, accumulate, factor, past_caches};
    row_products((const TX*)x, ldx, M, ceil_div(N, PANEL), K, panels, output, added);
  }));
}

static void matmul_forward(void* y, const void* x, const void* w, const void* bias, int32_t M, int32_t N, int32_t K,
                           int32_t ldy, int32_t ldx, int32_t ydtype, int32_t xdtype, int32_t wdtype,
                           int32_t accumulate, float factor) {
  if (wdtype != BFLOAT16)
    return BASE_PATH::matmul_forward(y, x, w, bias, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate, factor);
  forward(y, x, w, bias, M, N, K, ldy, ldx, ydtype, xdtype, accumulate != 0, factor, NoTerms{});
}

static void adapted_forward(void* y, const void* x, const void* w, const void* bias, const AdapterTerm* terms,
                            int32_t count, int32_t M, int32_t N, int32_t K, int32_t ldy, int32_t ldx, int32_t ydtype,
                            int32_t xdtype, int32_t wdtype, int32_t accumulate) {
  if (wdtype != BFLOAT16)
    return BASE_PATH::adapted_forward(y, x, w, bias, terms, count, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate);
  forward(y, x, w, bias, M, N, K, ldy, ldx, ydtype, xdtype, accumulate != 0, 1, Terms(terms, count, xdtype));
}

static void matmul_backward_input(void* dx, const void* dy, const void* w, int32_t M, int32_t N, int32_t K,
                                  int32_t lddx, int32_t lddy, int32_t dxdtype, int32_t dydtype, int32_t wdtype,
                                  int32_t accumulate, float factor) {
  if (wdtype != BFLOAT16)
    return BASE_PATH::matmul_backward_input(dx, dy, w, M, N, K, lddx, lddy, dxdtype, dydtype, wdtype, accumulate,
                                            factor);
  if (M <= 0 || K <= 0) return;
  // For several blocks of rows, the pairs over n are made once, by all threads; else, or if that takes too much memory, a task
  // makes those it needs.
  const int64_t depth = whole_groups(N), columns = whole_groups(K);
  bf16* exchanged = nullptr;
  if (M > 2 * FEWEST_ROWS && depth * columns * 2 <= CONVERTED_BYTES) {
    exchanged = (bf16*)thread_scratch(3, depth * columns * 2);
    constexpr int64_t ROWS_A_TASK = 64;
    parallel(ceil_div(depth, ROWS_A_TASK), [&](int64_t task) {
      const int64_t from = task * ROWS_A_TASK, to = smaller(depth, from + ROWS_A_TASK);
      for (int64_t k = 0; k < columns; k += PANEL)
        for (int64_t n = from; n < to; n += PANEL) {
          bf16* target = exchanged + (k * depth + n * PANEL);
          if (n < N) exchange(target, (const bf16*)w + n * columns + k * PANEL);
          else memset(target, 0, PANEL * PANEL * sizeof(bf16));
        }
    });
  }
  WITH_DTYPE(dxdtype, TX, WITH_DTYPE(dydtype, TY, {
    const RowOutput<TX> output{(TX*)dx, lddx, K, nullptr, accumulate != 0, factor};
    const int64_t panels = ceil_div(K, PANEL);
    if (exchanged) row_products((const TY*)dy, lddy, M, panels, N, StoredPanels{exchanged, depth}, output);
    else row_products((const TY*)dy, lddy, M, panels, N, ExchangedPanels{(const bf16*)w, N, K}, output);
  }));
}

// xᵀ as strips of PackedRows: rows are K in whole groups, the reduction is over tokens, zero-padded to whole groups.
static void transpose(bf16* target, const bf16* x, int64_t ldx, int64_t tokens, int64_t K) {
  const int64_t depth = whole_groups(tokens);
  parallel(depth / GROUP, [&](int64_t group) {
    for (int64_t k = 0; k < whole_groups(K); k += PANEL) {
      transpose_group([&](int64_t i) __attribute__((always_inline)) {
                        return row_pairs(x + group * GROUP * ldx + k, ldx, 2 * i, tokens - group * GROUP, K - k);
                      },
                      [&](int64_t i, const Pairs& row) __attribute__((always_inline)) {
                        bf16* strip = target + ((k + i) / STRIP * depth + group * GROUP) * STRIP;
                        memcpy(strip + (k + i) % STRIP * GROUP, &row, sizeof row);
                      });
    }
  });
}

static void matmul_backward_weight(float* dw, const void* dy, const void* x, int32_t M, int32_t N, int32_t K,
                                   int32_t lddy, int32_t ldx, int32_t dydtype, int32_t xdtype) {
  if (xdtype != BFLOAT16) return BASE_PATH::matmul_backward_weight(dw, dy, x, M, N, K, lddy, ldx, dydtype, xdtype);
  if (M <= 0 || N <= 0 || K <= 0) return;
  const int64_t padded = whole_groups(K), at_once = larger(GROUP, CONVERTED_BYTES / (2 * padded) / GROUP * GROUP);
  const WeightOutput output{dw, padded, ceil_div(N, PANEL)};
  for (int64_t start = 0; start < M; start += at_once) {
    const int64_t tokens = smaller(at_once, M - start), depth = whole_groups(tokens);
    bf16* columns = (bf16*)thread_scratch(3, ceil_div(padded, STRIP) * STRIP * depth * 2);
    transpose(columns, (const bf16*)x + start * ldx, ldx, tokens, K);
    WITH_DTYPE(dydtype, TY, {
      const PairedRows<TY> pairs{(const TY*)dy + start * lddy, lddy, tokens, N};
      products(padded, ceil_div(N, PANEL), depth, PackedRows{columns, depth}, pairs, output, NoTerms{});
    });
  }
}

// Bytes of a thread's scratch memory beyond the base path's: sums that wait, converted rows and panels.
static int64_t product_scratch_bytes() {
  // A chunk of several parts is longer than DEPTH.
  const int64_t strip_sums = larger(4 * STRIP * COLUMNS, 2 * STRIP * GROUP_BYTES / DEPTH);
  const int64_t strip = STRIP * row_stride(CHUNK) * 2, pair = 2 * COLUMNS * CHUNK * 2;
  return larger(SUMS_BYTES, 4 * STRIP * COLUMNS) + strip_sums + larger(ROWS_BYTES, strip) + larger(GROUP_BYTES, pair) + 4 * 4096;
}

// Bytes of one operand for all threads: a weight, or columns of activations.
static int64_t converted_bytes(int64_t V, int64_t D, int64_t F, int64_t heads, int64_t fused, int64_t T) {
  // The pairs of a larger matrix are not made at once; but of the layers' there may be products with a part of one.
  const int64_t layer = larger(larger(2 * F, fused) * D, heads * D), head = whole_groups(V) * whole_groups(D) * 2;
  const int64_t weight = larger(smaller(CONVERTED_BYTES, 2 * (layer + GROUP * (2 * F + fused + heads + 2 * D + GROUP))),
                                head <= CONVERTED_BYTES ? head : 0);
  const int64_t inputs = whole_groups(larger(larger(D, F), heads));
  const int64_t strips = ceil_div(inputs, STRIP) * STRIP;
  const int64_t columns = smaller(strips * whole_groups(T) * 2, larger(CONVERTED_BYTES, strips * GROUP * 2) * strips / inputs);
  return ceil_div(larger(weight, columns), 4096) * 4096;
}

}  // namespace KERNEL_PATH
