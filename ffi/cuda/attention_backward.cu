// The gradient of attention on tensor cores, bfloat16 in and float32 sums, sm_80 and later:
//
//   attention_backward_keys     dk, dv =, or their sums in slots, of one unit of work and one key-value head
//   attention_backward_queries  dq = of one tile of queries and one head
//
// Both hold 64 rows of two operands in shared memory (K and V, or Q and dO) and stream the rows of the other two past
// them. A warp's scores never leave its registers: the sums of one product are, rounded to bfloat16, the first operand
// of the next, since keys are the rows of scores in the one kernel and queries in the other. Rows that are not there
// are zeros in shared memory; a query of zeros with statistics of zero adds nothing to dk and dv.
//
// Macros, by head size: DP, the head size padded to 16 (above 128 to 32); STEP, the rows streamed at a time, two such
// steps being in shared memory; KEY_PARTS, the blocks of the key kernel that share the columns of dk and dv, so that sums
// stay in registers; QUERY_ROW_TILES of a warp of the query kernel. Operands are copied 16 bytes at a time:
// attention_backward_pack makes that possible.
#include "attention_backward.cuh"
#include "tensor_core.cuh"

constexpr int CHUNKS = DP / 8;  // of 16 bytes in a row
constexpr int ROWS_BYTES = TILE * DP * 2, STEP_BYTES = STEP * DP * 2;
constexpr int QUERY_BLOCKS = DP <= 64 ? 3 : 2;  // of a multiprocessor, as registers and shared memory of sm_80 allow
constexpr float LOG2_E = 1.4426950408889634f;

// How the four warps share a step: ROW_TILES · 16 of the 64 rows by the STEP rows, or by half of them. Two row tiles a
// warp mean fewer reads of shared memory for a product and more sums in registers. Scores are computed COLUMNS at a
// time.
template <int ROW_TILES>
struct Sharing {
  static constexpr int ROW_WARPS = 4 / ROW_TILES, STEP_COLUMNS = STEP / ROW_TILES;
  static constexpr int COLUMNS = STEP_COLUMNS < 32 ? STEP_COLUMNS : 32;
  static INLINE int row() { return threadIdx.x / WARP % ROW_WARPS * 16 * ROW_TILES; }
  static INLINE int column_warp() { return threadIdx.x / WARP / ROW_WARPS; }
  static INLINE int column() { return column_warp() * STEP_COLUMNS; }
};

// ROWS rows of HEAD_DIM elements to shared memory; rows from `count` on and columns from HEAD_DIM on are zeros.
template <int ROWS>
INLINE void stage(u32 shared, const bf16* from, int ld, int count) {
#pragma unroll
  for (int i = 0; i < ROWS * CHUNKS; i += THREADS) {
    const int index = i + threadIdx.x, row = index / CHUNKS, chunk = index % CHUNKS;
    const bool there = row < count && chunk * 8 < HEAD_DIM;
    if (ROWS * CHUNKS % THREADS == 0 || row < ROWS)
      copy_async(shared + swizzled<CHUNKS>(row, chunk), from + (there ? row * ld + chunk * 8 : 0), there);
  }
}

// Where a lane reads in shared rows, for ldmatrix: rows as a first operand (16 rows by 2 chunks), and as a second one
// with the row as its column (8 rows by 2 chunks, twice). Chunk k of a row, k even, is `chunk(lane's address, k)`: the
// exchange of chunks is an XOR of bits that the address of a row has free.
INLINE u32 lane_rows(u32 rows) {
  const int lane = threadIdx.x % WARP;
  return rows + swizzled<CHUNKS>(lane % 16, lane / 16);
}
INLINE u32 lane_columns(u32 rows) {
  const int lane = threadIdx.x % WARP;
  return rows + swizzled<CHUNKS>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
}
INLINE u32 chunk(u32 address, int k) {
  constexpr int period = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;
  return (address ^ (k % period * 16)) + k / period * period * 16;
}
constexpr int SIXTEEN_ROWS = 16 * DP * 2;  // bytes; the exchange of chunks is the same in each 16 rows

// A warp's rows as first operand: kept in registers where the head is small, else read each time.
template <int ROW_TILES>
struct Rows {
  static constexpr bool KEPT = DP <= 64;
  static constexpr int FRAGMENTS = KEPT ? CHUNKS / 2 : 1;
  u32 address;  // a lane_rows
  u32 kept[FRAGMENTS][ROW_TILES][4];

