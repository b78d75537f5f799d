// Adds to a buffer that nobody has written.
extern "C" __global__ void bad(float* sum, const float* x) {
  int t = threadIdx.x;
  sum[t] += x[t];  // BUG: uninitialized
}

extern "C" __global__ void good(float* sum, const float* x) {
  int t = threadIdx.x;
  sum[t] = x[t];
}
