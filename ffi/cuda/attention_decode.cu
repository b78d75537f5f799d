// Attention of one new token a sequence over the paged cache: out (B, H·Dh) =. raw (B, (H + 2·Hkv)·Dh) has the token's products:
// q and k are transformed here (heads.cuh), k and v stored at (page (B), offset (B)), which is where the sequence ends; page −1
// leaves them out. page_table (B, table_width): the prompt's pages, then the completion's; lengths (B) count the tokens in the
// cache, the new one included. A sequence of lengths 0 gets zeros, and nothing of its table is read. Rows are of different
// sequences: none reads a page that another one stores to. With a window, a token sees itself and the window − 1 tokens before
// it: pages before them are left out, and so are the first tokens of the page in which they begin.
//
// A block takes one sequence, the query heads of one key head (up to HEADS; MANY: as many at a time), and one split of the pages.
// The one that has the last page stores the new token before it reads. Where there are several splits, the last block to arrive adds up their
// parts, in order of the splits.
//
// The kernel waits for memory: each key and value is read once for all heads of its group, by 128 bits, a step ahead of its
// use; HEADS, the smallest power of two that holds a group, and few registers keep many warps at it. The warps of a block
// take pages in turn, each with a softmax of its own; sums are brought together in the order of warps, then of
// splits. How many splits there are depends on sizes of buffers alone, so a recorded launch serves any lengths.
#include "heads.cuh"

constexpr int WARPS = THREADS / WARP;
// Lanes that share a row, and pieces of 16 bytes that each holds of it.
constexpr int lanes_for(int pieces) {
  int lanes = 2;
  while (lanes < pieces && lanes < WARP) lanes *= 2;
  return lanes;
}
constexpr int LANES = lanes_for(PIECES), HELD = (PIECES + LANES - 1) / LANES, E = HELD * PIECE;
// With 8 heads the registers do not suffice to load ahead; there the arithmetic of other warps hides the memory's latency.
constexpr bool AHEAD = HEADS < 8;
constexpr int KEYS = 4, STEP = KEYS * WARP / LANES;  // keys a lane, and a warp, takes at once
constexpr int QUERY_FLOATS = HEADS * LANES * E, SCORE_FLOATS = WARPS * HEADS * PAGE_TOKENS;
// Sums of a head: one float in 32 is left out, for lanes write a piece apart.
constexpr int SUM_STRIDE = PADDED + PADDED / 32, SUM_FLOATS = WARPS * HEADS * SUM_STRIDE;
INLINE int sum_place(int warp, int h, int d) { return (warp * HEADS + h) * SUM_STRIDE + d + d / 32; }
constexpr int SHARED_FLOATS = QUERY_FLOATS + SCORE_FLOATS > SUM_FLOATS ? QUERY_FLOATS + SCORE_FLOATS : SUM_FLOATS;

// Place of element d of query h in shared memory: the lanes' first four elements side by side, then their next, so that
// 128-bit reads meet different banks.
INLINE int query_place(int h, int d) {
  const int piece = d / PIECE, e = d % PIECE;
  return ((h * HELD + piece / LANES) * (PIECE / 4) + e / 4) * LANES * 4 + piece % LANES * 4 + e % 4;
}

INLINE float as_stored(const float*, float x) { return x; }
INLINE float as_stored(const bf16*, float x) { return __uint_as_float((u32)to_bf16(x) << 16); }

// Query h's share of a lane in shared memory, rounded as training stores it.
INLINE void place_query(float* queries, int h, const Head& head, int lane) {
  const X_TYPE* type = nullptr;
#pragma unroll
  for (int s = 0; s < HEAD_SLOTS; s++)
#pragma unroll
    for (int j = 0; j < HEAD_UNIT; j++) {
      const int d = head_place(lane, s) + j;
      if (d >= HALF) continue;
      queries[query_place(h, d)] = as_stored(type, head.lower[s].at[j]);
      queries[query_place(h, HALF + d)] = as_stored(type, head.upper[s].at[j]);
    }
}

