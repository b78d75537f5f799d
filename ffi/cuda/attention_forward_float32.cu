// Attention over packed segments in float32, without tensor cores (their TF32 has 10 bits of fraction): out (T, H, Dh)
// =, lse (T, H) = (null: not wanted). As attention_forward.cu in all but the arithmetic: a thread computes ROWS / 16 rows
// by KEYS / 8 scores, then as many rows by PADDED / 8 outputs, from shared memory by 128 bits.
//
// Head sizes of up to 256, in shared memory padded to PADDED, a multiple of 32. Keys and values have one buffer each: values
// are copied while scores are computed, the next keys while values are weighed.
#include "attention_tiles.cuh"

constexpr int CHUNKS = PADDED / 4, ROW_BYTES = PADDED * 4;
constexpr int COLUMNS = 8;  // threads in a row's group
constexpr int GROUPS = THREADS / COLUMNS, R = ROWS / GROUPS, K = KEYS / COLUMNS, D = PADDED / (4 * COLUMNS);
constexpr int SCORE_STRIDE = KEYS + 8;  // four successive rows in different banks
constexpr int QUERY_BYTES = ROWS * ROW_BYTES, KEY_BYTES = KEYS * ROW_BYTES;
static_assert(QUERY_BYTES + 2 * KEY_BYTES + ROWS * SCORE_STRIDE * 4 <= SHARED_BYTES, "shared memory of a launch");

// Row i of this thread, key j, and output column 4 · (column + COLUMNS · d) + e.
INLINE int thread_column() { return threadIdx.x % COLUMNS; }
INLINE int thread_row(int i) { return threadIdx.x / COLUMNS + i * GROUPS; }

INLINE float4 chunk_at(const char* rows, int row, int chunk) {
  return *(const float4*)(rows + swizzled<CHUNKS>(row, chunk));
}

INLINE void score(float (&s)[R][K], const char* queries, const char* keys) {
#pragma unroll
  for (int i = 0; i < R; i++)
#pragma unroll
    for (int j = 0; j < K; j++) s[i][j] = 0;
#pragma unroll 4
  for (int chunk = 0; chunk < (HEAD_DIM + 3) / 4; chunk++) {
    float4 a[R];
#pragma unroll
    for (int i = 0; i < R; i++) a[i] = chunk_at(queries, thread_row(i), chunk);
#pragma unroll
    for (int j = 0; j < K; j++) {
      const float4 b = chunk_at(keys, thread_column() + j * COLUMNS, chunk);
#pragma unroll
      for (int i = 0; i < R; i++) {
        s[i][j] = fmaf(a[i].x, b.x, s[i][j]);
        s[i][j] = fmaf(a[i].y, b.y, s[i][j]);
        s[i][j] = fmaf(a[i].z, b.z, s[i][j]);
        s[i][j] = fmaf(a[i].w, b.w, s[i][j]);
      }
    }
  }
}

