// The second tile is copied over the first as soon as one warp has read it: the others have not said so.
#include "warpgroup.cuh"

extern "C" __global__ void bad(const __grid_constant__ TensorMap map, float* out) {
  extern __shared__ __align__(1024) char tile[];
  __shared__ u64 barriers[3];
  const u32 full = shared_address(&barriers[0]), again = shared_address(&barriers[1]);
  const u32 free = shared_address(&barriers[2]);
  if (threadIdx.x == 0) {
    barrier_init(full, 1);
    barrier_init(again, 1);
    barrier_init(free, 32);
    publish_shared();
    barrier_expect(full, 16 * PANEL_ROW_BYTES);
    copy_tile(shared_address(tile), &map, 0, 0, full);
  }
  __syncthreads();
  barrier_wait(full, 0);
  const bf16 x = ((const bf16*)tile)[threadIdx.x];
  if (threadIdx.x < 32) barrier_arrive(free);
  if (threadIdx.x == 0) {
    barrier_wait(free, 0);
    barrier_expect(again, 16 * PANEL_ROW_BYTES);
    copy_tile(shared_address(tile), &map, 0, 0, again);  // BUG: race
  }
  barrier_wait(again, 0);
  out[threadIdx.x] = load(&x) + load((const bf16*)tile + threadIdx.x);
}

extern "C" __global__ void good(const __grid_constant__ TensorMap map, float* out) {
  extern __shared__ __align__(1024) char tile[];
  __shared__ u64 barriers[3];
  const u32 full = shared_address(&barriers[0]), again = shared_address(&barriers[1]);
  const u32 free = shared_address(&barriers[2]);
  if (threadIdx.x == 0) {
    barrier_init(full, 1);
    barrier_init(again, 1);
    barrier_init(free, blockDim.x);
    publish_shared();
    barrier_expect(full, 16 * PANEL_ROW_BYTES);
    copy_tile(shared_address(tile), &map, 0, 0, full);
  }
  __syncthreads();
  barrier_wait(full, 0);
  const bf16 x = ((const bf16*)tile)[threadIdx.x];
  barrier_arrive(free);
  if (threadIdx.x == 0) {
    barrier_wait(free, 0);
    barrier_expect(again, 16 * PANEL_ROW_BYTES);
    copy_tile(shared_address(tile), &map, 0, 0, again);
  }
  barrier_wait(again, 0);
  out[threadIdx.x] = load(&x) + load((const bf16*)tile + threadIdx.x);
}
