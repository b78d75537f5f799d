// A warp reads a row that another is about to replace.
extern "C" __global__ void bad(int* out, const int* x) {
  __shared__ int row[32];
  int t = threadIdx.x;
  if (t < 32) row[t] = x[t];
  __syncthreads();
  if (t >= 32) out[t] = row[t - 32];
  if (t < 32) row[t] = x[t + 32];  // BUG: race
  __syncthreads();
  if (t < 32) out[t] = row[31 - t];
}

extern "C" __global__ void good(int* out, const int* x) {
  __shared__ int row[32];
  int t = threadIdx.x;
  if (t < 32) row[t] = x[t];
  __syncthreads();
  if (t >= 32) out[t] = row[t - 32];
  __syncthreads();
  if (t < 32) row[t] = x[t + 32];
  __syncthreads();
  if (t < 32) out[t] = row[31 - t];
}
