// y = x · rstd · (offset + weight),  rstd = 1 / sqrt(mean(x²) + eps)   (Zhang & Sennrich 2019), over rows of D elements; a token
// has H such rows (H = 1 for the hidden state, the number of heads for q/k norm), token t starting at x + t · ldx.
//
//   rmsnorm_forward   y =, rstd (T, H) =
//   rmsnorm_backward  dx = (gradient through the norm) + dresidual (when given; it may be dx itself, as dy may be),
//                     partial (blocks, D) = each block's share of the weight's gradient; bias.cu adds them in order
//
// A row is the work of blockDim.x threads: a part of a warp, with blockDim.y rows to a block, or a whole block. A thread
// keeps CACHED elements of its row in registers between their two uses; what a longer row has beside is read twice.
// Nothing is rounded before y or dx is stored.
#include "primitives.cuh"

#ifndef X_TYPE  // also the compiler's view of kernels that a module has and nobody launches
#define X_TYPE float
#endif
#ifndef Y_TYPE
#define Y_TYPE float
#endif
#ifndef W_TYPE
#define W_TYPE float
#endif
#ifndef DX_TYPE
#define DX_TYPE float
#endif
#ifndef DY_TYPE
#define DY_TYPE float
#endif
#ifndef RESIDUAL_TYPE
#define RESIDUAL_TYPE float
#endif

// Sum over the threads of a row.
INLINE float row_sum(float value, float* partial) {
  if (blockDim.x > WARP) return block_reduce(value, Add(), partial);
  return lanes_reduce(value, Add(), blockDim.x);
}

