// An 8-byte store into shared memory at a multiple of 4.
extern "C" __global__ void bad(float* out, int skip) {
  __shared__ __align__(16) float s[72];
  int t = threadIdx.x;
  *(float2*)(s + skip + 2 * t) = make_float2(t, -t);  // BUG: misaligned
  __syncthreads();
  out[t] = s[skip + 2 * t] + s[skip + 2 * t + 1];
}

extern "C" __global__ void good(float* out, int skip) {
  __shared__ __align__(16) float s[72];
  int t = threadIdx.x;
  s[skip + 2 * t] = t;
  s[skip + 2 * t + 1] = -t;
  __syncthreads();
  out[t] = s[skip + 2 * t] + s[skip + 2 * t + 1];
}