// What q and k go through, of one token: norms (null: none) and angles.
struct Transform {
  const W_TYPE *weight_q, *weight_k;
  const float *cos, *sin;
  float eps, norm_offset;
};

// Heads of q into shared memory; the key and the value into their rows, where these are given.
INLINE void take_token(float* queries, X_TYPE* key_row, X_TYPE* value_row, const X_TYPE* q, int heads, const X_TYPE* k,
                       const X_TYPE* v, const Transform& t) {
  constexpr int AT_ONCE = THREADS / HEAD_LANES;
  const int lane = threadIdx.x % HEAD_LANES, count = key_row ? heads + 2 : heads;
#pragma unroll 1
  for (int from = 0; from < count; from += AT_ONCE) {
    const int h = from + threadIdx.x / HEAD_LANES;
    const bool active = h < count, query = h < heads, value = h > heads;
    Head head = {};
    if (active) head = load_head(query ? q + h * HEAD_DIM : value ? v : k, lane);
    if (t.weight_q) {
      Head normal = head;
      normalize(normal, query ? t.weight_q : t.weight_k, t.eps, t.norm_offset, lane);
      if (!value) head = normal;
    }
    if (active && !value) rotate(head, t.cos, t.sin, lane);
    if (active && query) place_query(queries, h, head, lane);
    if (active && !query) store_page_row(value ? value_row : key_row, head, lane);
  }
  // beyond a head's elements, where lanes hold more
  constexpr int REST = LANES * E - HEAD_DIM;
  for (int i = threadIdx.x; i < heads * REST; i += THREADS) queries[query_place(i / REST, HEAD_DIM + i % REST)] = 0.0f;
}

// A page, how many tokens it holds, and how many of the first ones lie before the window.
struct Page {
  int id, count, hidden;
};

// One head's keys and values: of page 0, and how far apart pages are, in elements.
struct Cache {
  const X_TYPE *keys, *values;
  i64 stride;
};

// This lane's pieces of the KEYS rows from `row` on, as stored, zeros from `count` on.
struct Rows {
  uint4 piece[KEYS][HELD];
};
INLINE Rows load_rows(const X_TYPE* pages, i64 stride, const Page& page, int row) {
  Rows r;
  const X_TYPE* rows = pages + page.id * stride;
  const int lane = threadIdx.x % LANES;
#pragma unroll
  for (int i = 0; i < KEYS; i++)
#pragma unroll
    for (int p = 0; p < HELD; p++) {
      const int piece = lane + p * LANES;
      r.piece[i][p] = make_uint4(0, 0, 0, 0);
      if (row + i < page.count && piece < PIECES)
        r.piece[i][p] = *(const uint4*)(rows + (row + i) * PADDED + piece * PIECE);
    }
  return r;
}

// Four elements of a piece, the first or, of bfloat16, the second ones.
INLINE float4 four(const float*, const uint4& piece, int) {
  return make_float4(__uint_as_float(piece.x), __uint_as_float(piece.y), __uint_as_float(piece.z),
                     __uint_as_float(piece.w));
}
INLINE float4 four(const bf16*, const uint4& piece, int second) {
  const u32 a = second ? piece.z : piece.x, b = second ? piece.w : piece.y;
  return make_float4(low_half(a), high_half(a), low_half(b), high_half(b));
}
INLINE float4 four(const uint4& piece, int second) { return four((const X_TYPE*)nullptr, piece, second); }

// What a warp has seen so far: maximum of the scores (× log₂ e), sums over its own keys under it.
struct State {
  float top[HEADS];
  float sum[HEADS];
  float out[HEADS][E];
};

