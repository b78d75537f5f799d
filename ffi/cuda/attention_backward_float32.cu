// The gradient of attention in float32, without tensor cores (their TF32 keeps 10 bits of an operand's 23):
//
//   attention_backward_keys_float32     dk, dv =, or their sums in slots, of one unit of work and one key-value head
//   attention_backward_queries_float32  dq = of one tile of queries and one head
//
// As attention_backward.cu: ROWS rows of two operands stay in shared memory (K and V, or Q and dO), STEP rows of the
// other two pass. A block takes ROWS of a tile's 64 rows. A thread computes scores of a few rows and columns, which go
// to shared memory, and then the sums of a few rows and columns of the result. DP (the head size, padded) and ROWS are
// the launcher's macros.
#include "attention_backward.cuh"

constexpr int STEP = ROWS;
constexpr int PARTS = TILE / ROWS;  // blocks of a tile
constexpr int LD = DP + 4;    // 8 rows at the same column lie in different banks, 4 neighbours in each
constexpr int LDW = ROWS + 8;  // and so do 4 columns of scores by 8 rows
constexpr int SCORE_ROWS = ROWS / 8, SCORE_COLUMNS = STEP / 16;  // of a thread
constexpr int SUM_ROWS = ROWS / 8, SUM_COLUMNS = DP / 16;

struct Shared {
  float rows[2][ROWS][LD];
  float steps[2][STEP][LD];
  float weights[2][STEP][LDW];  // P and dS, transposed
  float2 stats[STEP];
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "shared memory of a launch");

// N rows of HEAD_DIM elements; rows from `count` on and columns from HEAD_DIM on are zeros.
template <int N, class T>
INLINE void stage(float (*to)[LD], const T* from, int ld, int count) {
  if (HEAD_DIM % 4 == 0 && aligned<4>(from) && ld % 4 == 0) {
#pragma unroll 4
    for (int i = threadIdx.x; i < N * (DP / 4); i += THREADS) {
      const int row = i / (DP / 4), d = i % (DP / 4) * 4;
      const bool there = row < count && d < HEAD_DIM;
      store_vector(&to[row][d], there ? load_vector<4>(from + row * ld + d) : Unit<4>{});
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < N * DP; i += THREADS) {
      const int row = i / DP, d = i % DP;
      to[row][d] = row < count && d < HEAD_DIM ? load(from + row * ld + d) : 0;
    }
  }
}

// Scores of a thread: rows x + 8·i, columns y + 16·j.
using Scores = float[SCORE_ROWS][SCORE_COLUMNS];

INLINE void multiply(Scores& scores, const float (*rows)[LD], const float (*steps)[LD], int x, int y) {
#pragma unroll
  for (int i = 0; i < SCORE_ROWS; i++)
#pragma unroll
    for (int j = 0; j < SCORE_COLUMNS; j++) scores[i][j] = 0;
#pragma unroll 2
  for (int d = 0; d < DP; d += 4) {
    float4 a[SCORE_ROWS], b[SCORE_COLUMNS];
#pragma unroll
    for (int i = 0; i < SCORE_ROWS; i++) a[i] = *(const float4*)&rows[x + 8 * i][d];
#pragma unroll
    for (int j = 0; j < SCORE_COLUMNS; j++) b[j] = *(const float4*)&steps[y + 16 * j][d];
#pragma unroll
    for (int i = 0; i < SCORE_ROWS; i++)
#pragma unroll
      for (int j = 0; j < SCORE_COLUMNS; j++) {
        float& s = scores[i][j];
        s = fmaf(a[i].x, b[j].x, s);
        s = fmaf(a[i].y, b[j].y, s);
        s = fmaf(a[i].z, b[j].z, s);
        s = fmaf(a[i].w, b[j].w, s);
      }
  }
}

// Sums of a thread: rows SUM_ROWS·y + i, columns x + 16·j. `count` rows of the step are there.
using Sums = float[SUM_ROWS][SUM_COLUMNS];

