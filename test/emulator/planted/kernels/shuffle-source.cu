// Lane 20 takes part, but takes its value from lane 4 + 20, which does not.
extern "C" __global__ void bad(int* out, const int* x) {
  int t = threadIdx.x;
  int v = x[t];
  if (t < 24) out[t] = __shfl_down_sync(0x00ffffffu, v, 4);  // BUG: warp-mask
}

extern "C" __global__ void good(int* out, const int* x) {
  int t = threadIdx.x;
  int v = x[t];
  v = __shfl_down_sync(0xffffffffu, v, 4);
  if (t < 24) out[t] = v;
}
