// Blocks add to one element of global memory without an atomic.
extern "C" __global__ void bad(int* sum, const int* x) {
  if (threadIdx.x == 0) *sum += x[blockIdx.x];  // BUG: global-race
}

extern "C" __global__ void good(int* sum, const int* x) {
  if (threadIdx.x == 0) atomicAdd(sum, x[blockIdx.x]);
}
