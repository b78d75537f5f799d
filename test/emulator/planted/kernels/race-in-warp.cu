// Lanes of a warp do not run in step: data that passes between them needs __syncwarp.
extern "C" __global__ void bad(int* out, const int* x) {
  __shared__ int s[32];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncwarp();
  int v = s[31 - t];
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
  __syncwarp();
  s[t] = v + 1;
  __syncwarp();
  out[t] = s[31 - t];
}
