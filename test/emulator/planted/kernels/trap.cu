// The kernel's own guard stops it.
extern "C" __global__ void bad(int* out, int n) {
  int t = threadIdx.x;
  if (t == n) asm volatile("trap;");  // BUG: trap
  out[t] = t;
}

extern "C" __global__ void good(int* out, int n) {
  int t = threadIdx.x;
  if (t > n) asm volatile("trap;");
  out[t] = t;
}
