// One past a thread's own array.
extern "C" __global__ void bad(float* out, const float* x, int pick) {
  float a[8];
  int t = threadIdx.x;
#pragma unroll 1
  for (int i = 0; i < 8; i++) a[i] = x[t + i];
  out[t] = a[pick];  // BUG: out-of-bounds
}

extern "C" __global__ void good(float* out, const float* x, int pick) {
  float a[8];
  int t = threadIdx.x;
#pragma unroll 1
  for (int i = 0; i < 8; i++) a[i] = x[t + i];
  out[t] = a[pick % 8];
}
