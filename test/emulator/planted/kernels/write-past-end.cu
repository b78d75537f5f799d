// Writes the element after the last.
extern "C" __global__ void bad(float* out, const float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = i < n ? x[i] : 0;
  if (i <= n) out[i] = v;  // BUG: out-of-bounds
}

extern "C" __global__ void good(float* out, const float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = i < n ? x[i] : 0;
  if (i < n) out[i] = v;
}
