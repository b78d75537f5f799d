// Waits for a tile by the parity of the phase before: the wait is over at once, and the tile is not there yet.
#include "warpgroup.cuh"

extern "C" __global__ void bad(const __grid_constant__ TensorMap map, float* out) {
  extern __shared__ __align__(1024) char tile[];
  __shared__ u64 full;
  const u32 barrier = shared_address(&full);
  if (threadIdx.x == 0) {
    barrier_init(barrier, 1);
    publish_shared();
    barrier_expect(barrier, 16 * PANEL_ROW_BYTES);
    copy_tile(shared_address(tile), &map, 0, 0, barrier);
  }
  __syncthreads();
  barrier_wait(barrier, 1);
  out[threadIdx.x] = load((const bf16*)tile + threadIdx.x);  // BUG: async-copy
  barrier_wait(barrier, 0);
}

extern "C" __global__ void good(const __grid_constant__ TensorMap map, float* out) {
  extern __shared__ __align__(1024) char tile[];
  __shared__ u64 full;
  const u32 barrier = shared_address(&full);
  if (threadIdx.x == 0) {
    barrier_init(barrier, 1);
    publish_shared();
    barrier_expect(barrier, 16 * PANEL_ROW_BYTES);
    copy_tile(shared_address(tile), &map, 0, 0, barrier);
  }
  __syncthreads();
  barrier_wait(barrier, 0);
  out[threadIdx.x] = load((const bf16*)tile + threadIdx.x);
}
