// Matrix products with a weight (N, K), both directions, and the weight's layout.
//
//   matmul_forward           y (M, N)  (=|+=)  factor · x (M, K) · wᵀ  (+ bias)
//   adapted_forward          y (M, N)  (=|+=)  x (M, K) · wᵀ  (+ bias), + down · bᵀ of adapters in their columns
//   matmul_backward_input    dx (M, K) (=|+=)  factor · dy (M, N) · w
//   matmul_backward_weight   dw (N, K) +=      dyᵀ · x
//   bias_backward            dbias (N) +=      column sums of dy
//
// A weight is stored in panels, [N/16][K][16], rows beyond N zero. One copy serves the forward product (a panel is the
// B operand directly), the backward one (16×16 blocks are transposed on the way), the embedding and the head. Its
// gradient, masters and moments have the same layout in float32, so the optimizer is elementwise.
//
// A weight may also be in NF4 (nf4.h), whose panels are made as a product needs them; its type code says what the bias and the
// adapters are: 3 float32, 4 bfloat16.
//
// An output element is one chain over the reduction index, for any M, threads or blocking (tile.h). pack.h brings the
// operands into the order in which tiles read them.
#include "nf4.h"
#include "ops.h"
#include "pack.h"
#include "panels.h"
#include "threads.h"

namespace KERNEL_PATH {

// Elements of the reduction between one panel of B and the next: as many as leave the panel and a strip of A in or near the L1;
// a larger model's K is cut. A transposed panel takes longer to make, so more rows share it, of fewer elements.
static constexpr int64_t DEPTH = 640, TRANSPOSED_DEPTH = 256;
// Bytes of A that are multiplied with one panel after the other: most of an L2 of 512 KiB.
static constexpr int64_t A_BYTES = 288 << 10, TRANSPOSED_A_BYTES = 384 << 10, MOST_ROWS = 480;
// Up to this many strips of rows read bfloat16 weights directly. For more, a panel is widened once.
static constexpr int64_t FEW_STRIPS = 6;
// Packing A pays if a task multiplies it with this many panels.
static constexpr int64_t PACK_PANELS = 16;
// Bytes of sums that wait while the reduction is cut.
static constexpr int64_t SUM_BYTES = 512 << 10;
// The gradient of a weight: tokens at once, and rows of A, which are columns of x.
static constexpr int64_t TOKENS = 256, K_BLOCK = 288;

int64_t weight_elements(int32_t N, int32_t K, int32_t) { return ceil_div(N, PANEL) * PANEL * K; }

// Bytes of a slot of a thread's scratch memory at most: packed rows of A (0), sums (1), panels as float32 (2), each with
// the page to which it is rounded up. `deepest` is the longest reduction of a forward product.
INLINE int64_t product_scratch(int slot, int64_t deepest) {
  constexpr int64_t page = 4096, padding = (MOST_ROWS / STRIP + 2) * 32;
  if (slot == 0)
    return page + 4 * larger(TRANSPOSED_A_BYTES / 4 + 2 * STRIP * (DEPTH + PANEL) + padding, strip_floats(deepest));
  return page + (slot == 1 ? SUM_BYTES : 4 * PANEL * 2 * (DEPTH + PANEL));
}

// `total` in as few equal pieces as possible of up to `most`, each a multiple of `step`.
INLINE int64_t piece(int64_t total, int64_t most, int64_t step) {
  return ceil_div(ceil_div(total, ceil_div(total, larger(most, 1))), step) * step;
}

// One product y (=|+=) factor · a · B (+ bias): y in panels of 16 columns, B the panels of a weight as they are stored, or transposed.
struct Product {
  void* y;
  const void* x;
  const void* w;
  const void* bias;
  int64_t rows, columns, depth;
  int64_t ldy, ldx, K;  // K: of the weight
  bool y16, x16, w16;   // bfloat16
  bool transposed, accumulate;
  float factor;
  bool nf4 = false;  // w16 then says what bias and adapters are
  const AdapterTerm* terms = nullptr;  // they go on with the chains of x · wᵀ
  int64_t term_count = 0;

