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
// One loop serves all: a task owns a block of rows and a range of panels; two panels of B stay in L1 while strips of A pass
// from L2. Sums stay in tiles over the whole reduction if it has at most DEPTH elements or the rows are few; otherwise they wait in
// scratch memory between parts of it.
#include "threads.h"
#include "tile_bf16.h"

namespace KERNEL_PATH {

// Rows of a block. A part of it, 512 × DEPTH elements, takes 0.6 MiB of an L2 of 1 or 2 MiB, and every byte of B that is read
// from beyond L2 serves 512 operations. Fewer if rows are converted, because each range of panels converts them again.
static constexpr int64_t ROWS = 512, ROWS_CONVERTED = 256;
// Rows of dw's block are columns of x: B is converted once for all of them.
static constexpr int64_t ROWS_OF_GRADIENT = 768;
// Bytes of sums that wait in a thread's scratch memory: what L2 has left beside A.
static constexpr int64_t SUMS_BYTES = 1 << 20;
// A whole operand that is transposed for all tasks takes at most this many bytes. The tests make it small.
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

  // `count` rows of c, COLUMNS wide, to (row, column).
  inline __attribute__((always_inline)) void write(const float* c, int64_t row, int64_t column, int64_t count) const {
    for (int64_t r = 0; r < count; r++)
      for (int64_t v = 0; v < COLUMNS && column + v < N; v += W) {
        const int n = (int)smaller(W, N - column - v);
        V value = load(c + r * COLUMNS + v);
        if (factor != 1) value = mul(value, set1(factor));
        if (bias) value = add(value, load_upto(bias + column + v, n));
        TY* out = y + (row + r) * ld + column + v;
        if (accumulate) value = add(load_upto(out, n), value);
        store_upto(out, value, n);
      }
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

// Prefetches the next two panels of B into L2, a share of each tile's 16 lines per strip of A.
struct Ahead {
  const bf16* b;  // null: none
  int64_t next_b;
  int64_t from, to;  // lines of a tile

  inline __attribute__((always_inline)) void step(int64_t group) const {
    if (!b) return;
    for (int64_t line = from; line < to; line++) {
      const bf16* at = b + (group * 16 + line) * GROUP;
      __builtin_prefetch(at, 0, 2);
      __builtin_prefetch(at + next_b, 0, 2);
    }
  }
};

// A in place.
struct Rows {
  static constexpr bool CONVERTED = false;
  const bf16* x;
  int64_t ld;

  const bf16* part(int64_t row, int64_t, int64_t k, int64_t, int64_t* stride) const {
    *stride = ld;
    return x + row * ld + k;
  }
};

// A as bfloat16, zero-padded to whole groups, in the thread's scratch memory.
template <class T>
struct ConvertedRows {
  static constexpr bool CONVERTED = true;
  const T* x;
  int64_t ld, depth;

  const bf16* part(int64_t row, int64_t rows, int64_t k, int64_t elements, int64_t* stride) const {
    *stride = row_stride(elements);
    bf16* copy = (bf16*)thread_scratch(2, rows * *stride * 2);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t i = 0; i < elements; i += GROUP) {
        const Pairs whole = whole_row(x + (row + r) * ld + k + i, depth - k - i);
        memcpy(copy + r * *stride + i, &whole, sizeof whole);
      }
    return copy;
  }
};

// Two panels of B at an element of the reduction.
struct PanelPair {
  const bf16* b;
  int64_t next;
};

// B as it is stored: panels of pairs over `padded` elements.
struct StoredPanels {
  static constexpr bool IN_PLACE = true;
  const bf16* w;
  int64_t padded;

