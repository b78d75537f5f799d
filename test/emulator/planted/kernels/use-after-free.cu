// The host frees x before the launch.
extern "C" __global__ void bad(float* out, const float* x) {
  int t = threadIdx.x;
  out[t] = x[t];  // BUG: out-of-bounds
}

extern "C" __global__ void good(float* out, const float* x) {
  int t = threadIdx.x;
  out[t] = x[t];
}
