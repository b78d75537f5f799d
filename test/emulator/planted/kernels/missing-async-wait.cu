// A barrier does not wait for asynchronous copies.
__device__ void copy(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\ncp.async.commit_group;" ::"r"(
                   (unsigned)__cvta_generic_to_shared(shared)),
               "l"(__cvta_generic_to_global(global))
               : "memory");
}

extern "C" __global__ void bad(float* out, const float* x) {
  __shared__ __align__(16) float s[128];
  int t = threadIdx.x;
  copy(s + 4 * t, x + 4 * t);
  __syncthreads();
  out[t] = s[127 - t];  // BUG: async-copy
  asm volatile("cp.async.wait_group 0;" ::: "memory");
}

extern "C" __global__ void good(float* out, const float* x) {
  __shared__ __align__(16) float s[128];
  int t = threadIdx.x;
  copy(s + 4 * t, x + 4 * t);
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  out[t] = s[127 - t];
}
