// Sums over the rows of a matrix, in two stages and a fixed order; and a bias put on every row.
//   bias_backward     partial (gridDim.y, N) = the blocks' shares of the column sums of dy (M, N)
//   add_column_sums   sum (N) += column sums of partial (blocks, N)
//   add_bias          y (M, N) = bias (N) on every row; `accumulate`: y += bias
// ROWS of threads are in a block, a warp being one row of units; STRIPES of partial's rows are summed side by side.
#include "primitives.cuh"

#ifndef DY_TYPE
#define DY_TYPE float
#endif
#ifndef Y_TYPE
#define Y_TYPE float
#endif
#ifndef BIAS_TYPE
#define BIAS_TYPE float
#endif

constexpr int UNIT = unit_elements<DY_TYPE>();

// A block has WARP units of columns and every (ROWS · gridDim.y)-th row of dy for each of its rows of threads.
extern "C" __global__ void __launch_bounds__(WARP* ROWS)
    bias_backward(float* partial, const DY_TYPE* dy, int M, int N, int lddy) {
  __shared__ __align__(16) float sums[ROWS][WARP * UNIT];
  const int lane = threadIdx.x, row = threadIdx.y, first = (blockIdx.x * WARP + lane) * UNIT;
  Unit<UNIT> sum = {};
#pragma unroll 4
  for (i64 r = (i64)blockIdx.y * ROWS + row; r < M; r += gridDim.y * ROWS) {
    const DY_TYPE* from = dy + r * lddy + first;
    const Unit<UNIT> u = load_unit<UNIT>(from, N - first, aligned<UNIT>(from));
    for (int j = 0; j < UNIT; j++) sum.at[j] += u.at[j];
  }
  store_vector(&sums[row][lane * UNIT], sum);
  __syncthreads();
  for (int i = row * WARP + lane; i < WARP * UNIT; i += WARP * ROWS) {
    float total = sums[0][i];
    for (int y = 1; y < ROWS; y++) total += sums[y][i];
    const int column = blockIdx.x * WARP * UNIT + i;
    if (column < N) partial[(i64)blockIdx.y * N + column] = total;
  }
}

extern "C" __global__ void __launch_bounds__(WARP* STRIPES)
    add_column_sums(float* sum, const float* partial, int blocks, int N) {
  __shared__ float stripes[STRIPES][WARP];
  const int column = blockIdx.x * WARP + threadIdx.x;
  float total = 0;
  if (column < N)
#pragma unroll 4
    for (int b = threadIdx.y; b < blocks; b += STRIPES) total += partial[(i64)b * N + column];
  stripes[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y > 0 || column >= N) return;
  for (int y = 1; y < STRIPES; y++) total += stripes[y][threadIdx.x];
  sum[column] += total;
}

// A block has WARP units of columns and every ROWS-th row, in strides of the grid.
extern "C" __global__ void __launch_bounds__(WARP* ROWS)
    add_bias(Y_TYPE* y, const BIAS_TYPE* bias, int M, int N, int ldy, int accumulate) {
  constexpr int WIDTH = unit_elements<Y_TYPE, BIAS_TYPE>();
  const int first = (blockIdx.x * WARP + threadIdx.x) * WIDTH, count = N - first;
  if (count <= 0) return;
  const Unit<WIDTH> b = load_unit<WIDTH>(bias + first, count, aligned<WIDTH>(bias + first));
  for (i64 r = (i64)blockIdx.y * ROWS + threadIdx.y; r < M; r += gridDim.y * ROWS) {
    Y_TYPE* to = y + r * ldy + first;
    const bool vectors = aligned<WIDTH>(to);
    Unit<WIDTH> u = b;
    if (accumulate) {
      u = load_unit<WIDTH>(to, count, vectors);
      for (int j = 0; j < WIDTH; j++) u.at[j] += b.at[j];
    }
    store_unit(to, u, count, vectors);
  }
}
