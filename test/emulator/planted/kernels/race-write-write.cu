// Every warp writes the block's one result.
extern "C" __global__ void bad(int* out) {
  __shared__ int winner;
  int t = threadIdx.x;
  if (t % 32 == 0) winner = t;  // BUG: race
  __syncthreads();
  out[t] = winner;
}

extern "C" __global__ void good(int* out) {
  __shared__ int winner;
  int t = threadIdx.x;
  if (t == 0) winner = t;
  __syncthreads();
  out[t] = winner;
}
