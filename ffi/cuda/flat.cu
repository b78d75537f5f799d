// Flat work, conversions of type and moves of rows. `n` counts elements and may pass 2³¹.
//   scale, fill    x =          add: y +=          cast: y (n) = x
//   softcap_forward   x = cap · tanh(x / cap);  softcap_backward: dx *= 1 − (y / cap)², y what the forward pass left
//   cast_rows      y (rows, width) = x, each with a row stride of its own
//   gather_rows    y (N, D) = x[rows]
//   scatter_rows   dx[rows] = dy (N, D), rows all different; the others are left as they are
//   sum_squares_blocks, sum_squares   sum (1) = Σ x² in float64: blocks of fixed size, their sums, the sum of those
#include "primitives.cuh"

#ifndef X_TYPE
#define X_TYPE float
#endif
#ifndef Y_TYPE
#define Y_TYPE float
#endif

constexpr int UNIT = unit_elements<X_TYPE, Y_TYPE>();

// Every unit of [0, n), in strides of the grid: body(first element, elements).
template <int N, class Body>
INLINE void each_unit(i64 n, const Body& body) {
  const i64 stride = (i64)gridDim.x * THREADS * N;
  for (i64 i = ((i64)blockIdx.x * THREADS + threadIdx.x) * N; i < n; i += stride) body(i, n - i);
}

extern "C" __global__ void __launch_bounds__(THREADS) scale(float* x, i64 n, float factor) {
  const bool vectors = aligned<4>(x);
  each_unit<4>(n, [&](i64 i, i64 count) {
    Unit<4> u = load_unit<4>(x + i, count, vectors);
    for (float& value : u.at) value *= factor;
    store_unit(x + i, u, count, vectors);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS) add(float* y, const float* x, i64 n) {
  const bool vectors = aligned<4>(x) && aligned<4>(y);
  each_unit<4>(n, [&](i64 i, i64 count) {
    Unit<4> u = load_unit<4>(y + i, count, vectors), more = load_unit<4>(x + i, count, vectors);
    for (int j = 0; j < 4; j++) u.at[j] += more.at[j];
    store_unit(y + i, u, count, vectors);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS) softcap_forward(float* x, i64 n, float cap) {
  const bool vectors = aligned<4>(x);
  each_unit<4>(n, [&](i64 i, i64 count) {
    Unit<4> u = load_unit<4>(x + i, count, vectors);
    for (float& value : u.at) value = cap * tanhf(value / cap);
    store_unit(x + i, u, count, vectors);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS) softcap_backward(Y_TYPE* dx, const float* y, i64 n, float cap) {
  const bool vectors = aligned<4>(dx) && aligned<4>(y);
  each_unit<4>(n, [&](i64 i, i64 count) {
    Unit<4> u = load_unit<4>(dx + i, count, vectors);
    const Unit<4> capped = load_unit<4>(y + i, count, vectors);
    for (int j = 0; j < 4; j++) {
      const float t = capped.at[j] / cap;
      u.at[j] *= 1.0f - t * t;
    }
    store_unit(dx + i, u, count, vectors);
  });
}

extern "C" __global__ void __launch_bounds__(THREADS) fill(float* x, i64 n, float value) {
  const bool vectors = aligned<4>(x);
  const Unit<4> u = {value, value, value, value};
  each_unit<4>(n, [&](i64 i, i64 count) { store_unit(x + i, u, count, vectors); });
}

extern "C" __global__ void __launch_bounds__(THREADS) cast(Y_TYPE* y, const X_TYPE* x, i64 n) {
  const bool vectors = aligned<UNIT>(x) && aligned<UNIT>(y);
  each_unit<UNIT>(n, [&](i64 i, i64 count) {
    store_unit(y + i, load_unit<UNIT>(x + i, count, vectors), count, vectors);
  });
}

// Blocks of rows: blockDim.x threads a row, blockDim.y rows at a time.
template <class Y, class X>
INLINE void copy_row(Y* y, const X* x, int width) {
  constexpr int N = unit_elements<Y, X>();
  const bool vectors = aligned<N>(x) && aligned<N>(y);
  for (int d = threadIdx.x * N; d < width; d += blockDim.x * N)
    store_unit(y + d, load_unit<N>(x + d, width - d, vectors), width - d, vectors);
}

INLINE i64 first_row() { return (i64)blockIdx.x * blockDim.y + threadIdx.y; }
INLINE i64 row_step() { return (i64)gridDim.x * blockDim.y; }

extern "C" __global__ void __launch_bounds__(THREADS)
    cast_rows(Y_TYPE* y, const X_TYPE* x, int rows, int width, int ldy, int ldx) {
  for (i64 r = first_row(); r < rows; r += row_step()) copy_row(y + r * ldy, x + r * ldx, width);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gather_rows(Y_TYPE* y, const X_TYPE* x, const int* rows, int N, int D, int ldy, int ldx) {
  for (i64 r = first_row(); r < N; r += row_step()) copy_row(y + r * ldy, x + (i64)rows[r] * ldx, D);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    scatter_rows(Y_TYPE* dx, const X_TYPE* dy, const int* rows, int N, int D, int lddx, int lddy) {
  for (i64 r = first_row(); r < N; r += row_step()) copy_row(dx + (i64)rows[r] * lddx, dy + r * lddy, D);
}

// A block adds up SUMMED elements at a time.
extern "C" __global__ void __launch_bounds__(THREADS) sum_squares_blocks(double* partial, const float* x, i64 n) {
  __shared__ double warps[THREADS / WARP];
  const bool vectors = aligned<4>(x);
  double sum = 0;
  for (i64 from = (i64)blockIdx.x * SUMMED; from < n; from += (i64)gridDim.x * SUMMED) {
    const i64 to = smaller(n, from + SUMMED);
    for (i64 i = from + threadIdx.x * 4; i < to; i += THREADS * 4) {
      const Unit<4> u = load_unit<4>(x + i, to - i, vectors);
      for (float value : u.at) sum += (double)value * value;
    }
  }
  sum = block_reduce(sum, Add(), warps);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) sum_squares(double* sum, const double* partial, int blocks) {
  __shared__ double warps[THREADS / WARP];
  double total = 0;
  for (int i = threadIdx.x; i < blocks; i += THREADS) total += partial[i];
  total = block_reduce(total, Add(), warps);
  if (threadIdx.x == 0) *sum = total;
}
