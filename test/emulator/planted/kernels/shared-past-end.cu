// One past a shared array. On hardware it reads the next variable, or the next block's memory.
extern "C" __global__ void bad(float* out, const float* x, int shift) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  out[t] = s[t + shift];  // BUG: out-of-bounds
}

extern "C" __global__ void good(float* out, const float* x, int shift) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  out[t] = s[(t + shift) % 64];
}
