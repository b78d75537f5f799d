// A mixture of experts: each of T tokens goes to K of E experts, and the P = T · K pairs of a token and an expert lie side by
// side by expert (ffi/cpu/experts.cpp has the formulas).
//
//   route_forward     probabilities (T, E) =, experts (T, K) = unless they are given, weights (T, K) =
//   route_backward    dlogits (T, E) =
//   balance_forward   load (E) +=       balance_backward  dlogits (T, E) +=
//   dispatch          offsets (E + 1) =, order (P) =, places (T, K) =
//   gather_pairs      y (P, D) =        scatter_pairs     dx (T, D) =
//   combine_forward   x (T, D) +=       combine_backward  dy (P, D) =, dweights (T, K) =
//   experts_forward, experts_backward_input, experts_backward_weight: products of each expert's rows, one launch for all; an
//                     expert's weight lies `next` elements behind the one before
//
// Sums have one order: no atomics. A warp has a token, but in the products, whose blocks have a tile of TILE rows of one
// expert by TILE columns.
#include "primitives.cuh"

#ifndef X_TYPE
#define X_TYPE float
#endif
#ifndef Y_TYPE
#define Y_TYPE float
#endif
#ifndef W_TYPE
#define W_TYPE float
#endif

constexpr int WARPS = THREADS / WARP;

// The token of this warp, and the lane.
INLINE int warp_token() { return blockIdx.x * WARPS + threadIdx.x / WARP; }
INLINE int warp_lane() { return threadIdx.x % WARP; }

// A candidate of the lane is behind the one that was taken last if it is less probable, or as probable and later.
INLINE bool behind(float p, int e, float last_p, int last_e) { return p < last_p || (p == last_p && e > last_e); }

