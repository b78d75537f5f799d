// A sound kernel for the bugs that are in host calls.
extern "C" __global__ void __launch_bounds__(128) scale(float* y, const float* x, int n, float factor) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] * factor;
}

extern "C" __global__ void __launch_bounds__(128) reverse(float* y, const float* x) {
  extern __shared__ float s[];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  y[t] = s[blockDim.x - 1 - t];
}
