// Two groups in flight; the wait lets one be open, and the second is read.
__device__ void copy(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\ncp.async.commit_group;" ::"r"(
                   (unsigned)__cvta_generic_to_shared(shared)),
               "l"(__cvta_generic_to_global(global))
               : "memory");
}

extern "C" __global__ void bad(float* out, const float* x) {
  __shared__ __align__(16) float s[2][128];
  int t = threadIdx.x;
  copy(s[0] + 4 * t, x + 4 * t);
  copy(s[1] + 4 * t, x + 128 + 4 * t);
  asm volatile("cp.async.wait_group 1;" ::: "memory");
  __syncthreads();
  float v = s[0][127 - t];
  v += s[1][t];  // BUG: async-copy
  out[t] = v;
  asm volatile("cp.async.wait_group 0;" ::: "memory");
}

extern "C" __global__ void good(float* out, const float* x) {
  __shared__ __align__(16) float s[2][128];
  int t = threadIdx.x;
  copy(s[0] + 4 * t, x + 4 * t);
  copy(s[1] + 4 * t, x + 128 + 4 * t);
  asm volatile("cp.async.wait_group 1;" ::: "memory");
  __syncthreads();
  float v = s[0][127 - t];
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  v += s[1][t];
  out[t] = v;
}