  INLINE void keep() {
    if (!KEPT) return;
#pragma unroll
    for (int k = 0; k < FRAGMENTS; k++) read(kept[k], 2 * k);
  }
  INLINE void read(u32 (&a)[ROW_TILES][4], int k) const {
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) load_matrices(a[m], chunk(address, k) + m * SIXTEEN_ROWS);
  }
  INLINE void fragment(u32 (&a)[ROW_TILES][4], int k) const {
    if (!KEPT) read(a, k);
#pragma unroll
    for (int i = 0; KEPT && i < ROW_TILES * 4; i++) a[i / 4][i % 4] = kept[k / 2][i / 4][i % 4];
  }
};

// scores (16·ROW_TILES, COLUMNS) = rows · step, transposed; `step` is a lane_columns
template <int ROW_TILES, int COLUMNS>
INLINE void multiply(float (&scores)[ROW_TILES][COLUMNS / 8][4], const Rows<ROW_TILES>& rows, u32 step) {
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) scores[m][n][e] = 0;
#pragma unroll 4
  for (int k = 0; k < CHUNKS; k += 2) {
    u32 a[ROW_TILES][4];
    rows.fragment(a, k);
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n += 2) {
      u32 b[4];
      load_matrices(b, chunk(step, k) + n / 2 * SIXTEEN_ROWS);
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++) {
        mma(scores[m][n], a[m], b[0], b[1]);
        mma(scores[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// sums (16·ROW_TILES, OUT) += weights (16·ROW_TILES, COLUMNS) · columns of step, from 8·first_chunk on; `step` is a
// lane_rows
template <int ROW_TILES, int COLUMNS, int OUT>
INLINE void accumulate(float (&sums)[ROW_TILES][OUT / 8][4], const u32 (&weights)[ROW_TILES][COLUMNS / 16][4], u32 step,
                       int first_chunk) {
#pragma unroll
  for (int k = 0; k < COLUMNS / 16; k++)
#pragma unroll
    for (int n = 0; n < OUT / 8; n += 2) {
      u32 b[4];
      load_matrices_transposed(b, chunk(step, first_chunk + n) + k * SIXTEEN_ROWS);
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++) {
        mma(sums[m][n], weights[m][k], b[0], b[1]);
        mma(sums[m][n + 1], weights[m][k], b[2], b[3]);
      }
    }
}

// Sums as the first operand of the next product: both have a lane's elements in the same places.
template <int ROW_TILES, int COLUMNS>
INLINE void to_operand(u32 (&a)[ROW_TILES][COLUMNS / 16][4], const float (&x)[ROW_TILES][COLUMNS / 8][4]) {
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
    for (int k = 0; k < COLUMNS / 16; k++)
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float* pair = x[m][2 * k + r / 2] + r % 2 * 2;
        a[m][k][r] = pack_bf16(pair[0], pair[1]);
      }
}

// Sums as 64 rows of OUT + 8 floats in shared memory, of each column warp by itself. The pad spreads a warp's rows over
// the banks. Operands lie there before.
template <int ROW_TILES, int OUT>
constexpr int sums_bytes() {
  return ROW_TILES * TILE * (OUT + 8) * (int)sizeof(float);
}
template <int ROW_TILES, int OUT>
INLINE void gather_sums(float* rows, const float (&sums)[ROW_TILES][OUT / 8][4]) {
  using Share = Sharing<ROW_TILES>;
  const int lane = threadIdx.x % WARP;
  float2* const mine =
      (float2*)rows + (Share::column_warp() * TILE + Share::row() + lane / 4) * (OUT / 2 + 4) + lane % 4;
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
    for (int n = 0; n < OUT / 8; n++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        mine[(16 * m + 8 * half) * (OUT / 2 + 4) + 4 * n] =
            make_float2(sums[m][n][2 * half], sums[m][n][2 * half + 1]);
  __syncthreads();
}

// y (count, columns) = scale · gathered rows, those of the column warps added up
template <int ROW_TILES, int OUT, class T>
INLINE void write_rows(T* y, i64 ld, const float* rows, int count, int columns, float scale) {
  const bool vectors = aligned<4>(y) && ld % 4 == 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < count * (OUT / 4); i += THREADS) {
    const int row = i / (OUT / 4), d = i % (OUT / 4) * 4;
    Unit<4> x = load_vector<4>(rows + row * (OUT + 8) + d);
    if (ROW_TILES == 2) {
      const Unit<4> more = load_vector<4>(rows + (TILE + row) * (OUT + 8) + d);
#pragma unroll
      for (int j = 0; j < 4; j++) x.at[j] += more.at[j];
    }
#pragma unroll
    for (float& value : x.at) value *= scale;
    store_unit(y + row * ld + d, x, columns - d, vectors);
  }
}

// qkv and dout are read with row strides ldq, ldo and heads `head_q`, `head_o` elements apart; stats (H, T).
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_backward_keys(DQKV_TYPE* __restrict__ dk, DQKV_TYPE* __restrict__ dv, float* __restrict__ slots,
                            const bf16* __restrict__ dout, const bf16* __restrict__ q, const bf16* __restrict__ k,
                            const bf16* __restrict__ v, const float2* __restrict__ stats,
                            const int4* __restrict__ units, const int* __restrict__ segments, int T, int H, int Hkv,
                            int window, int ldd, int ldo, int ldq, int head_o, int head_q, float scale) {
  constexpr int ROW_TILES = 1, OUT = DP / KEY_PARTS;
  static_assert(2 * ROWS_BYTES + 4 * STEP_BYTES + 2 * STEP * sizeof(float2) <= KEY_SHARED_BYTES, "operands");
  static_assert(sums_bytes<ROW_TILES, OUT>() <= KEY_SHARED_BYTES, "sums");
  using Share = Sharing<ROW_TILES>;
  constexpr int COLUMNS = Share::COLUMNS;
  extern __shared__ __align__(128) unsigned char shared[];
  const u32 keys = shared_address(shared), values = keys + ROWS_BYTES, steps = values + ROWS_BYTES;
  const float2* const step_stats = (const float2*)(shared + 2 * ROWS_BYTES + 4 * STEP_BYTES);

  const Work work = work_at(units, blockIdx.x);
  if (work.segment < 0) return;
  const int h = blockIdx.y, group = H / Hkv, first_chunk = blockIdx.z * (OUT / 8);
  QueryWalk<STEP> walk(segments, work);
  const Segment s = segment_at(segments, work.segment);
  const int first_key = s.start + work.index * TILE, count = smaller(TILE, s.length - work.index * TILE);
  stage<TILE>(keys, k + (i64)first_key * ldq + h * head_q, ldq, count);
  stage<TILE>(values, v + (i64)first_key * ldq + h * head_q, ldq, count);

  const auto stage_step = [&](int buffer) {
    const i64 row = walk.row;
    const int head = h * group + walk.head, rows = walk.rows();
    stage<STEP>(steps + 2 * buffer * STEP_BYTES, q + row * ldq + head * head_q, ldq, rows);
    stage<STEP>(steps + (2 * buffer + 1) * STEP_BYTES, dout + row * ldo + head * head_o, ldo, rows);
    const int i = threadIdx.x;
    if (i < STEP) {
      const bool there = i < rows;
      const u32 to = steps + 4 * STEP_BYTES + (buffer * STEP + i) * sizeof(float2);
      copy_async_8(to, stats + (i64)head * T + row + (there ? i : 0), there);
    }
    copies_commit();
  };

  stage_step(0);
  float dkeys[ROW_TILES][OUT / 8][4] = {}, dvalues[ROW_TILES][OUT / 8][4] = {};
  const int lane = threadIdx.x % WARP, row = Share::row();
  Rows<ROW_TILES> row_keys = {lane_rows(keys) + row * DP * 2}, row_values = {row_keys.address + ROWS_BYTES};
  const u32 step_rows = lane_rows(steps), step_columns = lane_columns(steps);
  const float exponent = scale * LOG2_E;
  copies_wait<0>();
  __syncthreads();
  row_keys.keep();
  row_values.keep();
  int buffer = 0;
  for (bool more = true; more; buffer ^= 1) {
    const int first_query = walk.row, rows_there = walk.rows(), from = walk.from, to = walk.to;
    const int reach = walk.shift + window;  // rows from a key to the first query that no longer sees it
    more = walk.advance(group);
    if (more) stage_step(buffer ^ 1);
    // The warp's keys and queries. A prompt precedes its completions, so that a query sees no key behind it.
    const int key = first_key + row;
#pragma unroll 1
    for (int column = 0; column < rows_there; column += COLUMNS) {
      const int query = first_query + column;
      if (key >= query + COLUMNS) continue;
      if (WINDOWED && query >= key + 16 * ROW_TILES + reach) continue;
      const u32 queries = 2 * buffer * STEP_BYTES + column * DP * 2, douts = queries + STEP_BYTES;
      float p[ROW_TILES][COLUMNS / 8][4], ds[ROW_TILES][COLUMNS / 8][4];
      multiply<ROW_TILES, COLUMNS>(p, row_keys, step_columns + queries);
      multiply<ROW_TILES, COLUMNS>(ds, row_values, step_columns + douts);
      int seen_from[ROW_TILES][2];  // the first of these queries that sees this lane's key
      int seen_to[ROW_TILES][2];    // and the first one after it that does not
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int this_key = key + 16 * m + 8 * half + lane / 4;
          seen_from[m][half] = this_key < from || this_key >= to ? COLUMNS : this_key - query;
          seen_to[m][half] = this_key + reach - query;
        }
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; n++) {
        const int at = 8 * n + lane % 4 * 2;
        const float4 two = *(const float4*)(step_stats + buffer * STEP + column + at);
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const float power = exp2_approx(fmaf(p[m][n][e], exponent, e % 2 ? two.z : two.x));
            const bool seen = at + e % 2 >= seen_from[m][e / 2] && (!WINDOWED || at + e % 2 < seen_to[m][e / 2]);
            p[m][n][e] = seen ? power : 0;
            ds[m][n][e] = p[m][n][e] * (ds[m][n][e] - (e % 2 ? two.w : two.y));
          }
      }
      u32 weights[ROW_TILES][COLUMNS / 16][4];
      to_operand<ROW_TILES, COLUMNS>(weights, p);
      accumulate<ROW_TILES, COLUMNS, OUT>(dvalues, weights, step_rows + douts, first_chunk);
      to_operand<ROW_TILES, COLUMNS>(weights, ds);
      accumulate<ROW_TILES, COLUMNS, OUT>(dkeys, weights, step_rows + queries, first_chunk);
    }
    copies_wait<0>();
    __syncthreads();
  }

  float* const rows = (float*)shared;
  const int d = first_chunk * 8, columns = smaller(OUT, HEAD_DIM - d);
  float* const slot = slots + ((i64)work.slot * Hkv + h) * 2 * TILE * DP + d;
  const i64 out = (i64)first_key * ldd + h * HEAD_DIM + d;
  gather_sums<ROW_TILES, OUT>(rows, dkeys);
  if (work.slot < 0)
    write_rows<ROW_TILES, OUT>(dk + out, ldd, rows, count, columns, scale);
  else
    write_rows<ROW_TILES, OUT>(slot, DP, rows, count, OUT, scale);
  __syncthreads();
  gather_sums<ROW_TILES, OUT>(rows, dvalues);
  if (work.slot < 0)
    write_rows<ROW_TILES, OUT>(dv + out, ldd, rows, count, columns, 1.0f);
  else
    write_rows<ROW_TILES, OUT>(slot + TILE * DP, DP, rows, count, OUT, 1.0f);
}

