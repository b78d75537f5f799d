// The mask names lanes that have left the kernel.
extern "C" __global__ void bad(int* out, const int* x, int n) {
  int t = threadIdx.x;
  if (t >= n) return;
  int v = x[t];
  out[t] = __shfl_xor_sync(0xffffffffu, v, 1);  // BUG: warp-mask
}

extern "C" __global__ void good(int* out, const int* x, int n) {
  int t = threadIdx.x;
  int v = t < n ? x[t] : 0;
  v = __shfl_xor_sync(0xffffffffu, v, 1);
  if (t < n) out[t] = v;
}
