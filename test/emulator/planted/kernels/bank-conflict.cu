// A column of a 32-wide shared array: all lanes on one bank.
extern "C" __global__ void bad(float* out, const float* x) {
  __shared__ float s[32][32];
  int a = threadIdx.x, b = threadIdx.y;
  s[b][a] = x[b * 32 + a];
  __syncthreads();
  out[b * 32 + a] = s[a][b];  // BUG: bank-conflict
}

extern "C" __global__ void good(float* out, const float* x) {
  __shared__ float s[32][33];
  int a = threadIdx.x, b = threadIdx.y;
  s[b][a] = x[b * 32 + a];
  __syncthreads();
  out[b * 32 + a] = s[a][b];
}