extern "C" __global__ void __launch_bounds__(THREADS, QUERY_BLOCKS)
    attention_backward_queries(DQKV_TYPE* __restrict__ dq, const bf16* __restrict__ dout, const bf16* __restrict__ q,
                               const bf16* __restrict__ k, const bf16* __restrict__ v, const float2* __restrict__ stats,
                               const int4* __restrict__ tiles, const int* __restrict__ segments, int T, int H, int Hkv,
                               int window, int ldd, int ldo, int ldq, int head_o, int head_q, float scale) {
  constexpr int ROW_TILES = QUERY_ROW_TILES;
  static_assert(2 * ROWS_BYTES + 4 * STEP_BYTES <= QUERY_SHARED_BYTES, "operands");
  static_assert(sums_bytes<ROW_TILES, DP>() <= QUERY_SHARED_BYTES, "sums");
  using Share = Sharing<ROW_TILES>;
  constexpr int COLUMNS = Share::COLUMNS;
  extern __shared__ __align__(128) unsigned char shared[];
  const u32 queries = shared_address(shared), douts = queries + ROWS_BYTES, steps = douts + ROWS_BYTES;

  const Tile tile = tile_at(tiles, blockIdx.x);
  if (tile.segment < 0) return;
  const int head = blockIdx.y, h = head / (H / Hkv);
  const Segment s = segment_at(segments, tile.segment);
  const int first_query = s.start + tile.index * TILE, count = smaller(TILE, s.length - tile.index * TILE);
  KeyWalk<STEP> walk(s, tile.index * TILE + count, tile.index * TILE, window);
  stage<TILE>(queries, q + (i64)first_query * ldq + head * head_q, ldq, count);
  stage<TILE>(douts, dout + (i64)first_query * ldo + head * head_o, ldo, count);

  const auto stage_step = [&](int buffer) {
    const i64 at = (i64)walk.row() * ldq + h * head_q;
    const int rows = walk.rows();
    stage<STEP>(steps + 2 * buffer * STEP_BYTES, k + at, ldq, rows);
    stage<STEP>(steps + (2 * buffer + 1) * STEP_BYTES, v + at, ldq, rows);
    copies_commit();
  };

  stage_step(0);
  const int lane = threadIdx.x % WARP, row = Share::row(), first_column = Share::column();
  float2 row_stats[ROW_TILES][2];
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int i = row + 16 * m + 8 * half + lane / 4;
      row_stats[m][half] = i < count ? stats[(i64)head * T + first_query + i] : make_float2(0, 0);
    }
  float sums[ROW_TILES][CHUNKS][4] = {};
  Rows<ROW_TILES> row_queries = {lane_rows(queries) + row * DP * 2}, row_douts = {row_queries.address + ROWS_BYTES};
  const u32 warp_steps = steps + first_column * DP * 2;
  const u32 step_rows = lane_rows(warp_steps), step_columns = lane_columns(warp_steps);
  const float exponent = scale * LOG2_E;
  copies_wait<0>();
  __syncthreads();
  row_queries.keep();
  row_douts.keep();
  int buffer = 0;
  for (bool more = true; more; buffer ^= 1) {
    const int first_key = walk.row(), end = first_key + walk.rows();
    const bool own = walk.own;
    const int reach = walk.shift() + window;
    more = walk.advance();
    if (more) stage_step(buffer ^ 1);
    const int query = first_query + row;
#pragma unroll 1
    for (int column = first_column; column < first_column + Share::STEP_COLUMNS; column += COLUMNS) {
      const int key = first_key + column;
      if (key >= end || (own && key >= query + 16 * ROW_TILES)) break;
      const u32 keys = 2 * buffer * STEP_BYTES + (column - first_column) * DP * 2, values = keys + STEP_BYTES;
      float p[ROW_TILES][COLUMNS / 8][4], ds[ROW_TILES][COLUMNS / 8][4];
      multiply<ROW_TILES, COLUMNS>(p, row_queries, step_columns + keys);
      multiply<ROW_TILES, COLUMNS>(ds, row_douts, step_columns + values);
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int this_query = query + 16 * m + 8 * half + lane / 4;
          const int seen = (own ? smaller(end, this_query + 1) : end) - key;  // of the warp's keys, by this query
          const int before = WINDOWED ? this_query - reach + 1 - key : 0;  // of the warp's keys, outside the window
          const float2 stat = row_stats[m][half];
#pragma unroll
          for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const float power = exp2_approx(fmaf(p[m][n][2 * half + e], exponent, stat.x));
              const int place = 8 * n + lane % 4 * 2 + e;
              const float weight = place < seen && (!WINDOWED || place >= before) ? power : 0;
              ds[m][n][2 * half + e] = weight * (ds[m][n][2 * half + e] - stat.y);
            }
        }
      u32 weights[ROW_TILES][COLUMNS / 16][4];
      to_operand<ROW_TILES, COLUMNS>(weights, ds);
      accumulate<ROW_TILES, COLUMNS, DP>(sums, weights, step_rows + keys, 0);
    }
    copies_wait<0>();
    __syncthreads();
  }

  float* const rows = (float*)shared;
  gather_sums<ROW_TILES, DP>(rows, sums);
  write_rows<ROW_TILES, DP>(dq + (i64)first_query * ldd + head * HEAD_DIM, ldd, rows, count, HEAD_DIM, scale);
}
