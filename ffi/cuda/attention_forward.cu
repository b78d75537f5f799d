// Attention over packed segments in bfloat16, on tensor cores: out (T, H, Dh) =, lse (T, H) = (null: not wanted).
// Flash style (Dao et al. 2022): no (T, T) buffer. A block takes one tile of queries of one segment and one head, and
// passes over the keys that the tile sees. Float32 is in attention_forward_float32.cu.
//
// q, k and v are parts of one buffer: row stride ldq for all three, heads HEAD_DIM apart. Head sizes of up to 256; in
// shared memory they are padded with zeros to PADDED, a multiple of 16. There are two stages of keys and values: one is
// computed with while the next is copied. Scores are scaled by `scale` · log₂ e in the one fma before 2^x.
#include "attention_tiles.cuh"

constexpr int CHUNKS = PADDED / 8, ROW_BYTES = PADDED * 2;
constexpr int STEPS = PADDED / 16;  // of a product over a head
constexpr int WARP_ROWS = ROWS / (THREADS / WARP), TILES = WARP_ROWS / 16;  // 16-row tiles per warp
// Whether the fragments of the queries stay in registers rather than being read again for every tile of keys.
constexpr bool QUERIES_STAY = TILES == 1 && PADDED <= 128;
constexpr int QUERY_BYTES = ROWS * ROW_BYTES, KEY_BYTES = KEYS * ROW_BYTES, STAGE_BYTES = 2 * KEY_BYTES;
static_assert(QUERY_BYTES + 2 * STAGE_BYTES <= SHARED_BYTES, "shared memory of a launch");

struct State {
  float out[TILES][PADDED / 8][4];  // fragments, to be divided by sum
  float top[TILES][2];              // maximum of the scaled scores, of rows g and g + 8
  float sum[TILES][2];              // of this lane's columns
};

// Fragments of 16 rows of queries, columns 16 k to 16 k + 15.
INLINE void load_queries(u32 (&a)[4], u32 rows, int tile, int k) {
  const int lane = threadIdx.x % WARP, row = lane % 16;
  load_matrices(a, rows + (tile * 16 + row) * ROW_BYTES + ((2 * k + lane / 16) ^ exchange<CHUNKS>(row)) * 16);
}

// Scores of the warp's rows and all keys of a tile.
INLINE void score(float (&s)[TILES][KEYS / 8][4], const u32 (&q)[TILES][STEPS][4], u32 queries, u32 keys) {
  const int lane = threadIdx.x % WARP, row = lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[m][n][e] = 0;
#pragma unroll
  for (int k = 0; k < STEPS; k++) {
    u32 a[TILES][4];
#pragma unroll
    for (int m = 0; m < TILES; m++) {
      if (!QUERIES_STAY) load_queries(a[m], queries, m, k);
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (QUERIES_STAY) a[m][i] = q[m][k][i];
    }
    const u32 column = keys + row * ROW_BYTES + ((2 * k + lane / 8 % 2) ^ exchange<CHUNKS>(row)) * 16;
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
      u32 b[4];
      load_matrices(b, column + n * 16 * ROW_BYTES);
#pragma unroll
      for (int m = 0; m < TILES; m++) {
        mma(s[m][2 * n], a[m], b[0], b[1]);
        mma(s[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// −infinity where a row does not see a key; `place` is the place of the warp's first row in its segment.
INLINE void mask(float (&s)[TILES][KEYS / 8][4], const KeyTile& keys, int place, int window) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int limit = visible(keys, place + m * 16 + half * 8 + lane / 4) - lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
        if (8 * n >= limit) s[m][n][2 * half] = -INFINITY;
        if (8 * n + 1 >= limit) s[m][n][2 * half + 1] = -INFINITY;
      }
      if (!WINDOWED) continue;
      const int before = hidden(keys, place + m * 16 + half * 8 + lane / 4, window) - lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
        if (8 * n < before) s[m][n][2 * half] = -INFINITY;
        if (8 * n + 1 < before) s[m][n][2 * half + 1] = -INFINITY;
      }
    }
}

// Scores to probabilities relative to the maximum so far; what was summed under an older one is brought under it.
INLINE void softmax(float (&s)[TILES][KEYS / 8][4], State& state, float scale_log2) {
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float most = fmaxf(s[m][0][2 * half], s[m][0][2 * half + 1]);
#pragma unroll
      for (int n = 1; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
      most = lanes_reduce(most, Max(), 4);
      const float new_top = fmaxf(state.top[m][half], most * scale_log2);
      // All weights of a row that has not seen a key yet are 0.
      const float top = WINDOWED && new_top == -INFINITY ? 0.0f : new_top;
      const float correction = exp2_approx(state.top[m][half] - top);
      state.top[m][half] = new_top;
      float sum = state.sum[m][half] * correction;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
          s[m][n][e] = exp2_approx(fmaf(s[m][n][e], scale_log2, -top));
          sum += s[m][n][e];
        }
      state.sum[m][half] = sum;
#pragma unroll
      for (int n = 0; n < PADDED / 8; n++) {
        state.out[m][n][2 * half] *= correction;
        state.out[m][n][2 * half + 1] *= correction;
      }
    }
}

