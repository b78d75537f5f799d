// Lanes call a shuffle whose mask does not name them.
extern "C" __global__ void bad(int* out, const int* x) {
  int t = threadIdx.x;
  int v = x[t];
  out[t] = __shfl_xor_sync(0x0000ffffu, v, 1);  // BUG: warp-mask
}

extern "C" __global__ void good(int* out, const int* x) {
  int t = threadIdx.x;
  int v = x[t];
  out[t] = __shfl_xor_sync(0xffffffffu, v, 1);
}
