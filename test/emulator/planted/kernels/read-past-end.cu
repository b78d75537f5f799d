// Reads the element after the last.
extern "C" __global__ void bad(float* out, const float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = 0;
  if (i <= n) v = x[i];  // BUG: out-of-bounds
  if (i < n) out[i] = v;
}

extern "C" __global__ void good(float* out, const float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = 0;
  if (i < n) v = x[i];
  if (i < n) out[i] = v;
}