// out += probabilities · values: the fragments of scores are, rounded and paired, those of a left operand.
INLINE void weigh(State& state, const float (&s)[TILES][KEYS / 8][4], u32 values) {
  const int lane = threadIdx.x % WARP, row = lane % 16;
#pragma unroll
  for (int k = 0; k < KEYS / 16; k++) {
    u32 a[TILES][4];
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float* pair = s[m][2 * k + i / 2] + i % 2 * 2;
        a[m][i] = pack_bf16(pair[0], pair[1]);
      }
#pragma unroll
    for (int n = 0; n < PADDED / 16; n++) {
      u32 b[4];
      load_matrices_transposed(
          b, values + (k * 16 + row) * ROW_BYTES + ((2 * n + lane / 16) ^ exchange<CHUNKS>(row)) * 16);
#pragma unroll
      for (int m = 0; m < TILES; m++) {
        mma(state.out[m][2 * n], a[m], b[0], b[1]);
        mma(state.out[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// The warp's rows of out, by way of `staging`, the shared rows that held its queries, so that 16 bytes are written at
// once. `count`: rows that exist.
INLINE void write_rows(bf16* out, i64 ldo, const State& state, const float (&inverse)[TILES][2], char* staging,
                       int count) {
  const int lane = threadIdx.x % WARP;
  __syncwarp();  // no lane reads queries any longer
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int n = 0; n < PADDED / 8; n++) {
        const float f = inverse[m][half], *o = state.out[m][n] + 2 * half;
        char* chunk = staging + swizzled<CHUNKS>(m * 16 + half * 8 + lane / 4, n);
        *(u32*)(chunk + lane % 4 * 4) = pack_bf16(o[0] * f, o[1] * f);
      }
  __syncwarp();  // all of the warp's rows are there
  const bool wide = copyable(out, ldo);
  for (int i = lane; i < WARP_ROWS * CHUNKS; i += WARP) {
    const int row = i / CHUNKS, chunk = i % CHUNKS;
    if (row >= count || chunk * 8 >= HEAD_DIM) continue;
    const char* piece = staging + swizzled<CHUNKS>(row, chunk);
    bf16* target = out + row * ldo + chunk * 8;
    if (wide)
      *(uint4*)target = *(const uint4*)piece;
    else
      for (int e = 0; e < 8 && chunk * 8 + e < HEAD_DIM; e++) target[e] = ((const bf16*)piece)[e];
  }
}

INLINE void write_rows(float* out, i64 ldo, const State& state, const float (&inverse)[TILES][2], char*, int count) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = m * 16 + half * 8 + lane / 4;
#pragma unroll
      for (int n = 0; n < PADDED / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int column = n * 8 + lane % 4 * 2 + e;
          const float o = state.out[m][n][2 * half + e] * inverse[m][half];
          if (row < count && column < HEAD_DIM) out[row * ldo + column] = o;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_forward(O_TYPE* out, float* lse, const bf16* q, const bf16* k, const bf16* v, const int* segments, int S,
                  int H, int Hkv, int window, i64 ldo, i64 ldq, float scale) {
  extern __shared__ __align__(128) char memory[];  // queries, then two stages of keys and values
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, head = blockIdx.x;
  QueryTile tile;
  int index = blockIdx.y;
  if (!find_tile(tile, segments, S, index)) return;
  const int rows = smaller(ROWS, tile.length - tile.from);
  const i64 first_row = tile.start + tile.from;
  q += first_row * ldq + head * HEAD_DIM;
  k += head / (H / Hkv) * HEAD_DIM;
  v += head / (H / Hkv) * HEAD_DIM;
  const bool wide = copyable(q, ldq) && copyable(k, ldq) && copyable(v, ldq);
  auto load_tile = [&](int index) {
    const KeyTile keys = key_tile(tile, index);
    char* stage = memory + QUERY_BYTES + index % 2 * STAGE_BYTES;
    load_rows<KEYS, CHUNKS>(stage, k + keys.row * ldq, ldq, keys.count, wide);
    load_rows<KEYS, CHUNKS>(stage + KEY_BYTES, v + keys.row * ldq, ldq, keys.count, wide);
    copies_commit();
  };
  load_rows<ROWS, CHUNKS>(memory, q, ldq, rows, wide);
  copies_commit();
  const int first_tile = WINDOWED ? first_key_tile(tile, window) : 0;
  load_tile(first_tile);
  copies_wait<1>();
  __syncthreads();

  char* own = memory + warp * WARP_ROWS * ROW_BYTES;
  u32 queries[TILES][STEPS][4];
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int i = 0; i < STEPS; i++)
      if (QUERIES_STAY) load_queries(queries[m][i], shared_address(own), m, i);
  State state;
#pragma unroll
  for (int m = 0; m < TILES; m++) {
    state.top[m][0] = state.top[m][1] = -INFINITY;
    state.sum[m][0] = state.sum[m][1] = 0;
#pragma unroll
    for (int n = 0; n < PADDED / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) state.out[m][n][e] = 0;
  }

  const float scale_log2 = scale * 1.44269504f;
  const int place = tile.from + warp * WARP_ROWS, tiles = key_tiles(tile);
  for (int index = first_tile; index < tiles; index++) {
    copies_wait<0>();
    __syncthreads();  // this stage is there, and nobody reads the other any longer
    if (index + 1 < tiles) load_tile(index + 1);
    const KeyTile keys = key_tile(tile, index);
    const u32 stage = shared_address(memory) + QUERY_BYTES + index % 2 * STAGE_BYTES;
    if (keys.first >= place + WARP_ROWS) continue;  // beyond all of this warp's rows
    if (WINDOWED && hidden(keys, place, window) >= KEYS) continue;  // before the windows of all of them
    float s[TILES][KEYS / 8][4];
    score(s, queries, shared_address(own), stage);
    if (visible(keys, place) < KEYS || (WINDOWED && hidden(keys, place + WARP_ROWS - 1, window) > 0))
      mask(s, keys, place, window);
    softmax(s, state, scale_log2);
    weigh(state, s, stage + KEY_BYTES);
  }

  const int count = rows - warp * WARP_ROWS;
  float inverse[TILES][2];
#pragma unroll
  for (int m = 0; m < TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float sum = lanes_reduce(state.sum[m][half], Add(), 4);
      const int row = m * 16 + half * 8 + lane / 4;
      inverse[m][half] = 1.0f / sum;
      if (lse != nullptr && lane % 4 == 0 && row < count)
        lse[(first_row + warp * WARP_ROWS + row) * H + head] = state.top[m][half] * 0.693147181f + logf(sum);
    }
  write_rows(out + (first_row + warp * WARP_ROWS) * ldo + head * HEAD_DIM, ldo, state, inverse, own, count);
}