  const char* x_at(int64_t r, int64_t k) const { return (const char*)x + (r * ldx + k) * (x16 ? 2 : 4); }
  char* y_at(int64_t r, int64_t n) const { return (char*)y + (r * ldy + n) * (y16 ? 2 : 4); }
  Nf4 quantized() const { return transposed ? Nf4::of(w, depth, K) : Nf4::of(w, columns, K); }
  // The weight's elements from row n, a multiple of 16, and column k.
  const char* w_at(int64_t n, int64_t k) const { return (const char*)w + (n * K + k * PANEL) * (w16 ? 2 : 4); }
};

static __attribute__((noinline)) void pack_rows_of(const Product& g, float* packed, int64_t r, int64_t k,
                                                   const Strips& strips, int64_t depth) {
  WITH_DTYPE(g.x16, TX, { pack_rows(packed, (const TX*)g.x_at(r, k), g.ldx, strips, depth); });
}

// Elements [k, k + depth) of panel p as float32.
static __attribute__((noinline)) void make_panel(const Product& g, float* wide, int64_t p, int64_t k, int64_t depth) {
  if (g.nf4) {
    const Nf4 quantized = g.quantized();
    return g.transposed ? quantized.transpose(wide, k, depth, p * PANEL) : quantized.widen(wide, p, k, depth);
  }
  if (!g.transposed) return widen_panel(wide, (const bf16*)g.w_at(p * PANEL, k), depth);
  WITH_DTYPE(g.w16, TW, { transpose_panel(wide, (const TW*)g.w, k, depth, p * PANEL, g.K); });
}

// Fetches a part of what the next panel will be made of.
INLINE void prefetch(const Product& g, int64_t p, int64_t k, int64_t depth, int64_t part, int64_t parts) {
  if (g.nf4) return;  // a sixteenth of what is computed meanwhile
  const int64_t line = 64 / PANEL / (g.w16 ? 2 : 4);  // rows of a panel
  const int64_t each = ceil_div(ceil_div(depth, parts), PANEL) * PANEL;
  for (int64_t i = part * each; i < smaller(depth, (part + 1) * each); i += line) {
    // rows of a panel, or of the 16 × 16 blocks that will be transposed
    const char* from = g.transposed ? g.w_at((k + i) / PANEL * PANEL, p * PANEL + i % PANEL) : g.w_at(p * PANEL, k + i);
    __builtin_prefetch(from);
  }
}

static __attribute__((noinline)) void write_panel(const Product& g, const float* c, int64_t r, int64_t rows, int64_t p) {
  const int64_t n = p * PANEL, columns = smaller(PANEL, g.columns - n);
  float bias[PANEL] = {};
  if (g.bias)
    WITH_DTYPE(g.w16, TW, {
      for (int64_t j = 0; j < columns; j++) bias[j] = to_float(((const TW*)g.bias)[n + j]);
    });
  WITH_DTYPE(g.y16, TY, {
    write_tile((TY*)g.y_at(r, n), g.ldy, c, rows, columns, g.bias ? bias : nullptr, g.accumulate, g.factor);
  });
}

// A tile over panels beside each other (tile.h).
struct Tile {
  int64_t rows;
  float* c;
  int64_t ldc;
  const float* a;
  int64_t row_stride, k_stride, depth;
  bool from_c;
  int64_t next_c, next_b;
};
template <class TB>
INLINE void tile_beside(const Tile& t, int64_t beside, const TB* b) {
#define BESIDE_CASE(P)                                                                                                 \
  case P:                                                                                                              \
    return tile<P>(t.rows, t.c, t.ldc, t.a, t.row_stride, t.k_stride, b, PANEL, t.depth, t.from_c, t.next_c, t.next_b);
  switch (beside) { BESIDE_CASE(1) BESIDE_CASE(2) BESIDE_CASE(3) BESIDE_CASE(4) }
#undef BESIDE_CASE
}

// Panels beside each other in a tile of `rows` rows: for one row or two, enough sums in flight to keep the memory busy.
INLINE int64_t panels_beside(int64_t rows) { return rows > 2 ? TILE_PANELS : larger(1, smaller(4, SUMS / PV / rows)); }

// Goes on with the sums of rows [row, row + t.rows) in panels [p, p + beside) by the adapters that these panels have.
static void add_terms(const Product& g, Tile t, int64_t row, int64_t p, int64_t beside) {
  for (int64_t i = 0; i < g.term_count; i++) {
    const AdapterTerm& term = g.terms[i];
    const int64_t first = term.first / PANEL, end = first + ceil_div(term.N, PANEL);
    const int64_t from = larger(p, first), to = smaller(p + beside, end);
    if (from >= to) continue;
    t.c += (from - p) * t.next_c;
    t.a = (const float*)term.down + row * term.ld;
    t.row_stride = term.ld, t.k_stride = 1, t.depth = term.rank, t.from_c = true, t.next_b = term.rank * PANEL;
    const int64_t at = (from - first) * t.next_b;
    if (g.w16) tile_beside(t, to - from, (const bf16*)term.b + at);
    else tile_beside(t, to - from, (const float*)term.b + at);
    t.c -= (from - p) * t.next_c;
  }
}

// Rows [row, row + rows) and panels [from, to). The reduction is cut into pieces of `cut` elements.
static void product_task(const Product& g, int64_t row, int64_t rows, int64_t from, int64_t to, int64_t cut) {
  const Strips strips = Strips::of(rows);
  const bool few = strips.count <= FEW_STRIPS && !g.transposed, narrow = few && g.w16 && !g.nf4;
  const bool stored = !g.transposed && !g.nf4 && (narrow || !g.w16);  // B is read where it is
  // In place, rows that lie a multiple of 2 KiB apart would evict each other from the L1.
  const bool pack = g.x16 || (!few && (to - from >= PACK_PANELS || g.ldx % 512 == 0));
  // Sums may wait in y itself unless something is done to them at the end.
  const bool in_place = !g.y16 && !g.bias && !g.accumulate && g.factor == 1, wait = cut < g.depth && !in_place;
  const int64_t most_beside = g.nf4 ? smaller(2, panels_beside(rows)) : panels_beside(rows);
  const int64_t at_once = wait ? smaller(to - from, SUM_BYTES / 4 / PANEL / rows) : to - from;
  float* packed = (float*)thread_scratch(0, pack ? strips.count * strip_floats(cut) * 4 : 0);
  float* sums = (float*)thread_scratch(1, (wait ? at_once : most_beside) * rows * PANEL * 4);
  float* wide = (float*)thread_scratch(2, stored ? 0 : most_beside * cut * PANEL * 4);
  for (int64_t first = from; first < to; first += at_once) {
    const int64_t last = smaller(to, first + at_once);
    for (int64_t k = 0; k < g.depth; k += cut) {
      const int64_t depth = smaller(cut, g.depth - k);
      Operand a = {(const float*)g.x_at(row, k), g.ldx, 1, 0};
      if (pack) {
        pack_rows_of(g, packed, row, k, strips, depth);
        a = {packed, 1, STRIP, strip_floats(depth)};
      }
      int64_t beside;
      for (int64_t p = first; p < last; p += beside) {
        beside = last - p >= most_beside ? most_beside : 1;
        const bool whole = in_place && (p + beside) * PANEL <= g.columns;
        float* c = whole ? (float*)g.y_at(row, p * PANEL) : sums + (wait ? p - first : 0) * rows * PANEL;
        const int64_t ldc = whole ? g.ldy : PANEL, next_c = whole ? PANEL : rows * PANEL;
        const int64_t next_b = stored ? g.K * PANEL : cut * PANEL;
        if (!stored)
          for (int64_t i = 0; i < beside; i++) make_panel(g, wide + i * next_b, p + i, k, depth);
        const void* b = stored ? (const void*)g.w_at(p * PANEL, k) : wide;
        for (int64_t i = 0; i < strips.count; i++) {
          if (!stored)
            for (int64_t next = p + beside; next < smaller(last, p + 2 * beside); next++)
              prefetch(g, next, k, depth, i, strips.count);
          const Tile t = {strips.rows(i), c + strips.first(i) * ldc, ldc, a.strip(strips, i), a.row_stride, a.k_stride, depth,
                          k > 0, next_c, next_b};
          if (narrow) tile_beside(t, beside, (const bf16*)b);
          else tile_beside(t, beside, (const float*)b);
          if (g.term_count > 0 && k + depth == g.depth) add_terms(g, t, row + strips.first(i), p, beside);
        }
        if (!whole && k + depth == g.depth)
          for (int64_t i = 0; i < beside; i++) write_panel(g, c + i * next_c, row, rows, p + i);
      }
    }
  }
}

// Panels of a task, in multiples of `step`, so that the busiest thread has the least to do. A task's other work is worth about
// half a panel.
INLINE int64_t share_panels(int64_t panels, int64_t blocks, int64_t step) {
  const int64_t threads = thread_total(), least = smaller(panels, ceil_div(4 * threads, blocks));
  int64_t best = panels, best_time = INT64_MAX;
  for (int64_t splits = least; splits <= smaller(panels, 2 * least + 8); splits++) {
    const int64_t share = ceil_div(ceil_div(panels, splits), step) * step;
    const int64_t time = ceil_div(blocks * ceil_div(panels, share), threads) * (2 * share + 1);
    if (time < best_time) best = share, best_time = time;
  }
  return best;
}

static void product(const Product& g) {
  const int64_t depth = g.transposed ? TRANSPOSED_DEPTH : DEPTH, bytes = g.transposed ? TRANSPOSED_A_BYTES : A_BYTES;
  // A single strip reads B only once, so there it runs on to the end.
  const bool once = g.rows <= STRIP && !g.transposed && !g.nf4;
  const int64_t cut = once ? g.depth : smaller(g.depth, piece(g.depth, depth, PANEL));
  const int64_t block = smaller(g.rows, piece(g.rows, smaller(MOST_ROWS, bytes / 4 / cut), STRIP));
  const int64_t panels = ceil_div(g.columns, PANEL), blocks = ceil_div(g.rows, block);
  const int64_t share = share_panels(panels, blocks, panels_beside(block)), splits = ceil_div(panels, share);
  parallel(blocks * splits, [&](int64_t task) {
    const int64_t row = task / splits * block, from = task % splits * share;
    product_task(g, row, smaller(block, g.rows - row), from, smaller(panels, from + share), cut);
  });
}

// The type codes of a weight: float32, bfloat16, NF4 among float32 and among bfloat16.
INLINE bool is_nf4(int32_t wdtype) { return wdtype >= 3; }
INLINE bool is_16(int32_t wdtype) { return wdtype == 1 || wdtype == 4; }

void matmul_forward(void* y, const void* x, const void* w, const void* bias, int32_t M, int32_t N, int32_t K,
                    int32_t ldy, int32_t ldx, int32_t ydtype, int32_t xdtype, int32_t wdtype, int32_t accumulate,
                    float factor) {
  if (M <= 0 || N <= 0) return;
  product({y, x, w, bias, M, N, K, ldy, ldx, K, ydtype != 0, xdtype != 0, is_16(wdtype), false, accumulate != 0, factor,
           is_nf4(wdtype)});
}

void adapted_forward(void* y, const void* x, const void* w, const void* bias, const AdapterTerm* terms, int32_t count,
                     int32_t M, int32_t N, int32_t K, int32_t ldy, int32_t ldx, int32_t ydtype, int32_t xdtype,
                     int32_t wdtype, int32_t accumulate) {
  if (M <= 0 || N <= 0) return;
  if (xdtype == 0 && K > 0)
    return product({y, x, w, bias, M, N, K, ldy, ldx, K, ydtype != 0, false, is_16(wdtype), false, accumulate != 0, 1,
                    is_nf4(wdtype), terms, count});
  matmul_forward(y, x, w, bias, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate, 1);
  for (const AdapterTerm* t = terms; t < terms + count; t++)
    matmul_forward((char*)y + t->first * (ydtype ? 2 : 4), t->down, t->b, nullptr, M, (int32_t)t->N, (int32_t)t->rank, ldy,
                   (int32_t)t->ld, ydtype, xdtype, is_16(wdtype), 1, 1);
}

void matmul_backward_input(void* dx, const void* dy, const void* w, int32_t M, int32_t N, int32_t K, int32_t lddx,
                           int32_t lddy, int32_t dxdtype, int32_t dydtype, int32_t wdtype, int32_t accumulate,
                           float factor) {
  if (M <= 0 || K <= 0) return;
  product({dx, dy, w, nullptr, M, K, N, lddx, lddy, K, dxdtype != 0, dydtype != 0, is_16(wdtype), true,
           accumulate != 0, factor, is_nf4(wdtype)});
}

void matmul_backward_weight(float* dw, const void* dy, const void* x, int32_t M, int32_t N, int32_t K, int32_t lddy,
                            int32_t ldx, int32_t dydtype, int32_t xdtype) {
  if (M <= 0 || N <= 0) return;
  // A task owns a range of panels and of K; the reduction over the M tokens accumulates in dw itself.
  const int64_t at_once = piece(M, TOKENS, 1);
  const int64_t k_block = piece(K, K_BLOCK, STRIP), k_blocks = ceil_div(K, k_block);
  const int64_t panels = ceil_div(N, PANEL), share = share_panels(panels, k_blocks, TILE_PANELS), splits = ceil_div(panels, share);
  parallel(k_blocks * splits, [&](int64_t task) {
    const int64_t k0 = task / splits * k_block;
    const Strips strips = Strips::of(smaller(k_block, K - k0));
    const int64_t from = task % splits * share, to = smaller(panels, from + share);
    float* packed = (float*)thread_scratch(0, strips.count * strip_floats(at_once) * 4);
    float* b = (float*)thread_scratch(2, TILE_PANELS * at_once * PANEL * 4);
    for (int64_t m = 0; m < M; m += at_once) {
      const int64_t tokens = smaller(at_once, M - m), next_b = tokens * PANEL, next_c = (int64_t)K * PANEL;
      WITH_DTYPE(xdtype, TX, { pack_columns(packed, (const TX*)x + m * ldx + k0, ldx, strips, tokens, K - k0); });
      const Operand a = {packed, 1, STRIP, strip_floats(tokens)};
      for (int64_t p = from; p < to; p += TILE_PANELS) {
        const int64_t beside = smaller(TILE_PANELS, to - p);
        for (int64_t i = 0; i < beside; i++) {
          const int64_t n = (p + i) * PANEL;
          WITH_DTYPE(dydtype, TY, {
            copy_panel(b + i * next_b, (const TY*)dy + m * lddy + n, lddy, tokens, smaller(PANEL, N - n));
          });
        }
        float* c = dw + (p * K + k0) * PANEL;
        for (int64_t i = 0; i < strips.count; i++) {
          float* sums = c + strips.first(i) * PANEL;
          for (int64_t j = 0; j < beside; j++)
            for (int64_t next = STRIP; next < 2 * STRIP; next++)
              __builtin_prefetch(sums + j * next_c + next * PANEL, 1);  // the next strip's
          const Tile t = {strips.rows(i), sums, PANEL, a.strip(strips, i), a.row_stride, a.k_stride, tokens, true, next_c,
                          next_b};
          tile_beside(t, beside, (const float*)b);
        }
      }
    }
  });
}

void bias_backward(float* dbias, const void* dy, int32_t M, int32_t N, int32_t lddy, int32_t dydtype) {
  WITH_DTYPE(dydtype, TY, {
    parallel(ceil_div(N, PANEL), [&](int64_t p) {
      int64_t n = p * PANEL;
      int columns = (int)smaller(PANEL, N - n);
      for (int v = 0; v * W < columns; v++) {
        int rest = columns - v * W;
        V sum = load_upto(dbias + n + v * W, rest);
        for (int64_t m = 0; m < M; m++) sum = add(sum, load_upto((const TY*)dy + m * lddy + n + v * W, rest));
        store_upto(dbias + n + v * W, sum, rest);
      }
    });
  });
}

// w[k][lane] = rows[lane][k], for 16 rows of K elements in the weight's own type.
template <class T>
INLINE void pack_panel(T* panel, const T* rows, int64_t K) {
  for (int64_t k = 0; k < K; k++)
    for (int64_t lane = 0; lane < PANEL; lane++) panel[k * PANEL + lane] = rows[lane * K + k];
}

// To the layout: source is (N, K) row-major of dtype 0 float32, 1 bfloat16, 2 float16; rows [n0, n0 + rows).
void weight_pack(void* w, const void* source, int32_t n0, int32_t rows, int32_t N, int32_t K, int32_t wdtype,
                 int32_t source_dtype, int32_t) {
  WITH_DTYPE(wdtype, TW, {
    int64_t first = n0 / PANEL, last = ceil_div(n0 + rows, PANEL);
    parallel(last - first, [&](int64_t i) {
      int64_t p = first + i;
      TW* panel = (TW*)w + p * K * PANEL;
      if (wdtype == source_dtype && p * PANEL >= n0 && (p + 1) * PANEL <= n0 + rows)
        return pack_panel(panel, (const TW*)source + (p * PANEL - n0) * K, K);
      for (int64_t lane = 0; lane < PANEL; lane++) {
        int64_t n = p * PANEL + lane, r = n - n0;
        if (n >= N)
          for (int64_t k = 0; k < K; k++) store_scalar(panel + k * PANEL + lane, 0.0f);
        if (r < 0 || r >= rows) continue;
        for (int64_t k = 0; k < K; k++) {
          float value = source_dtype == 0   ? ((const float*)source)[r * K + k]
                        : source_dtype == 1 ? to_float(((const bf16*)source)[r * K + k])
                                            : to_float(((const f16*)source)[r * K + k]);
          store_scalar(panel + k * PANEL + lane, value);
        }
      }
    });
  });
}

// From the layout: rows [n0, n0 + rows) as (rows, K) row-major, dtype 0 float32 or 1 bfloat16.
void weight_unpack(void* target, const void* w, int32_t n0, int32_t rows, int32_t K, int32_t target_dtype,
                   int32_t wdtype, int32_t) {
  WITH_DTYPE(target_dtype, TT, WITH_DTYPE(wdtype, TW, {
    parallel(ceil_div(rows, PANEL), [&](int64_t block) {
      for (int64_t r = block * PANEL; r < smaller(rows, (block + 1) * PANEL); r++) {
        const TW* panel = (const TW*)w + (n0 + r) / PANEL * K * PANEL + (n0 + r) % PANEL;
        for (int64_t k = 0; k < K; k++) store_scalar((TT*)target + r * K + k, to_float(panel[k * PANEL]));
      }
    });
  }));
}

}  // namespace KERNEL_PATH
