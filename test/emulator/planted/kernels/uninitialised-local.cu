// One element of a thread's own array is left out.
extern "C" __global__ void bad(float* out, const float* x, int n, int pick) {
  float a[8];
  int t = threadIdx.x;
#pragma unroll 1
  for (int i = 0; i < n - 1; i++) a[i] = x[t + i];
  out[t] = a[pick];  // BUG: uninitialized
}

extern "C" __global__ void good(float* out, const float* x, int n, int pick) {
  float a[8];
  int t = threadIdx.x;
#pragma unroll 1
  for (int i = 0; i < n; i++) a[i] = x[t + i];
  out[t] = a[pick];
}