// out += probabilities · values; keys that do not exist have probability 0 and values of 0.
INLINE void weigh(float4 (&out)[R][D], const float* probabilities, const char* values) {
#pragma unroll 2
  for (int key = 0; key < KEYS; key += 4) {
    float4 p[R];
#pragma unroll
    for (int i = 0; i < R; i++) p[i] = *(const float4*)(probabilities + thread_row(i) * SCORE_STRIDE + key);
#pragma unroll
    for (int e = 0; e < 4; e++)
#pragma unroll
      for (int d = 0; d < D; d++) {
        const float4 b = chunk_at(values, key + e, thread_column() + d * COLUMNS);
#pragma unroll
        for (int i = 0; i < R; i++) {
          const float weight = e == 0 ? p[i].x : e == 1 ? p[i].y : e == 2 ? p[i].z : p[i].w;
          out[i][d].x = fmaf(weight, b.x, out[i][d].x);
          out[i][d].y = fmaf(weight, b.y, out[i][d].y);
          out[i][d].z = fmaf(weight, b.z, out[i][d].z);
          out[i][d].w = fmaf(weight, b.w, out[i][d].w);
        }
      }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_forward_float32(O_TYPE* out, float* lse, const float* q, const float* k, const float* v, const int* segments,
                          int S, int H, int Hkv, int window, i64 ldo, i64 ldq, float scale) {
  extern __shared__ __align__(128) char memory[];  // queries, keys, values, probabilities
  char *keys_at = memory + QUERY_BYTES, *values_at = keys_at + KEY_BYTES;
  float* probabilities = (float*)(values_at + KEY_BYTES);
  const int head = blockIdx.x;
  QueryTile tile;
  int index = blockIdx.y;
  if (!find_tile(tile, segments, S, index)) return;
  const int rows = smaller(ROWS, tile.length - tile.from);
  const i64 first_row = tile.start + tile.from;
  q += first_row * ldq + head * HEAD_DIM;
  k += head / (H / Hkv) * HEAD_DIM;
  v += head / (H / Hkv) * HEAD_DIM;
  const bool wide = copyable(q, ldq) && copyable(k, ldq) && copyable(v, ldq);
  auto load_tile = [&](char* target, const float* source, const KeyTile& keys) {
    load_rows<KEYS, CHUNKS>(target, source + keys.row * ldq, ldq, keys.count, wide);
    copies_commit();
  };
  load_rows<ROWS, CHUNKS>(memory, q, ldq, rows, wide);
  const int first_tile = WINDOWED ? first_key_tile(tile, window) : 0;
  load_tile(keys_at, k, key_tile(tile, first_tile));

  float4 sums[R][D];  // of values, to be divided by `sum`
  float top[R], sum[R];
#pragma unroll
  for (int i = 0; i < R; i++) {
    top[i] = -INFINITY;
    sum[i] = 0;
#pragma unroll
    for (int d = 0; d < D; d++) sums[i][d] = make_float4(0, 0, 0, 0);
  }
  const int tiles = key_tiles(tile);
  for (int index = first_tile; index < tiles; index++) {
    const KeyTile keys = key_tile(tile, index);
    load_tile(values_at, v, keys);
    copies_wait<1>();
    __syncthreads();  // keys are there
    float s[R][K];
    score(s, memory, keys_at);
#pragma unroll
    for (int i = 0; i < R; i++) {
      const int limit = visible(keys, tile.from + thread_row(i)) - thread_column();
      const int before = WINDOWED ? hidden(keys, tile.from + thread_row(i), window) - thread_column() : 0;
      float most = -INFINITY;
#pragma unroll
      for (int j = 0; j < K; j++) {
        s[i][j] = j * COLUMNS < limit && j * COLUMNS >= before ? s[i][j] * scale : -INFINITY;
        most = fmaxf(most, s[i][j]);
      }
      most = fmaxf(top[i], lanes_reduce(most, Max(), COLUMNS));
      const float correction = WINDOWED && most == -INFINITY ? 0.0f : expf(top[i] - most);
      top[i] = most;
      if (WINDOWED && most == -INFINITY) most = 0;  // all weights of a row that has not seen a key yet are 0
      sum[i] *= correction;
#pragma unroll
      for (int j = 0; j < K; j++) {
        const float p = expf(s[i][j] - most);
        probabilities[thread_row(i) * SCORE_STRIDE + thread_column() + j * COLUMNS] = p;
        sum[i] += p;
      }
#pragma unroll
      for (int d = 0; d < D; d++) {
        sums[i][d].x *= correction;
        sums[i][d].y *= correction;
        sums[i][d].z *= correction;
        sums[i][d].w *= correction;
      }
    }
    copies_wait<0>();
    __syncthreads();  // values and probabilities are there, keys no longer needed
    if (index + 1 < tiles) load_tile(keys_at, k, key_tile(tile, index + 1));
    weigh(sums, probabilities, values_at);
    __syncthreads();  // values and probabilities no longer needed
  }

  const bool vectors = HEAD_DIM % 4 == 0 && ldo % 4 == 0 && aligned<4>(out);
#pragma unroll
  for (int i = 0; i < R; i++) {
    const float all = lanes_reduce(sum[i], Add(), COLUMNS), inverse = 1.0f / all;
    if (thread_row(i) >= rows) continue;
    const i64 row = first_row + thread_row(i);
    if (lse != nullptr && thread_column() == 0) lse[row * H + head] = top[i] + logf(all);
#pragma unroll
    for (int d = 0; d < D; d++) {
      const float4 o = sums[i][d];
      const Unit<4> unit = {{o.x * inverse, o.y * inverse, o.z * inverse, o.w * inverse}};
      const int column = 4 * (thread_column() + d * COLUMNS);
      store_unit(out + row * ldo + head * HEAD_DIM + column, unit, HEAD_DIM - column, vectors);
    }
  }
}