// One page, for the first `heads` queries. `scores`: this warp's, (HEADS, PAGE_TOKENS). While a step is computed, the rows of
// the one after it are on their way (AHEAD): `rows` holds the first keys of this page at the beginning, of `next` at the end.
INLINE void attend_page(State& state, Rows& rows, const float* queries, float* scores, const Cache& cache,
                        const Page& page, const Page& next, int heads, float scale_log2) {
  const int lane = threadIdx.x % WARP, own = lane % LANES, from = lane / LANES * KEYS, count = page.count;
  const int end = ceil_div(count, STEP) * STEP;
  float most[HEADS];
#pragma unroll
  for (int h = 0; h < HEADS; h++) most[h] = -INFINITY;
  for (int step = 0; step < end; step += STEP) {
    const int key = step + from;
    const bool last = step + STEP >= end;
    const Rows keys = AHEAD ? rows : load_rows(cache.keys, cache.stride, page, key);
    if (AHEAD) rows = load_rows(last ? cache.values : cache.keys, cache.stride, page, last ? from : key + STEP);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (h >= heads) break;
      float s[KEYS] = {};
#pragma unroll
      for (int p = 0; p < HELD; p++) {
#pragma unroll
        for (int e = 0; e < PIECE; e += 4) {
          const float4 q = *(const float4*)(queries + query_place(h, (p * LANES + own) * PIECE + e));
#pragma unroll
          for (int i = 0; i < KEYS; i++) {
            const float4 k = four(keys.piece[i][p], e / 4);
            s[i] = fmaf(q.w, k.w, fmaf(q.z, k.z, fmaf(q.y, k.y, fmaf(q.x, k.x, s[i]))));
          }
        }
      }
#pragma unroll
      for (int i = 0; i < KEYS; i++) {
        s[i] = lanes_reduce(s[i], Add(), LANES);
        s[i] = key + i < count && (!WINDOWED || key + i >= page.hidden) ? s[i] * scale_log2 : -INFINITY;
        most[h] = fmaxf(most[h], s[i]);
      }
      if (own == 0) *(float4*)(scores + h * PAGE_TOKENS + key) = make_float4(s[0], s[1], s[2], s[3]);
    }
  }
  __syncwarp();  // scores are there
#pragma unroll
  for (int h = 0; h < HEADS; h++) {
    if (h >= heads) break;
    const float top = fmaxf(state.top[h], lanes_reduce(most[h], Max()));
    const float correction = exp2f(state.top[h] - top);
    state.top[h] = top;
    state.sum[h] *= correction;
#pragma unroll
    for (int e = 0; e < E; e++) state.out[h][e] *= correction;
    for (int key = lane; key < end; key += WARP) {
      const float p = exp2f(scores[h * PAGE_TOKENS + key] - top);
      scores[h * PAGE_TOKENS + key] = p;
      state.sum[h] += p;
    }
  }
  __syncwarp();  // probabilities are there
  for (int step = 0; step < end; step += STEP) {
    const int key = step + from;
    const bool last = step + STEP >= end;
    const Rows values = AHEAD ? rows : load_rows(cache.values, cache.stride, page, key);
    if (AHEAD)
      rows = load_rows(last ? cache.keys : cache.values, cache.stride, last ? next : page, last ? from : key + STEP);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (h >= heads) break;
      const float4 p = *(const float4*)(scores + h * PAGE_TOKENS + key);
#pragma unroll
      for (int i = 0; i < HELD; i++)
#pragma unroll
        for (int e = 0; e < PIECE; e += 4) {
          float* out = state.out[h] + i * PIECE + e;
#pragma unroll
          for (int k = 0; k < KEYS; k++) {
            const float4 v = four(values.piece[k][i], e / 4);
            const float weight = k == 0 ? p.x : k == 1 ? p.y : k == 2 ? p.z : p.w;
            out[0] = fmaf(weight, v.x, out[0]);
            out[1] = fmaf(weight, v.y, out[1]);
            out[2] = fmaf(weight, v.z, out[2]);
            out[3] = fmaf(weight, v.w, out[3]);
          }
        }
    }
  }
  __syncwarp();  // scores may be written again
}

