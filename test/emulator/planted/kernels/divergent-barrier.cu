// Threads of one warp wait at two different barriers.
extern "C" __global__ void bad(float* out, const float* x) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
  if (t < 40) {
    __syncthreads();  // BUG: divergent-barrier
    out[t] = s[t ^ 1] + 1;
  } else {
    __syncthreads();  // BUG: divergent-barrier
    out[t] = s[t ^ 1] * 3;
  }
}

extern "C" __global__ void good(float* out, const float* x) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  out[t] = t < 40 ? s[t ^ 1] + 1 : s[t ^ 1] * 3;
}