extern "C" __global__ void __launch_bounds__(THREADS)
    route_forward(float* weights, int* experts, float* probabilities, const float* logits, int T, int E, int K,
                  int normalized, int given) {
  const int t = warp_token(), lane = warp_lane();
  if (t >= T) return;
  const float* row = logits + (i64)t * E;
  float* p = probabilities + (i64)t * E;
  int* own = experts + (i64)t * K;
  float top = -INFINITY, sum = 0;
  for (int e = lane; e < E; e += WARP) top = fmaxf(top, row[e]);
  top = lanes_reduce(top, Max());
  for (int e = lane; e < E; e += WARP) sum += p[e] = expf(row[e] - top);
  sum = lanes_reduce(sum, Add());
  for (int e = lane; e < E; e += WARP) p[e] /= sum;
  __syncwarp();
  float all = 0, last_p = INFINITY;
  int last_e = -1;
  for (int k = 0; k < K; k++) {
    if (given) {
      last_e = own[k];
      last_p = p[last_e];
    } else {
      float best = -1;
      int index = E;
      for (int e = lane; e < E; e += WARP)
        if (p[e] > best && behind(p[e], e, last_p, last_e)) best = p[e], index = e;
      const float most = lanes_reduce(best, Max());
      index = lanes_reduce(best == most ? index : E, Min());
      last_e = index < E ? index : k;  // logits that are not numbers leave none
      last_p = most;
      if (lane == 0) own[k] = last_e;
    }
    all += p[last_e];
    if (lane == 0) weights[(i64)t * K + k] = p[last_e];
  }
  __syncwarp();
  if (normalized)
    for (int k = lane; k < K; k += WARP) weights[(i64)t * K + k] /= all;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    route_backward(float* dlogits, const float* dweights, const float* weights, const int* experts,
                   const float* probabilities, int T, int E, int K, int normalized) {
  const int t = warp_token(), lane = warp_lane();
  if (t >= T) return;
  const float *p = probabilities + (i64)t * E, *dw = dweights + (i64)t * K, *w = weights + (i64)t * K;
  const int* own = experts + (i64)t * K;
  float* dl = dlogits + (i64)t * E;
  float shared = 0, scale = 1, mean = 0;
  if (normalized) {
    float sum = 0;
    for (int k = 0; k < K; k++) shared += w[k] * dw[k], sum += p[own[k]];
    scale = 1.0f / sum;
  }
  for (int k = 0; k < K; k++) mean += p[own[k]] * (dw[k] - shared) * scale;
  for (int e = lane; e < E; e += WARP) {
    float slope = -p[e] * mean;
    for (int k = 0; k < K; k++)
      if (own[k] == e) slope += p[e] * (dw[k] - shared) * scale;
    dl[e] = slope;
  }
}

// A warp takes every WARPS-th row of WARP neighbouring experts.
extern "C" __global__ void __launch_bounds__(THREADS)
    balance_forward(float* load, const float* probabilities, const float* row_weights, int T, int E) {
  __shared__ float partial[WARPS][WARP];
  const int lane = warp_lane(), warp = threadIdx.x / WARP, e = blockIdx.x * WARP + lane;
  float sum = 0;
  for (int t = warp; e < E && t < T; t += WARPS) sum = fmaf(row_weights[t], probabilities[(i64)t * E + e], sum);
  partial[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || e >= E) return;
  for (int w = 1; w < WARPS; w++) sum += partial[w][lane];
  load[e] += sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    balance_backward(float* dlogits, const float* probabilities, const float* slopes, const float* row_weights, int T,
                     int E) {
  const int t = warp_token(), lane = warp_lane();
  if (t >= T) return;
  const float* p = probabilities + (i64)t * E;
  float mean = 0;
  for (int e = lane; e < E; e += WARP) mean = fmaf(p[e], slopes[e], mean);
  mean = lanes_reduce(mean, Add());
  for (int e = lane; e < E; e += WARP) dlogits[(i64)t * E + e] += row_weights[t] * p[e] * (slopes[e] - mean);
}

// A block has an expert, whose pairs it counts and then places in their order.
extern "C" __global__ void __launch_bounds__(THREADS)
    dispatch(int* offsets, int* order, int* places, const int* experts, int pairs) {
  __shared__ int partial[WARPS];
  const int expert = blockIdx.x, lane = warp_lane(), warp = threadIdx.x / WARP;
  int before = 0;
  for (int i = threadIdx.x; i < pairs; i += THREADS) before += experts[i] < expert;
  int at = block_reduce(before, Add(), partial);
  if (threadIdx.x == 0) {
    offsets[expert] = at;
    if (expert == 0) offsets[gridDim.x] = pairs;
  }
  for (int from = 0; from < pairs; from += THREADS) {
    const int i = from + threadIdx.x;
    const bool own = i < pairs && experts[i] == expert;
    const u32 lanes = __ballot_sync(ALL_LANES, own);
    if (lane == 0) partial[warp] = __popc(lanes);
    __syncthreads();
    int place = at + __popc(lanes & ((1u << lane) - 1));
    for (int w = 0; w < WARPS; w++) {
      if (w < warp) place += partial[w];
      at += partial[w];
    }
    if (own) {
      places[i] = place;
      order[place] = i;
    }
    __syncthreads();  // `partial` may be written again
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gather_pairs(X_TYPE* y, const X_TYPE* x, const int* order, int P, int K, int D) {
  const int i = warp_token();
  if (i >= P) return;
  const X_TYPE* row = x + (i64)(order[i] / K) * D;
  for (int d = warp_lane(); d < D; d += WARP) y[(i64)i * D + d] = row[d];
}

extern "C" __global__ void __launch_bounds__(THREADS)
    scatter_pairs(Y_TYPE* dx, const Y_TYPE* dy, const int* places, int T, int K, int D) {
  const int t = warp_token();
  if (t >= T) return;
  for (int d = warp_lane(); d < D; d += WARP) {
    float sum = 0;
    for (int k = 0; k < K; k++) sum += load(dy + (i64)places[(i64)t * K + k] * D + d);
    store(dx + (i64)t * D + d, sum);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    combine_forward(float* x, const Y_TYPE* y, const int* places, const float* weights, int T, int K, int D) {
  const int t = warp_token();
  if (t >= T) return;
  for (int d = warp_lane(); d < D; d += WARP) {
    float sum = 0;
    for (int k = 0; k < K; k++)
      sum = fmaf(weights[(i64)t * K + k], load(y + (i64)places[(i64)t * K + k] * D + d), sum);
    x[(i64)t * D + d] += sum;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    combine_backward(X_TYPE* dy, float* dweights, const float* dx, const Y_TYPE* y, const int* places,
                     const float* weights, int P, int K, int D) {
  const int i = warp_token(), lane = warp_lane();
  if (i >= P) return;
  const i64 place = places[i];
  const float* grad = dx + (i64)(i / K) * D;
  const float weight = weights[i];
  float dot = 0;
  for (int d = lane; d < D; d += WARP) {
    dot = fmaf(grad[d], load(y + place * D + d), dot);
    store(dy + place * D + d, grad[d] * weight);
  }
  dot = lanes_reduce(dot, Add());
  if (lane == 0) dweights[i] = dot;
}

// ---- products

constexpr int STEP = 16, EACH = TILE / 16;  // of the reduction at once; rows and columns of a thread
static_assert(PRODUCT_THREADS == 256, "16 by 16 threads");

// Rows from … from + count − 1 of one expert; false where there are fewer tiles than `index`.
struct RowTile {
  int expert, from, count;
};
INLINE bool find_rows(RowTile& tile, const int* offsets, int E, int index) {
  for (int e = 0; e < E; e++) {
    const int first = offsets[e], rows = offsets[e + 1] - first, tiles = ceil_div(rows, TILE);
    if (index < tiles) {
      tile = RowTile{e, first + index * TILE, smaller(TILE, rows - index * TILE)};
      return true;
    }
    index -= tiles;
  }
  return false;
}

// sums (EACH, EACH) of a thread += Σ a · b over `depth`; a(r, k) and b(k, c) read an element, zero where there is none. Row r of a
// thread is threadIdx.x / 16 + 16 · i, its columns likewise.
template <class A, class B>
INLINE void multiply(float (&sums)[EACH][EACH], int depth, const A& a, const B& b) {
  __shared__ float left[STEP][TILE + 1], right[STEP][TILE + 1];
  const int y = threadIdx.x / 16, x = threadIdx.x % 16;
  for (int from = 0; from < depth; from += STEP) {
    for (int i = threadIdx.x; i < STEP * TILE; i += PRODUCT_THREADS) {
      const int k = i % STEP, r = i / STEP;
      left[k][r] = from + k < depth ? a(r, from + k) : 0.0f;
      right[k][r] = from + k < depth ? b(from + k, r) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < STEP; k++)
#pragma unroll
      for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) sums[i][j] = fmaf(left[k][y + 16 * i], right[k][x + 16 * j], sums[i][j]);
    __syncthreads();  // both may be written again
  }
}

// body(row, column, sum) for every element of a thread.
template <class Body>
INLINE void each_sum(const float (&sums)[EACH][EACH], const Body& body) {
#pragma unroll
  for (int i = 0; i < EACH; i++)
#pragma unroll
    for (int j = 0; j < EACH; j++) body(threadIdx.x / 16 + 16 * i, threadIdx.x % 16 + 16 * j, sums[i][j]);
}

extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS)
    experts_forward(Y_TYPE* y, const X_TYPE* x, const W_TYPE* w, const int* offsets, int E, i64 next, int N, int K,
                    int ldy, int ldx) {
  RowTile tile;
  if (!find_rows(tile, offsets, E, blockIdx.y)) return;
  const int column = blockIdx.x * TILE;
  x += (i64)tile.from * ldx;
  w += tile.expert * next;
  float sums[EACH][EACH] = {};
  multiply(
      sums, K, [&](int r, int k) { return r < tile.count ? load(x + (i64)r * ldx + k) : 0.0f; },
      [&](int k, int c) { return column + c < N ? load(w + (i64)(column + c) * K + k) : 0.0f; });
  each_sum(sums, [&](int r, int c, float sum) {
    if (r < tile.count && column + c < N) store(y + (i64)(tile.from + r) * ldy + column + c, sum);
  });
}

extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS)
    experts_backward_input(X_TYPE* dx, const Y_TYPE* dy, const W_TYPE* w, const int* offsets, int E, i64 next, int N,
                           int K, int lddx, int lddy, int accumulate) {
  RowTile tile;
  if (!find_rows(tile, offsets, E, blockIdx.y)) return;
  const int column = blockIdx.x * TILE;
  dy += (i64)tile.from * lddy;
  w += tile.expert * next;
  float sums[EACH][EACH] = {};
  multiply(
      sums, N, [&](int r, int n) { return r < tile.count ? load(dy + (i64)r * lddy + n) : 0.0f; },
      [&](int n, int c) { return column + c < K ? load(w + (i64)n * K + column + c) : 0.0f; });
  each_sum(sums, [&](int r, int c, float sum) {
    if (r >= tile.count || column + c >= K) return;
    X_TYPE* target = dx + (i64)(tile.from + r) * lddx + column + c;
    store(target, accumulate ? load(target) + sum : sum);
  });
}

extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS)
    experts_backward_weight(float* dw, const Y_TYPE* dy, const X_TYPE* x, const int* offsets, i64 next, int N, int K,
                            int lddy, int ldx) {
  const int expert = blockIdx.z, first = offsets[expert], rows = offsets[expert + 1] - first;
  if (rows == 0) return;
  const int row = blockIdx.y * TILE, column = blockIdx.x * TILE;
  dy += (i64)first * lddy;
  x += (i64)first * ldx;
  float sums[EACH][EACH] = {};
  multiply(
      sums, rows, [&](int n, int m) { return row + n < N ? load(dy + (i64)m * lddy + row + n) : 0.0f; },
      [&](int m, int c) { return column + c < K ? load(x + (i64)m * ldx + column + c) : 0.0f; });
  each_sum(sums, [&](int n, int c, float sum) {
    if (row + n < N && column + c < K) dw[expert * next + (i64)(row + n) * K + column + c] += sum;
  });
}
