// Each thread waits for its own copies, which says nothing of its neighbour's.
__device__ void copy(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\ncp.async.commit_group;" ::"r"(
                   (unsigned)__cvta_generic_to_shared(shared)),
               "l"(__cvta_generic_to_global(global))
               : "memory");
}

extern "C" __global__ void bad(float* out, const float* x) {
  __shared__ __align__(16) float s[512];
  int t = threadIdx.x;
  s[4 * t] = s[4 * t + 1] = s[4 * t + 2] = s[4 * t + 3] = 0;
  __syncthreads();
  copy(s + 4 * t, x + 4 * t);
  asm volatile("cp.async.wait_group 0;" ::: "memory");  // BUG: race
  out[t] = s[4 * (127 - t)];  // BUG: race
}

extern "C" __global__ void good(float* out, const float* x) {
  __shared__ __align__(16) float s[512];
  int t = threadIdx.x;
  s[4 * t] = s[4 * t + 1] = s[4 * t + 2] = s[4 * t + 3] = 0;
  __syncthreads();
  copy(s + 4 * t, x + 4 * t);
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  out[t] = s[4 * (127 - t)];
}
