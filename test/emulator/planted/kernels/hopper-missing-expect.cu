// A tile is copied to shared memory, and nobody announces its bytes: the barrier's phase can end before they are there.
#include "warpgroup.cuh"

extern "C" __global__ void bad(const __grid_constant__ TensorMap map, float* out) {
  extern __shared__ __align__(1024) char tile[];
  __shared__ u64 full;
  const u32 barrier = shared_address(&full);
  if (threadIdx.x == 0) {
    barrier_init(barrier, 1);
    publish_shared();
    copy_tile(shared_address(tile), &map, 0, 0, barrier);  // BUG: mbarrier
    barrier_arrive(barrier);
  }
  __syncthreads();
  barrier_wait(barrier, 0);
  out[threadIdx.x] = load((const bf16*)tile + threadIdx.x);
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