  PanelPair part(int64_t p, int64_t, int64_t k, int64_t, bf16*) const { return {w + (p * padded + k) * PANEL, padded * PANEL}; }
};

// Pairs over n of a weight's columns [16 p, 16 p + 32), rows [n, n + elements), `next` elements from the first 16 to the others.
static void exchange_panels(bf16* target, int64_t next, const bf16* w, int64_t N, int64_t K, int64_t p, int64_t n,
                            int64_t elements) {
  for (int64_t i = 0; i < elements; i += PANEL) {
    const bf16* tile = w + (n + i) * whole_groups(K) + p * PANEL * PANEL;
    for (int64_t half = 0; half < 2; half++) {
      Pairs v[8] = {};
      if (n + i < N) memcpy(v, tile + half * PANEL * PANEL, sizeof v);
      exchange_pairs(v);
      memcpy(target + half * next + i * PANEL, v, sizeof v);
    }
  }
}

struct ExchangedPanels {
  static constexpr bool IN_PLACE = false;
  const bf16* w;
  int64_t N, K;

  PanelPair part(int64_t p, int64_t, int64_t n, int64_t elements, bf16* memory) const {
    exchange_panels(memory, DEPTH * PANEL, w, N, K, p, n, elements);
    return {memory, DEPTH * PANEL};
  }
};

// B from rows of a gradient: pairs of tokens.
template <class T>
struct PairedRows {
  static constexpr bool IN_PLACE = false;
  const T* dy;
  int64_t ld, tokens, N;

