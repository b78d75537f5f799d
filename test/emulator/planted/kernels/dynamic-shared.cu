// Launched with four bytes of dynamic shared memory too few.
extern "C" __global__ void bad(float* out, const float* x) {
  extern __shared__ float s[];
  int t = threadIdx.x;
  s[t] = x[t];  // BUG: out-of-bounds
  __syncthreads();
  out[t] = s[63 - t];
}

extern "C" __global__ void good(float* out, const float* x) {
  extern __shared__ float s[];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  out[t] = s[63 - t];
}