INLINE void accumulate(Sums& sums, const float (*weights)[LDW], const float (*steps)[LD], int count, int x, int y) {
#pragma unroll 2
  for (int c = 0; c < count; c++) {
    float w[SUM_ROWS];
#pragma unroll
    for (int i = 0; i < SUM_ROWS; i += 2) {
      const float2 two = *(const float2*)&weights[c][SUM_ROWS * y + i];
      w[i] = two.x;
      w[i + 1] = two.y;
    }
#pragma unroll
    for (int j = 0; j < SUM_COLUMNS; j++) {
      const float b = steps[c][x + 16 * j];
#pragma unroll
      for (int i = 0; i < SUM_ROWS; i++) sums[i][j] = fmaf(w[i], b, sums[i][j]);
    }
  }
}

template <class T>
INLINE void write_rows(T* y, i64 ld, const Sums& sums, int count, int columns, float scale) {
  const int x = threadIdx.x % 16, first_row = threadIdx.x / 16 * SUM_ROWS;
#pragma unroll
  for (int i = 0; i < SUM_ROWS; i++)
#pragma unroll
    for (int j = 0; j < SUM_COLUMNS; j++)
      if (first_row + i < count && x + 16 * j < columns)
        store(y + (first_row + i) * ld + x + 16 * j, scale * sums[i][j]);
}

