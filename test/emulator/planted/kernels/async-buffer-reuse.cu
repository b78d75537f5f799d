// Double buffering without the barrier at the end of a round: the next copy overwrites what a slower warp still reads.
__device__ void copy(unsigned shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\ncp.async.commit_group;" ::"r"(shared),  // BUG: race
               "l"(__cvta_generic_to_global(global))
               : "memory");
}

template <bool FIXED>
__device__ __forceinline__ void sum(float* out, const float* x, int rounds) {
  __shared__ __align__(16) float s[256];
  int t = threadIdx.x;
  unsigned address = (unsigned)__cvta_generic_to_shared(s + 4 * t);
  float v = 0;
#pragma unroll 1
  for (int i = 0; i < rounds; i++) {
    copy(address, x + i * 256 + 4 * t);
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    v += s[4 * (63 - t)];
    if (FIXED) __syncthreads();
  }
  out[t] = v;
}

extern "C" __global__ void bad(float* out, const float* x, int rounds) { sum<false>(out, x, rounds); }
extern "C" __global__ void good(float* out, const float* x, int rounds) { sum<true>(out, x, rounds); }