// What parts are multiplied by to be added under the common maximum. A part without keys has maximum −infinity.
INLINE float part_weight(float part_top, float part_sum, float top) {
  return part_sum == 0 ? 0.0f : exp2f(part_top - top);
}

// What several splits leave of a row's head, in order.
INLINE float combine(const float* sums, const float* stats, int splits, int d) {
  float top = -INFINITY, total = 0, sum = 0;
  for (int i = 0; i < splits; i++) top = fmaxf(top, __ldcg(stats + 2 * i));
  for (int i = 0; i < splits; i++) {
    const float part = __ldcg(stats + 2 * i + 1), weight = part_weight(__ldcg(stats + 2 * i), part, top);
    total = fmaf(part, weight, total);
    sum = fmaf(__ldcg(sums + (i64)i * PADDED + d), weight, sum);
  }
  return total == 0 ? 0.0f : sum / total;
}

// sums (B·H, splits, PADDED) and stats (B·H, splits, 2), maximum and sum: the parts, where there are several splits; arrived
// (B·Hkv): how many blocks have left theirs, 0 before and after.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
attention_decode(O_TYPE* out, float* sums, float* stats, u32* arrived, X_TYPE* key_pages, X_TYPE* value_pages,
                 const X_TYPE* raw, const W_TYPE* weight_q, const W_TYPE* weight_k, const int* positions,
                 const float* cos, const float* sin, const int* page, const int* offset, const int* page_table,
                 const int* prompt_lengths, const int* completion_lengths, int table_width, int H, int Hkv, int window,
                 i64 ldo, i64 ldraw, float eps, float norm_offset, float scale) {
  __shared__ __align__(16) float memory[SHARED_FLOATS];  // queries and scores; at the end, the warps' sums
  __shared__ float tops[WARPS][HEADS], totals[WARPS][HEADS];
  __shared__ int heads_done;  // of the group, by earlier passes; no register has to keep it
  __shared__ bool last_block;
  const int kv_head = blockIdx.x, b = blockIdx.y, splits = gridDim.z;
  const int group = H / Hkv, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;

  const int prompt = prompt_lengths[b], completion = completion_lengths[b];
  const int prompt_pages = ceil_div(prompt, PAGE_TOKENS), pages = prompt_pages + ceil_div(completion, PAGE_TOKENS);
  const int outside = WINDOWED ? prompt + completion - window : 0;  // tokens before the window
  const int left_out = outside <= 0       ? 0                       // whole pages of them
                       : outside < prompt ? outside / PAGE_TOKENS
                                          : prompt_pages + (outside - prompt) / PAGE_TOKENS;
  const int per_split = ceil_div(pages - left_out, splits), first_of_split = left_out + blockIdx.z * per_split;
  const int end = smaller(pages, first_of_split + per_split), first_page = first_of_split + warp;
  float* scores = memory + QUERY_FLOATS + warp * HEADS * PAGE_TOKENS;
  // Beyond the last page there is one without tokens.
  auto page_at = [&](int page) {
    if (page >= end) return Page{0, 0, 0};
    const bool in_prompt = page < prompt_pages;
    const int before = (in_prompt ? page : page - prompt_pages) * PAGE_TOKENS;
    const int left = (in_prompt ? prompt : completion) - before;
    return Page{page_table[(i64)b * table_width + page], smaller(left, PAGE_TOKENS),
                outside - before - (in_prompt ? 0 : prompt)};
  };
  const i64 own_head = page_row(0, Hkv, kv_head, 0);
  const Cache cache = {key_pages + own_head, value_pages + own_head, page_row(1, Hkv, 0, 0)};

  if (MANY) {
    if (threadIdx.x == 0) heads_done = 0;
    __syncthreads();
  }
  for (bool more = true; more;) {
    const int first = MANY ? heads_done : 0, heads = MANY ? smaller(HEADS, group - first) : group;
    {
      // The split with the last page; of a sequence without any, the first one.
      const bool ends = pages == 0 ? blockIdx.z == 0 : end == pages && first_of_split < pages;
      const i64 row = ends && first == 0 && page[b] >= 0 ? page_row(page[b], Hkv, kv_head, offset[b]) : -1;
      const X_TYPE *q = raw + b * ldraw + (kv_head * group + first) * HEAD_DIM, *k = raw + b * ldraw + (H + kv_head) * HEAD_DIM;
      const i64 angle = (i64)positions[b] * HALF;
      take_token(memory, row < 0 ? nullptr : key_pages + row, row < 0 ? nullptr : value_pages + row, q, heads, k,
                 k + Hkv * HEAD_DIM, {weight_q, weight_k, cos + angle, sin + angle, eps, norm_offset});
    }
    __syncthreads();  // queries are there, and the new token is in its page

    State state;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      state.top[h] = -INFINITY;
      state.sum[h] = 0;
#pragma unroll
      for (int e = 0; e < E; e++) state.out[h][e] = 0;
    }
    Page page = page_at(first_page);
    Rows rows = {};
    if (AHEAD) rows = load_rows(cache.keys, cache.stride, page, lane / LANES * KEYS);
    for (int p = first_page; p < end; p += WARPS) {
      const Page next = page_at(p + WARPS);
      attend_page(state, rows, memory, scores, cache, page, next, heads, scale * 1.44269504f);
      page = next;
    }

    __syncthreads();  // all warps are done with queries and scores
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
      if (h >= heads) break;
      state.sum[h] = lanes_reduce(state.sum[h], Add());
      if (lane == 0) {
        tops[warp][h] = state.top[h];
        totals[warp][h] = state.sum[h];
      }
#pragma unroll
      for (int e = 0; e < E; e++) {
        float sum = state.out[h][e];
#pragma unroll
        for (int offset = LANES; offset < WARP; offset *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
        const int d = (e / PIECE * LANES + lane) * PIECE + e % PIECE;
        if (lane < LANES && d < PADDED) memory[sum_place(warp, h, d)] = sum;
      }
    }
    __syncthreads();  // sums are there
    for (int i = threadIdx.x; i < heads * PADDED; i += THREADS) {
      const int h = i / PADDED, d = i % PADDED, head = kv_head * group + (MANY ? heads_done : 0) + h;
      float top = tops[0][h], total = 0, sum = 0;
#pragma unroll
      for (int w = 1; w < WARPS; w++) top = fmaxf(top, tops[w][h]);
#pragma unroll
      for (int w = 0; w < WARPS; w++) {
        const float weight = part_weight(tops[w][h], totals[w][h], top);
        total = fmaf(totals[w][h], weight, total);
        sum = fmaf(memory[sum_place(w, h, d)], weight, sum);
      }
      if (splits == 1) {
        if (d < HEAD_DIM) store(out + b * ldo + head * HEAD_DIM + d, total == 0 ? 0.0f : sum / total);
        continue;
      }
      const i64 part = ((i64)b * H + head) * splits + blockIdx.z;
      sums[part * PADDED + d] = sum;
      if (d < 2) stats[part * 2 + d] = d == 0 ? top : total;
    }
    more = MANY && heads_done + HEADS < group;
    if (more) {
      __syncthreads();  // sums and heads_done may be written again
      if (threadIdx.x == 0) heads_done += HEADS;
      __syncthreads();
    }
  }
  if (splits == 1) return;

  __threadfence();  // this block's parts are in memory
  __syncthreads();
  if (threadIdx.x == 0) last_block = atomicInc(arrived + b * Hkv + kv_head, splits - 1) == splits - 1;
  __syncthreads();
  if (!last_block) return;
  __threadfence();
  for (int i = threadIdx.x; i < group * HEAD_DIM; i += THREADS) {
    const int head = kv_head * group + i / HEAD_DIM, d = i % HEAD_DIM;
    const i64 part = ((i64)b * H + head) * splits;
    store(out + b * ldo + head * HEAD_DIM + d, combine(sums + part * PADDED, stats + part * 2, splits, d));
  }
}
