// The second use of a shared array without a barrier after the first: a reduction's classic.
extern "C" __global__ void bad(float* out, const float* x) {
  __shared__ float s[128];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  float v = s[127 - t];
  s[t] = 2 * v;  // BUG: race
  __syncthreads();
  out[t] = s[127 - t];
}

extern "C" __global__ void good(float* out, const float* x) {
  __shared__ float s[128];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  float v = s[127 - t];
  __syncthreads();
  s[t] = 2 * v;
  __syncthreads();
  out[t] = s[127 - t];
}
