// Half a warp waits at a barrier for the other half, which waits at a shuffle for the first.
extern "C" __global__ void bad(int* out, const int* x) {
  int t = threadIdx.x, v = x[t];
  if (t < 16)
    v = __shfl_xor_sync(0xffffffffu, v, 1) + 1;  // BUG: deadlock
  else
    __syncthreads();  // BUG: deadlock
  out[t] = v;
}

extern "C" __global__ void good(int* out, const int* x) {
  int t = threadIdx.x, v = x[t];
  int w = __shfl_xor_sync(0xffffffffu, v, 1) + 1;
  __syncthreads();
  out[t] = t < 16 ? w : v;
}
