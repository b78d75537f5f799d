// Lanes read 32 bytes apart: a sector each for 4 bytes.
extern "C" __global__ void bad(float* out, const float* x) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  out[t] = x[t * 8];  // BUG: uncoalesced
}

extern "C" __global__ void good(float* out, const float* x) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  out[t] = x[t];
}
