// The tail of a shared array is never written and yet summed.
extern "C" __global__ void bad(float* out, const float* x, int n) {
  __shared__ float s[64];
  int t = threadIdx.x;
  if (t < n) s[t] = x[t];
  __syncthreads();
  out[t] = s[63 - t];  // BUG: uninitialized
}

extern "C" __global__ void good(float* out, const float* x, int n) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = t < n ? x[t] : 0;
  __syncthreads();
  out[t] = s[63 - t];
}
