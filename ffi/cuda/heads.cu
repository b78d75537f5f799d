// q, k and v of T tokens between their products and attention: qkv = raw with the heads of q and k normalized, where there
// are norms (rmsnorm.cu), and rotated (rope.cu). Also stores keys and values at (page (T), offset (T)) where there are pages;
// a token of page −1 is left out. raw may be qkv.
//   heads_forward  qkv (T, (H + 2·Hkv)·Dh) =, rstd_q (T, H) =, rstd_k (T, Hkv) = (where given)
//
// A head is the work of HEAD_LANES neighbouring lanes; a lane holds units of its lower half and the same ones of its upper
// half, so that what the rotation pairs is in one lane. Nothing is rounded in between.
#include "attention_pages.cuh"

constexpr int HALF = HEAD_DIM / 2, HEAD_UNIT = unit_elements<X_TYPE, W_TYPE>();

constexpr int head_lanes() {
  int lanes = 1;
  while (lanes * HEAD_UNIT < HALF && lanes < WARP) lanes *= 2;
  return lanes;
}
constexpr int HEAD_LANES = head_lanes();
constexpr int HEAD_SLOTS = (HALF + HEAD_LANES * HEAD_UNIT - 1) / (HEAD_LANES * HEAD_UNIT);

struct Head {
  Unit<HEAD_UNIT> lower[HEAD_SLOTS], upper[HEAD_SLOTS];
};

// First element, within a half, of this lane's unit `slot`.
INLINE int head_place(int lane, int slot) { return (slot * HEAD_LANES + lane) * HEAD_UNIT; }

template <class T>
INLINE Head load_head(const T* head, int lane) {
  Head h;
  const bool vectors = aligned<HEAD_UNIT>(head) && aligned<HEAD_UNIT>(head + HALF);
#pragma unroll
  for (int s = 0; s < HEAD_SLOTS; s++) {
    const int d = head_place(lane, s);
    h.lower[s] = load_unit<HEAD_UNIT>(head + d, HALF - d, vectors);
    h.upper[s] = load_unit<HEAD_UNIT>(head + HALF + d, HALF - d, vectors);
  }
  return h;
}

template <class T>
INLINE void store_head(T* head, const Head& h, int lane) {
  const bool vectors = aligned<HEAD_UNIT>(head) && aligned<HEAD_UNIT>(head + HALF);
#pragma unroll
  for (int s = 0; s < HEAD_SLOTS; s++) {
    const int d = head_place(lane, s);
    store_unit(head + d, h.lower[s], HALF - d, vectors);
    store_unit(head + HALF + d, h.upper[s], HALF - d, vectors);
  }
}

// Multiplies a head by its norm's offset + weight and by 1/rms, which is returned. All lanes of the warp take part.
INLINE float normalize(Head& h, const W_TYPE* weight, float eps, float offset, int lane) {
  float squares = 0;
#pragma unroll
  for (int s = 0; s < HEAD_SLOTS; s++) {
    for (float value : h.lower[s].at) squares += value * value;
    for (float value : h.upper[s].at) squares += value * value;
  }
  const float scale = 1.0f / sqrtf(lanes_reduce(squares, Add(), HEAD_LANES) / (float)HEAD_DIM + eps);
  const Head w = load_head(weight, lane);
#pragma unroll
  for (int s = 0; s < HEAD_SLOTS; s++)
#pragma unroll
    for (int j = 0; j < HEAD_UNIT; j++) {
      h.lower[s].at[j] *= scale * (offset + w.lower[s].at[j]);
      h.upper[s].at[j] *= scale * (offset + w.upper[s].at[j]);
    }
  return scale;
}

// Rotates a head by the angles whose cosines and sines (Dh/2) are given.
INLINE void rotate(Head& h, const float* cos, const float* sin, int lane) {
  const bool vectors = aligned<HEAD_UNIT>(cos) && aligned<HEAD_UNIT>(sin);
#pragma unroll
  for (int s = 0; s < HEAD_SLOTS; s++) {
    const int d = head_place(lane, s);
    const Unit<HEAD_UNIT> c = load_unit<HEAD_UNIT>(cos + d, HALF - d, vectors);
    const Unit<HEAD_UNIT> sine = load_unit<HEAD_UNIT>(sin + d, HALF - d, vectors);
#pragma unroll
    for (int j = 0; j < HEAD_UNIT; j++) {
      const float low = h.lower[s].at[j], high = h.upper[s].at[j];
      h.lower[s].at[j] = low * c.at[j] - high * sine.at[j];
      h.upper[s].at[j] = high * c.at[j] + low * sine.at[j];
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
heads_forward(X_TYPE* qkv, float* rstd_q, float* rstd_k, X_TYPE* key_pages, X_TYPE* value_pages, const X_TYPE* raw,
              const W_TYPE* weight_q, const W_TYPE* weight_k, const int* positions, const float* cos, const float* sin,
              const int* page, const int* offset, int T, int H, int Hkv, i64 ldqkv, i64 ldraw, float eps,
              float norm_offset) {
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
  if (query || !key_pages || page[t] < 0) return;
  const int kv_head = value ? h - H - Hkv : h - H;
  X_TYPE* target = (value ? value_pages : key_pages) + page_row(page[t], Hkv, kv_head, offset[t]);
  store_head(target, head, lane);
  for (int d = HEAD_DIM + lane; d < PADDED; d += HEAD_LANES) store(target + d, 0.0f);
}
