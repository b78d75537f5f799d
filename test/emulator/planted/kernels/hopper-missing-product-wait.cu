// Sums are used before the product has been waited for.
#include "warpgroup.cuh"

// Puts x (16, 64) into a panel, eight elements a thread.
__device__ void put(char* panel, const bf16* x) {
  const int row = threadIdx.x / 8, chunk = threadIdx.x % 8;
  *(uint4*)(panel + swizzled<8>(row, chunk)) = ((const uint4*)x)[threadIdx.x];
}

// Ones in registers, where the compiler leaves them.
__device__ void set_ones(u32 (&ones)[4]) {
  for (int i = 0; i < 4; i++) asm volatile("mov.b32 %0, 0x3f803f80;" : "=r"(ones[i]));
}

// The first row of sums, which is like all others.
__device__ void write_first_row(float* out, const float (&d)[8][4]) {
  if (threadIdx.x < 4)
    for (int n = 0; n < 8; n++) out[8 * n + 2 * threadIdx.x] = d[n][0], out[8 * n + 2 * threadIdx.x + 1] = d[n][1];
}
extern "C" __global__ void bad(float* out, const bf16* x) {
  extern __shared__ __align__(1024) char panel[];
  u32 ones[4];
  set_ones(ones);
  float d[8][4];
  put(panel, x);
  publish_shared();
  __syncthreads();
  products_begin();
  product(d, ones, operand(place_of(shared_address(panel), 0)), false);
  products_commit();
  settled(d);
  if (threadIdx.x < 4)
    for (int n = 0; n < 8; n++)
      out[8 * n + 2 * threadIdx.x] = d[n][0],  // BUG: async-product
      out[8 * n + 2 * threadIdx.x + 1] = d[n][1];
  products_wait<0>();
}

extern "C" __global__ void good(float* out, const bf16* x) {
  extern __shared__ __align__(1024) char panel[];
  u32 ones[4];
  set_ones(ones);
  float d[8][4];
  put(panel, x);
  publish_shared();
  __syncthreads();
  products_begin();
  product(d, ones, operand(place_of(shared_address(panel), 0)), false);
  products_commit();
  products_wait<0>();
  settled(d);
  write_first_row(out, d);
}
