// Barrier 1 waits for 96 threads; two warps come.
extern "C" __global__ void bad(int* out) {
  int t = threadIdx.x;
  __shared__ int s[64];
  if (t < 64) {
    s[t] = t;
    asm volatile("barrier.sync 1, 96;" ::: "memory");  // BUG: deadlock
    out[t] = s[63 - t];
  }
}

extern "C" __global__ void good(int* out) {
  int t = threadIdx.x;
  __shared__ int s[64];
  if (t < 64) {
    s[t] = t;
    asm volatile("barrier.sync 1, 64;" ::: "memory");
    out[t] = s[63 - t];
  }
}