template <class Y, class X, class W>
INLINE void forward(Y* y, float* rstd, const X* x, const W* weight, int T, int H, int D, int ldy, int ldx, float eps,
                    float offset_w) {
  constexpr int N = unit_elements<Y, X, W>(), SLOTS = CACHED / N;
  __shared__ float partial[WARP];
  const i64 rows = (i64)T * H, r = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  const bool active = r < rows;
  const i64 t = active ? r / H : 0, offset = (active ? r % H : 0) * D;
  const X* row = x + t * ldx + offset;
  Y* out = y + t * ldy + offset;
  const bool vectors = aligned<N>(row) && aligned<N>(out) && aligned<N>(weight);
  const int first = threadIdx.x * N, step = blockDim.x * N, end = active ? D : 0;

  Unit<N> cached[SLOTS];
  float squares = 0;
#pragma unroll
  for (int s = 0; s < SLOTS; s++) {
    const int d = first + s * step;
    if (d < end) cached[s] = load_unit<N>(row + d, end - d, vectors);
  }
#pragma unroll
  for (int s = 0; s < SLOTS; s++)
    if (first + s * step < end)
      for (float value : cached[s].at) squares += value * value;
  for (int d = first + SLOTS * step; d < end; d += step)
    for (float value : load_unit<N>(row + d, end - d, vectors).at) squares += value * value;

  const float scale = 1.0f / sqrtf(row_sum(squares, partial) / (float)D + eps);
  if (rstd && active && threadIdx.x == 0) rstd[r] = scale;
  auto write = [&](Unit<N> u, int d) {
    const Unit<N> w = load_unit<N>(weight + d, end - d, vectors);
    for (int j = 0; j < N; j++) u.at[j] = u.at[j] * scale * (offset_w + w.at[j]);
    store_unit(out + d, u, end - d, vectors);
  };
#pragma unroll
  for (int s = 0; s < SLOTS; s++)
    if (first + s * step < end) write(cached[s], first + s * step);
  for (int d = first + SLOTS * step; d < end; d += step) write(load_unit<N>(row + d, end - d, vectors), d);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_forward(Y_TYPE* y, float* rstd, const X_TYPE* x, const W_TYPE* weight, int T, int H, int D, int ldy,
                    int ldx, float eps, float offset) {
  forward(y, rstd, x, weight, T, H, D, ldy, ldx, eps, offset);
}

// A block's rows are those of its index and every gridDim.x-th group after. Shared memory holds the weight's gradient
// over the rows that a threadIdx.y sees, (blockDim.y, D) with D padded to whole units; a thread touches its own columns
// alone while there are rows.
template <class DX, class DY, class X, class W, class R>
INLINE void backward(DX* dx, float* partial, const DY* dy, const X* x, const W* weight, const float* rstd,
                     const R* dresidual, int T, int H, int D, int lddx, int lddy, int ldx, int ldr, float offset_w) {
  constexpr int N = unit_elements<DX, DY, X, W>(), SLOTS = CACHED / N;
  __shared__ float warps[WARP];
  extern __shared__ float4 dynamic[];
  const int width = ceil_div(D, N) * N, first = threadIdx.x * N, step = blockDim.x * N;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  float* sums = (float*)dynamic + threadIdx.y * width;
  for (int i = thread; i < blockDim.y * width; i += threads) ((float*)dynamic)[i] = 0;
  __syncthreads();

  const i64 rows = (i64)T * H;
  for (i64 group = (i64)blockIdx.x * blockDim.y; group < rows; group += (i64)gridDim.x * blockDim.y) {
    const i64 r = group + threadIdx.y;
    const bool active = r < rows;
    const i64 t = active ? r / H : 0, offset = (active ? r % H : 0) * D;
    const X* row = x + t * ldx + offset;
    const DY* grad = dy + t * lddy + offset;
    const R* residual = dresidual ? dresidual + t * ldr + offset : nullptr;
    DX* out = dx + t * lddx + offset;
    const bool vectors = aligned<N>(row) && aligned<N>(grad) && aligned<N>(out) && aligned<N>(weight) &&
                         (!residual || aligned<N>(residual));
    const int end = active ? D : 0;
    const float scale = active ? rstd[r] : 0.0f;

    float dots = 0;
    // Before and after the sum over the row: what a thread keeps are normal = x · rstd and through = dy · weight.
    auto gather = [&](Unit<N>& normal, Unit<N>& through, int d) {
      const Unit<N> w = load_unit<N>(weight + d, end - d, vectors);
      Unit<N> sum = load_vector<N>(sums + d);
      for (int j = 0; j < N; j++) {
        normal.at[j] *= scale;
        sum.at[j] += through.at[j] * normal.at[j];
        through.at[j] *= offset_w + w.at[j];
        dots += through.at[j] * normal.at[j];
      }
      store_vector(sums + d, sum);
    };
    auto write = [&](const Unit<N>& normal, const Unit<N>& through, float projection, int d) {
      Unit<N> u;
      for (int j = 0; j < N; j++) u.at[j] = scale * (through.at[j] - normal.at[j] * projection);
      if (residual) {
        const Unit<N> more = load_unit<N>(residual + d, end - d, vectors);
        for (int j = 0; j < N; j++) u.at[j] += more.at[j];
      }
      store_unit(out + d, u, end - d, vectors);
    };

    Unit<N> normal[SLOTS], through[SLOTS];
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
      const int d = first + s * step;
      if (d >= end) continue;
      normal[s] = load_unit<N>(row + d, end - d, vectors);
      through[s] = load_unit<N>(grad + d, end - d, vectors);
    }
#pragma unroll
    for (int s = 0; s < SLOTS; s++)
      if (first + s * step < end) gather(normal[s], through[s], first + s * step);
    for (int d = first + SLOTS * step; d < end; d += step) {
      Unit<N> n = load_unit<N>(row + d, end - d, vectors), t = load_unit<N>(grad + d, end - d, vectors);
      gather(n, t, d);
    }
    const float projection = row_sum(dots, warps) / (float)D;
#pragma unroll
    for (int s = 0; s < SLOTS; s++)
      if (first + s * step < end) write(normal[s], through[s], projection, first + s * step);
    for (int d = first + SLOTS * step; d < end; d += step) {
      Unit<N> n = load_unit<N>(row + d, end - d, vectors), t = load_unit<N>(grad + d, end - d, vectors);
      const Unit<N> w = load_unit<N>(weight + d, end - d, vectors);
      for (int j = 0; j < N; j++) n.at[j] *= scale, t.at[j] *= offset_w + w.at[j];
      write(n, t, projection, d);
    }
  }

  __syncthreads();
  for (int d = thread; d < D; d += threads) {
    const float* column = (const float*)dynamic + d;
    float sum = 0;
    for (int y = 0; y < blockDim.y; y++) sum += column[y * width];
    partial[(i64)blockIdx.x * D + d] = sum;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_backward(DX_TYPE* dx, float* partial, const DY_TYPE* dy, const X_TYPE* x, const W_TYPE* weight,
                     const float* rstd, const RESIDUAL_TYPE* dresidual, int T, int H, int D, int lddx, int lddy,
                     int ldx, int ldr, float offset) {
  backward(dx, partial, dy, x, weight, rstd, dresidual, T, H, D, lddx, lddy, ldx, ldr, offset);
}
