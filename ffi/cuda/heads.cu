// q, k and v of T tokens between their products and attention: qkv = raw with the heads of q and k transformed (heads.cuh).
// raw may be qkv.
//   heads_forward  qkv (T, (H + 2·Hkv)·Dh) =, rstd_q (T, H) =, rstd_k (T, Hkv) = (where given)
#include "heads.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
heads_forward(X_TYPE* qkv, float* rstd_q, float* rstd_k, const X_TYPE* raw, const W_TYPE* weight_q,
              const W_TYPE* weight_k, const int* positions, const float* cos, const float* sin, int T, int H, int Hkv,
              i64 ldqkv, i64 ldraw, float eps, float norm_offset) {
  const int lane = threadIdx.x % HEAD_LANES, heads = H + 2 * Hkv;
  const i64 row = (i64)blockIdx.x * (THREADS / HEAD_LANES) + threadIdx.x / HEAD_LANES;
  const bool active = row < (i64)T * heads;
  const int t = active ? (int)(row / heads) : 0, h = active ? (int)(row % heads) : 0;
  const bool query = h < H, value = h >= H + Hkv;
  Head head = {};
  if (active) head = load_head(raw + t * ldraw + h * HEAD_DIM, lane);
  if (weight_q) {
    Head normal = head;
    const float scale = normalize(normal, query ? weight_q : weight_k, eps, norm_offset, lane);
    if (!value) {
      head = normal;
      float* rstd = query ? rstd_q : rstd_k;
      if (rstd && active && lane == 0) rstd[query ? (i64)t * H + h : (i64)t * Hkv + h - H] = scale;
    }
  }
  if (!active) return;
  if (!value) rotate(head, cos + (i64)positions[t] * HALF, sin + (i64)positions[t] * HALF, lane);
  if (!value || raw != qkv) store_head(qkv + t * ldqkv + h * HEAD_DIM, head, lane);
}
