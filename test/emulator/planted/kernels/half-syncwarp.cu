// Each half of the warp waits for itself only; the data crosses over.
extern "C" __global__ void bad(int* out, const int* x) {
  __shared__ int s[32];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncwarp();
  int v = s[31 - t];
  __syncwarp(t < 16 ? 0x0000ffffu : 0xffff0000u);
  s[t] = v + 1;  // BUG: race
  __syncwarp();
  out[t] = s[31 - t];
}

extern "C" __global__ void good(int* out, const int* x) {
  __shared__ int s[32];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncwarp();
  int v = s[31 - t];
  __syncwarp(0xffffffffu);
  s[t] = v + 1;
  __syncwarp();
  out[t] = s[31 - t];
}
