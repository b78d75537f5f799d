// Loads four elements where the last row holds two.
extern "C" __global__ void bad(float* out, const float* x, int n) {
  int i = threadIdx.x * 4;
  if (i >= n) return;
  float4 v = *(const float4*)(x + i);  // BUG: out-of-bounds
  out[threadIdx.x] = v.x + v.y;
}

extern "C" __global__ void good(float* out, const float* x, int n) {
  int i = threadIdx.x * 4;
  if (i >= n) return;
  float v = x[i] + x[i + 1];
  out[threadIdx.x] = v;
}
