// The product of two 32-bit sizes passes 2^31 before it becomes an address. `origin` moves the buffer's first element to
// where the product belongs, so that the buffer itself can be small.
extern "C" __global__ void bad(float* out, const float* x, long long origin, int row, int stride) {
  int t = threadIdx.x;
  out[t] = x[(long long)(row * stride + t) - origin];  // BUG: out-of-bounds
}

extern "C" __global__ void good(float* out, const float* x, long long origin, int row, int stride) {
  int t = threadIdx.x;
  out[t] = x[(long long)row * stride + t - origin];
}