  PanelPair part(int64_t p, int64_t count, int64_t t, int64_t elements, bf16* memory) const {
    for (int64_t i = 0; i < elements; i += 2)
      for (int64_t panel = 0; panel < count; panel++) {
        const int64_t n = (p + panel) * PANEL;
        const Pairs pairs = row_pairs(dy + t * ld + n, ld, i, tokens - t, smaller(PANEL, N - n));
        memcpy(memory + panel * DEPTH * PANEL + i * PANEL, &pairs, sizeof pairs);
      }
    return {memory, DEPTH * PANEL};
  }
};

// All sums over `depth` elements, in whole groups, for M rows and all panels.
template <class Left, class Right, class Output>
static void products(int64_t M, int64_t panels, int64_t depth, int64_t most_rows, const Left& left, const Right& right,
                     const Output& output) {
  const int64_t blocks = ceil_div(M, most_rows), block = ceil_div(ceil_div(M, blocks), STRIP) * STRIP;
  const int64_t wanted = (Left::CONVERTED ? 4 : 8) * thread_total();
  const int64_t per_task = ceil_div(ceil_div(panels, ceil_div(wanted, blocks)), 2) * 2, splits = ceil_div(panels, per_task);
  parallel(blocks * splits, [&](int64_t task) {
    const int64_t row = task / splits * block, rows = smaller(block, M - row);
    if (rows <= 0) return;
    const int64_t begin = task % splits * per_task, end = smaller(panels, begin + per_task);
    // Few rows read B only once or twice: there is nothing to keep in L1.
    const bool whole = depth <= DEPTH || (!Left::CONVERTED && Right::IN_PLACE && rows <= 2 * STRIP);
    const int64_t part = whole ? depth : ceil_div(ceil_div(depth, ceil_div(depth, DEPTH)), GROUP) * GROUP;
    const int64_t strips = ceil_div(rows, STRIP), floats = strips * STRIP * COLUMNS;  // of a pair of panels
    const int64_t at_once = whole ? end - begin : larger(2, SUMS_BYTES / (4 * floats) * 2);
    float* sums = whole ? nullptr : (float*)thread_scratch(1, ceil_div(smaller(at_once, end - begin), 2) * floats * 4);
    alignas(64) bf16 memory[2 * DEPTH * PANEL];
    alignas(64) float finished[2][STRIP * COLUMNS];
    int turn = 0;
    Pending<Output> pending{&output, nullptr, 0, 0, 0};
    Tiles tiles;
    for (int64_t first = begin; first < end; first += at_once) {
      const int64_t last = smaller(end, first + at_once);
      for (int64_t k = 0; k < depth; k += part) {
        const int64_t elements = smaller(part, depth - k);
        int64_t lda;
        const bf16* a = left.part(row, rows, k, elements, &lda);
        for (int64_t p = first; p < last; p += 2) {
          const int64_t count = smaller(2, last - p);
          const PanelPair b = right.part(p, count, k, elements, memory);
          PanelPair next{nullptr, 0};
          if constexpr (Right::IN_PLACE) {
            if (p + 3 < last) next = right.part(p + 2, 2, k, elements, nullptr);
            else if (k + part < depth && count == 2) next = right.part(first, 2, k + part, elements, nullptr);
          }
          for (int64_t s = 0; s < strips; s++) {
            const int64_t r = s * STRIP, count_rows = smaller(STRIP, rows - r);
            float* waiting = whole ? nullptr : sums + (p - first) / 2 * floats + r * COLUMNS;
            const bool done = k + part >= depth;
            float* to = done ? finished[turn] : waiting;
            const Ahead ahead{next.b, next.next, s * 16 / strips, (s + 1) * 16 / strips};
            multiply(tiles, count_rows, count, Block{a + r * lda, lda, b.b, b.next, elements, k > 0 ? waiting : nullptr, to},
                     [&](int64_t group) {
                       ahead.step(group);
                       pending.step();
                     });
            if (!done) continue;
            pending.finish();
            pending = Pending<Output>{&output, to, row + r, p * PANEL, count_rows};
            turn ^= 1;
          }
        }
      }
    }
    pending.finish();
  });
}

// The same for rows as they are stored. Rows that are a multiple of 4 KiB apart would share a few sets of the caches.
template <class T, class Right, class Output>
static void row_products(const T* x, int64_t ldx, int64_t M, int64_t panels, int64_t depth, const Right& right,
                         const Output& output) {
  const int64_t padded = whole_groups(depth);
  if constexpr (sizeof(T) == 2) {
    if (padded == depth && (ldx * 2 % 4096 != 0 || M <= 2 * STRIP))
      return products(M, panels, depth, ROWS, Rows{x, ldx}, right, output);
  }
  products(M, panels, padded, ROWS_CONVERTED, ConvertedRows<T>{x, ldx, depth}, right, output);
}

static void matmul_forward(void* y, const void* x, const void* w, const void* bias, int32_t M, int32_t N, int32_t K,
                           int32_t ldy, int32_t ldx, int32_t ydtype, int32_t xdtype, int32_t wdtype,
                           int32_t accumulate, float factor) {
  if (wdtype != BFLOAT16)
    return BASE_PATH::matmul_forward(y, x, w, bias, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate, factor);
  if (M <= 0 || N <= 0) return;
  const StoredPanels panels{(const bf16*)w, whole_groups(K)};
  WITH_DTYPE(ydtype, TY, WITH_DTYPE(xdtype, TX, {
    const RowOutput<TY> output{(TY*)y, ldy, N, (const bf16*)bias, accumulate != 0, factor};
    row_products((const TX*)x, ldx, M, ceil_div(N, PANEL), K, panels, output);
  }));
}

static void adapted_forward(void* y, const void* x, const void* w, const void* bias, const AdapterTerm* terms,
                            int32_t count, int32_t M, int32_t N, int32_t K, int32_t ldy, int32_t ldx, int32_t ydtype,
                            int32_t xdtype, int32_t wdtype, int32_t accumulate) {
  if (wdtype != BFLOAT16)
    return BASE_PATH::adapted_forward(y, x, w, bias, terms, count, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate);
  matmul_forward(y, x, w, bias, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate, 1);
  for (const AdapterTerm* t = terms; t < terms + count; t++)
    matmul_forward((char*)y + t->first * (ydtype ? 2 : 4), t->down, t->b, nullptr, M, (int32_t)t->N, (int32_t)t->rank, ldy,
                   (int32_t)t->ld, ydtype, xdtype, wdtype, 1, 1);
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
  if (M > ROWS_CONVERTED && depth * columns * 2 <= CONVERTED_BYTES) {
    exchanged = (bf16*)thread_scratch(3, depth * columns * 2);
    parallel(columns / GROUP, [&](int64_t group) {
      bf16* target = exchanged + group * GROUP * depth;
      exchange_panels(target, depth * PANEL, (const bf16*)w, N, K, 2 * group, 0, depth);
    });
  }
  WITH_DTYPE(dxdtype, TX, WITH_DTYPE(dydtype, TY, {
    const RowOutput<TX> output{(TX*)dx, lddx, K, nullptr, accumulate != 0, factor};
    const int64_t panels = ceil_div(K, PANEL);
    if (exchanged) row_products((const TY*)dy, lddy, M, panels, N, StoredPanels{exchanged, depth}, output);
    else row_products((const TY*)dy, lddy, M, panels, N, ExchangedPanels{(const bf16*)w, N, K}, output);
  }));
}

// xᵀ (K in whole groups, tokens) as bfloat16, zero-padded; rows are `stride` apart.
static const bf16* transposed(const bf16* x, int64_t ldx, int64_t tokens, int64_t K, int64_t stride) {
  bf16* t = (bf16*)thread_scratch(3, whole_groups(K) * stride * 2);
  constexpr int64_t TOKENS_A_TASK = 64;
  const int64_t padded = whole_groups(tokens);
  parallel(ceil_div(padded, TOKENS_A_TASK), [&](int64_t task) {
    const int64_t end = smaller(padded, (task + 1) * TOKENS_A_TASK);
    for (int64_t k = 0; k < whole_groups(K); k += PANEL)
      for (int64_t m = task * TOKENS_A_TASK; m < end; m += PANEL) {
        Pairs v[8];
        for (int i = 0; i < 8; i++) v[i] = row_pairs(x + m * ldx + k, ldx, 2 * i, tokens - m, K - k);
        transpose_pairs(v);
        for (int64_t i = 0; i < PANEL; i++) memcpy(t + (k + i) * stride + m, (const char*)v + i * 32, 32);
      }
  });
  return t;
}

static void matmul_backward_weight(float* dw, const void* dy, const void* x, int32_t M, int32_t N, int32_t K,
                                   int32_t lddy, int32_t ldx, int32_t dydtype, int32_t xdtype) {
  if (xdtype != BFLOAT16) return BASE_PATH::matmul_backward_weight(dw, dy, x, M, N, K, lddy, ldx, dydtype, xdtype);
  if (M <= 0 || N <= 0 || K <= 0) return;
  const int64_t padded = whole_groups(K), at_once = larger(DEPTH, CONVERTED_BYTES / (2 * padded) / DEPTH * DEPTH);
  const WeightOutput output{dw, padded, ceil_div(N, PANEL)};
  for (int64_t start = 0; start < M; start += at_once) {
    const int64_t tokens = smaller(at_once, M - start), stride = row_stride(tokens);
    const Rows rows{transposed((const bf16*)x + start * ldx, ldx, tokens, K, stride), stride};
    WITH_DTYPE(dydtype, TY, {
      const PairedRows<TY> pairs{(const TY*)dy + start * lddy, lddy, tokens, N};
      products(padded, ceil_div(N, PANEL), whole_groups(tokens), ROWS_OF_GRADIENT, rows, pairs, output);
    });
  }
}

// Bytes of a thread's scratch memory beyond the base path's: sums that wait, and converted rows.
static int64_t product_scratch_bytes() { return SUMS_BYTES + ROWS_CONVERTED * row_stride(DEPTH) * 2; }

// Bytes of one operand for all threads: a weight, or columns of activations.
static int64_t converted_bytes(int64_t V, int64_t D, int64_t F, int64_t heads, int64_t fused, int64_t T) {
  const int64_t outputs = whole_groups(larger(larger(V, 2 * F), larger(D, fused)));
  const int64_t inputs = whole_groups(larger(larger(D, F), heads));
  const int64_t weight = smaller(CONVERTED_BYTES, outputs * inputs * 2);
  const int64_t tokens = smaller(T, larger(DEPTH, CONVERTED_BYTES / (2 * GROUP)));
  const int64_t columns = smaller(inputs * row_stride(tokens) * 2, larger(CONVERTED_BYTES, inputs * DEPTH * 2) + inputs * 4 * GROUP);
  return ceil_div(larger(weight, columns), 4096) * 4096;
}

}  // namespace KERNEL_PATH
