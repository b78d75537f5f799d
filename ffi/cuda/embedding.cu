// next_tokens         tokens (B) = ids[from] where from (B) >= 0; a token that could not be sampled (-1) becomes 0
// embedding_forward   x (T, D) =  rows `ids` of the weight (V, D), widened to float32
// embedding_backward  dw (V, D) += dx (T, D) at those rows
// In the backward pass the block of a token's first occurrence adds all of its occurrences, in the order of the tokens,
// so that repeated ids add up in the same order on every run; the blocks of later occurrences have nothing to do.
#include "primitives.cuh"

#ifndef W_TYPE
#define W_TYPE float
#endif
#ifndef DX_TYPE
#define DX_TYPE float
#endif

// Blocks of rows.
extern "C" __global__ void __launch_bounds__(NEXT_THREADS)
    next_tokens(int* tokens, const int* ids, const int* from, int B) {
  const int b = blockIdx.x * NEXT_THREADS + threadIdx.x;
  if (b < B && from[b] >= 0) tokens[b] = max(ids[from[b]], 0);
}

// Blocks of tokens: blockDim.x threads a token, blockDim.y tokens.
extern "C" __global__ void __launch_bounds__(FORWARD_THREADS)
    embedding_forward(float* x, const int* ids, const W_TYPE* w, int T, int D, int ldx) {
  constexpr int N = unit_elements<float, W_TYPE>();
  const i64 t = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  if (t >= T) return;
  const W_TYPE* row = w + (i64)ids[t] * D;
  float* out = x + t * ldx;
  const bool vectors = aligned<N>(row) && aligned<N>(out);
  for (int d = threadIdx.x * N; d < D; d += blockDim.x * N)
    store_unit(out + d, load_unit<N>(row + d, D - d, vectors), D - d, vectors);
}

constexpr int THREADS = BACKWARD_THREADS, WARPS = THREADS / WARP;
constexpr int UNIT = unit_elements<float, DX_TYPE>();

// Block (t, c): token t, columns [c · THREADS · UNIT, (c + 1) · THREADS · UNIT).
extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_backward(float* dw, const DX_TYPE* dx, const int* ids, int T, int D, int lddx) {
  __shared__ int found[THREADS];
  __shared__ int counts[WARPS];
  const int t = blockIdx.x, id = ids[t], lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  bool earlier = false;
  for (int i = threadIdx.x; i < t && !earlier; i += THREADS) earlier = ids[i] == id;
  if (__syncthreads_or(earlier)) return;

  const int first = (blockIdx.y * THREADS + threadIdx.x) * UNIT;
  float* row = dw + (i64)id * D + first;
  const bool vectors = aligned<UNIT>(row);
  Unit<UNIT> sum = load_unit<UNIT>(row, D - first, vectors);
  for (int from = t; from < T; from += THREADS) {
    // This stretch's occurrences, in order.
    const int i = from + threadIdx.x;
    const bool match = i < T && ids[i] == id;
    const u32 lanes = __ballot_sync(ALL_LANES, match);
    if (lane == 0) counts[warp] = __popc(lanes);
    __syncthreads();
    int before = 0, count = 0;
    for (int w = 0; w < WARPS; w++) {
      if (w < warp) before += counts[w];
      count += counts[w];
    }
    if (match) found[before + __popc(lanes & ((1u << lane) - 1))] = i;
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < count; k++) {
      const DX_TYPE* add = dx + (i64)found[k] * lddx + first;
      const Unit<UNIT> u = load_unit<UNIT>(add, D - first, aligned<UNIT>(add));
      for (int j = 0; j < UNIT; j++) sum.at[j] += u.at[j];
    }
  }
  store_unit(row, sum, D - first, vectors);
}