// qkv and dout have row strides ldq and ldo; stats (H, T). A block is a unit, a head and a part of the tile.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_backward_keys_float32(DQKV_TYPE* __restrict__ dk, DQKV_TYPE* __restrict__ dv, float* __restrict__ slots,
                                const DOUT_TYPE* __restrict__ dout, const float* __restrict__ q,
                                const float* __restrict__ k, const float* __restrict__ v,
                                const float2* __restrict__ stats, const int4* __restrict__ units,
                                const int* __restrict__ segments, int T, int H, int Hkv, int window, int ldd, int ldo,
                                int ldq, float scale) {
  extern __shared__ __align__(16) unsigned char memory[];
  Shared& shared = *(Shared*)memory;
  const Work work = work_at(units, blockIdx.x);
  if (work.segment < 0) return;
  const Segment s = segment_at(segments, work.segment);
  const int offset = blockIdx.z * ROWS, first_key = s.start + work.index * TILE + offset;
  const int count = smaller(ROWS, s.start + s.length - first_key);
  if (count <= 0) return;
  const int h = blockIdx.y, group = H / Hkv, thread = threadIdx.x;
  stage<ROWS>(shared.rows[0], k + (i64)first_key * ldq + h * HEAD_DIM, ldq, count);
  stage<ROWS>(shared.rows[1], v + (i64)first_key * ldq + h * HEAD_DIM, ldq, count);

  QueryWalk<STEP> walk(segments, work);
  Sums dkeys = {}, dvalues = {};
  const int x = thread % 8, y = thread / 8;
  do {
    if (walk.row + STEP <= first_key) continue;  // the tile's first queries, which see none of its last keys
    const i64 row = walk.row;
    const int head = h * group + walk.head, rows = walk.rows();
    stage<STEP>(shared.steps[0], q + row * ldq + head * HEAD_DIM, ldq, rows);
    stage<STEP>(shared.steps[1], dout + row * ldo + head * HEAD_DIM, ldo, rows);
    if (thread < STEP) shared.stats[thread] = thread < rows ? stats[(i64)head * T + row + thread] : make_float2(0, 0);
    __syncthreads();

    Scores p, ds;
    const bool busy = y - y % 4 < rows;  // the warp has columns that are there
    if (busy) {
      multiply(p, shared.rows[0], shared.steps[0], x, y);
      multiply(ds, shared.rows[1], shared.steps[1], x, y);
    }
#pragma unroll
    for (int j = 0; busy && j < SCORE_COLUMNS; j++) {
      const int column = y + 16 * j, query = walk.row + column;
      const float2 stat = shared.stats[column];
#pragma unroll
      for (int i = 0; i < SCORE_ROWS; i++) {
        const int key = first_key + x + 8 * i;
        const bool seen = key >= walk.from && key < walk.to && key <= query &&
                          (!WINDOWED || in_window(query, key, walk.shift, window));
        const float weight = seen ? expf(fmaf(p[i][j], scale, stat.x)) : 0;
        shared.weights[0][column][x + 8 * i] = weight;
        shared.weights[1][column][x + 8 * i] = weight * (ds[i][j] - stat.y);
      }
    }
    __syncthreads();
    accumulate(dvalues, shared.weights[0], shared.steps[1], rows, thread % 16, thread / 16);
    accumulate(dkeys, shared.weights[1], shared.steps[0], rows, thread % 16, thread / 16);
    __syncthreads();
  } while (walk.advance(group));

  if (work.slot < 0) {
    const i64 out = (i64)first_key * ldd + h * HEAD_DIM;
    write_rows(dk + out, ldd, dkeys, count, HEAD_DIM, scale);
    write_rows(dv + out, ldd, dvalues, count, HEAD_DIM, 1.0f);
  } else {
    float* const slot = slots + (((i64)work.slot * Hkv + h) * 2 * TILE + offset) * DP;
    write_rows(slot, DP, dkeys, count, DP, scale);
    write_rows(slot + TILE * DP, DP, dvalues, count, DP, 1.0f);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_backward_queries_float32(DQKV_TYPE* __restrict__ dq, const DOUT_TYPE* __restrict__ dout,
                                   const float* __restrict__ q, const float* __restrict__ k,
                                   const float* __restrict__ v, const float2* __restrict__ stats,
                                   const int4* __restrict__ tiles, const int* __restrict__ segments, int T, int H,
                                   int Hkv, int window, int ldd, int ldo, int ldq, float scale) {
  extern __shared__ __align__(16) unsigned char memory[];
  Shared& shared = *(Shared*)memory;
  const Tile tile = tile_at(tiles, blockIdx.x);
  if (tile.segment < 0) return;
  const Segment s = segment_at(segments, tile.segment);
  const int first_query = s.start + tile.index * TILE + blockIdx.z * ROWS;
  const int count = smaller(ROWS, s.start + s.length - first_query);
  if (count <= 0) return;
  const int head = blockIdx.y, h = head / (H / Hkv), thread = threadIdx.x;
  stage<ROWS>(shared.rows[0], q + (i64)first_query * ldq + head * HEAD_DIM, ldq, count);
  stage<ROWS>(shared.rows[1], dout + (i64)first_query * ldo + head * HEAD_DIM, ldo, count);

  const int x = thread % 8, y = thread / 8;
  float2 row_stats[SCORE_ROWS];
#pragma unroll
  for (int i = 0; i < SCORE_ROWS; i++)
    row_stats[i] = x + 8 * i < count ? stats[(i64)head * T + first_query + x + 8 * i] : make_float2(0, 0);

  KeyWalk<STEP> walk(s, first_query - s.start + count, first_query - s.start, window);
  Sums sums = {};
  do {
    const int first_key = walk.row(), rows = walk.rows();
    stage<STEP>(shared.steps[0], k + (i64)first_key * ldq + h * HEAD_DIM, ldq, rows);
    stage<STEP>(shared.steps[1], v + (i64)first_key * ldq + h * HEAD_DIM, ldq, rows);
    __syncthreads();

    Scores p, ds;
    const bool busy = y - y % 4 < rows;  // the warp has columns that are there
    if (busy) {
      multiply(p, shared.rows[0], shared.steps[0], x, y);
      multiply(ds, shared.rows[1], shared.steps[1], x, y);
    }
#pragma unroll
    for (int j = 0; busy && j < SCORE_COLUMNS; j++)
#pragma unroll
      for (int i = 0; i < SCORE_ROWS; i++) {
        const int column = y + 16 * j, query = first_query + x + 8 * i;
        const bool seen = column < rows && (!walk.own || first_key + column <= query) &&
                          (!WINDOWED || in_window(query, first_key + column, walk.shift(), window));
        const float weight = seen ? expf(fmaf(p[i][j], scale, row_stats[i].x)) : 0;
        shared.weights[1][column][x + 8 * i] = weight * (ds[i][j] - row_stats[i].y);
      }
    __syncthreads();
    accumulate(sums, shared.weights[1], shared.steps[0], rows, thread % 16, thread / 16);
    __syncthreads();
  } while (walk.advance());
  write_rows(dq + (i64)first_query * ldd + head * HEAD_DIM, ldd, sums, count, HEAD_DIM, scale);
}
