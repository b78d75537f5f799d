// Attention over packed segments in bfloat16 for sm_90a: out (T, H, Dh) =, lse (T, H) = (null: not wanted). The sums of
// attention_forward.cu, in tiles of another size; head sizes 64 and 128, rows that 16-byte copies can reach.
//
// Flash style, as FlashAttention-3 (Shah et al. 2024) arranges it for Hopper. A block stays on its multiprocessor and
// takes one tile of queries after another. One warp, the producer, has the copy engine fetch queries, keys and values,
// ahead of use and into the next tile. Two warpgroups of consumers have 64 rows of queries each. Their products run on
// their own, so a warpgroup takes the exponentials of a tile of keys while its product with the values before is under
// way; and the two take turns at issuing products, so that one's exponentials are under the other's products as well.
//
// Shared memory: queries, STAGES of keys, STAGES of values, rows of out on their way, then barriers and the tile that
// is being worked on. Tiles are panels of warpgroup.cuh.
#include "attention_tiles.cuh"
#include "attention_warpgroup.cuh"

constexpr int QUERY_BYTES = tile_bytes<ROWS>(), KEY_BYTES = tile_bytes<KEYS>();
constexpr int KEYS_AT = QUERY_BYTES, VALUES_AT = KEYS_AT + STAGES * KEY_BYTES;
constexpr int OUT_AT = VALUES_AT + STAGES * KEY_BYTES, CONTROL_AT = OUT_AT + QUERY_BYTES;

// What the producer tells the consumers about a tile; a head of -1: there are no more.
struct Work {
  QueryTile tile;
  int head;
};

struct Control {
  u64 keys_full[STAGES], keys_free[STAGES], values_full[STAGES], values_free[STAGES];
  u64 queries_full, queries_free;  // of `work` as well
  u64 partial;                     // copies of values that the producer waits for itself
  Work work;
};
static_assert(CONTROL_AT + sizeof(Control) <= SHARED_BYTES, "shared memory of a launch");

// ---- the producer

// Values with zeros for the rows that do not belong to the tile of keys.
INLINE void copy_partial(char* shared, const TensorMap* qkv, int column, const KeyTile& keys, u32 full, u32 partial,
                         int& parity) {
  const int lane = threadIdx.x % WARP;
  if (lane == 0) {
    barrier_expect(partial, KEY_BYTES);
    copy_rows<KEYS>(shared_address(shared), qkv, column, keys.row, partial);
  }
  barrier_wait(partial, parity);
  parity ^= 1;
  clear_rows<KEYS>(shared, keys.count);
  publish_shared();
  __syncwarp();
  if (lane == 0) barrier_arrive(full);
}

INLINE void produce(char* memory, Control& control, const TensorMap* qkv, const int* segments, int* next, int S, int H,
                    int Hkv, int k_column, int v_column) {
  const int lane = threadIdx.x % WARP;
  const u32 base = shared_address(memory);
  const u32 keys_full = shared_address(control.keys_full), keys_free = shared_address(control.keys_free);
  const u32 values_full = shared_address(control.values_full), values_free = shared_address(control.values_free);
  const u32 queries_full = shared_address(&control.queries_full);
  Place place;
  int partial_parity = 0, queries_parity = 1;
  for (bool more = true; more; queries_parity ^= 1) {
    const int item = __shfl_sync(ALL_LANES, lane == 0 ? atomicAdd(next, 1) : 0, 0);
    Work work;
    work.head = item % H;
    int index = item / H;
    more = find_tile(work.tile, segments, S, index);
    // Every block ends with one number too many; the last of these starts the count anew for the next launch.
    if (!more && lane == 0 && index * H + work.head == gridDim.x - 1) atomicExch(next, 0);
    if (!more) work.head = -1;
    barrier_wait(shared_address(&control.queries_free), queries_parity);
    const QueryTile& tile = work.tile;
    if (lane == 0) {
      control.work = work;
      if (more) {
        barrier_expect(queries_full, QUERY_BYTES);
        copy_rows<ROWS>(base, qkv, work.head * HEAD_DIM, tile.start + tile.from, queries_full);
      } else {
        barrier_arrive(queries_full);
      }
    }
    const int kv_head = work.head / (H / Hkv) * HEAD_DIM, tiles = more ? key_tiles(tile) : 0;
    for (int t = 0; t < tiles; t++, place.advance()) {
      const KeyTile keys = key_tile(tile, t);
      const u32 barrier = 8 * place.stage;
      barrier_wait(keys_free + barrier, place.parity ^ 1);
      if (lane == 0) {
        barrier_expect(keys_full + barrier, KEY_BYTES);
        const u32 to = base + KEYS_AT + place.stage * KEY_BYTES;
        copy_rows<KEYS>(to, qkv, k_column + kv_head, keys.row, keys_full + barrier);
      }
      barrier_wait(values_free + barrier, place.parity ^ 1);
      char* values = memory + VALUES_AT + place.stage * KEY_BYTES;
      if (keys.count < KEYS) {
        copy_partial(values, qkv, v_column + kv_head, keys, values_full + barrier, shared_address(&control.partial),
                     partial_parity);
      } else if (lane == 0) {
        barrier_expect(values_full + barrier, KEY_BYTES);
        copy_rows<KEYS>(shared_address(values), qkv, v_column + kv_head, keys.row, values_full + barrier);
      }
    }
  }
}

// ---- the consumers

struct State {
  float out[HEAD_DIM / 8][4];  // fragments, to be divided by sum
  float top[2];                // maximum of the scaled scores, of rows g and g + 8
  float sum[2];                // of this lane's columns
};

// Two warpgroups issue products in turn.
INLINE void take_turn(int group) {
  if (group == 0) meet<1>(2 * WARPGROUP);
  else meet<2>(2 * WARPGROUP);
}
INLINE void end_turn(int group) {
  if (group == 0) meet_arrive<2>(2 * WARPGROUP);
  else meet_arrive<1>(2 * WARPGROUP);
}

// −infinity where a row does not see a key; `place` is the place of the warp's first row in its segment.
INLINE void mask(float (&s)[KEYS / 8][4], const KeyTile& keys, int place) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int limit = visible(keys, place + half * 8 + lane / 4) - lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
      if (8 * n >= limit) s[n][2 * half] = -INFINITY;
      if (8 * n + 1 >= limit) s[n][2 * half + 1] = -INFINITY;
    }
  }
}

// Scores to probabilities relative to the maximum so far. `correction`: what was summed under an older one is to be
// multiplied by this.
INLINE void softmax(float (&s)[KEYS / 8][4], State& state, float (&correction)[2], float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float most = fmaxf(s[0][2 * half], s[0][2 * half + 1]);
#pragma unroll
    for (int n = 1; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    most = lanes_reduce(most, Max(), 4);
    const float top = fmaxf(state.top[half], most * scale_log2);
    correction[half] = exp2_approx(state.top[half] - top);
    state.top[half] = top;
    float sum = state.sum[half] * correction[half];
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; e++) {
        s[n][e] = exp2_approx(fmaf(s[n][e], scale_log2, -top));
        sum += s[n][e];
      }
    state.sum[half] = sum;
  }
}

// One tile of queries from its first tile of keys to `state`. `place` goes on from tile to tile.
INLINE void consume(State& state, const QueryTile& tile, int warp, u32 base, const Control& control, Place& place,
                    float scale_log2) {
  const int group = warp / 4, lane = threadIdx.x % WARP;
  const u32 queries = base + group * 64 * PANEL_ROW_BYTES;
  const u32 keys_full = shared_address(control.keys_full), keys_free = shared_address(control.keys_free);
  const u32 values_full = shared_address(control.values_full), values_free = shared_address(control.values_free);
  const int row = tile.from + warp * 16, tiles = key_tiles(tile);
  float s[KEYS / 8][4], correction[2];
  u32 p[KEYS / 16][4];
  auto issue_scores = [&] {
    products_begin();
    score<KEYS>(s, queries, base + KEYS_AT + place.stage * KEY_BYTES);
    products_commit();
  };
  // What follows the products of scores, once they are waited for.
  auto weights = [&](int t) {
    settled(s);
    if (lane == 0) {
      barrier_arrive(keys_free + 8 * place.stage);
      if (t == tiles - 1) barrier_arrive(shared_address(&control.queries_free));
    }
    const KeyTile keys = key_tile(tile, t);
    if (visible(keys, row) < KEYS) mask(s, keys, row);
    softmax(s, state, correction, scale_log2);
  };
  barrier_wait(keys_full + 8 * place.stage, place.parity);
  take_turn(group);
  issue_scores();
  end_turn(group);
  products_wait<0>();
  weights(0);
  pack<KEYS>(p, s);
#pragma unroll 1
  for (int t = 1; t < tiles; t++) {
    const Place before = place;
    place.advance();
    barrier_wait(keys_full + 8 * place.stage, place.parity);
    barrier_wait(values_full + 8 * before.stage, before.parity);
    take_turn(group);
    issue_scores();
    weigh<KEYS>(state.out, p, base + VALUES_AT + before.stage * KEY_BYTES);
    products_commit();
    end_turn(group);
    products_wait<1>();  // the scores
    weights(t);
    products_wait<0>();
    settled(state.out);
    settled(s);  // probabilities are packed only now: until here the product reads the last ones
    if (lane == 0) barrier_arrive(values_free + 8 * before.stage);
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) state.out[n][e] *= correction[e / 2];
    pack<KEYS>(p, s);
  }
  barrier_wait(values_full + 8 * place.stage, place.parity);
  products_begin();
  weigh<KEYS>(state.out, p, base + VALUES_AT + place.stage * KEY_BYTES);
  products_commit();
  products_wait<0>();
  settled(state.out);
  if (lane == 0) barrier_arrive(values_free + 8 * place.stage);
  place.advance();
}

// `qkv`: tiles of ROWS rows and 64 columns of the buffer that q, k and v are parts of; q starts at column 0. `next`: the
// number of the next tile of queries, 0 before and after the launch.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_forward_warpgroup(const __grid_constant__ TensorMap qkv, bf16* out, float* lse, const int* segments,
                            int* next, int S, int H, int Hkv, int k_column, int v_column, i64 ldo, float scale) {
  extern __shared__ __align__(1024) char memory[];
  Control& control = *(Control*)(memory + CONTROL_AT);
  // The same in all lanes, which the compiler must know to leave products asynchronous.
  const int warp = __shfl_sync(ALL_LANES, threadIdx.x / WARP, 0), lane = threadIdx.x % WARP;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_init(shared_address(&control.keys_full[stage]), 1);
      barrier_init(shared_address(&control.values_full[stage]), 1);
      barrier_init(shared_address(&control.keys_free[stage]), CONSUMER_WARPS);
      barrier_init(shared_address(&control.values_free[stage]), CONSUMER_WARPS);
    }
    barrier_init(shared_address(&control.queries_full), 1);
    barrier_init(shared_address(&control.queries_free), CONSUMER_WARPS);
    barrier_init(shared_address(&control.partial), 1);
    publish_shared();
  }
  __syncthreads();
  if (warp / 4 == CONSUMERS) {
    registers_release<40>();
    if (warp == CONSUMER_WARPS)
      produce(memory, control, &qkv, segments, next, S, H, Hkv, k_column, v_column);
    return;
  }
  registers_claim<232>();
  if (warp / 4 == 1) end_turn(1);  // the first turn is the first warpgroup's
  const float scale_log2 = scale * 1.44269504f;
  Place place;
  for (int parity = 0;; parity ^= 1) {
    barrier_wait(shared_address(&control.queries_full), parity);
    const Work work = control.work;
    if (work.head < 0) return;
    State state;
    state.top[0] = state.top[1] = -INFINITY;
    state.sum[0] = state.sum[1] = 0;
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) state.out[n][e] = 0;
    consume(state, work.tile, warp, shared_address(memory), control, place, scale_log2);
    const int first = work.tile.from + warp * 16, count = work.tile.length - first;
    const i64 row = work.tile.start + first;
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float sum = lanes_reduce(state.sum[half], Add(), 4);
      const int within = half * 8 + lane / 4;
      inverse[half] = 1.0f / sum;
      if (lse != nullptr && lane % 4 == 0 && within < count)
        lse[(row + within) * H + work.head] = state.top[half] * 0.693147181f + logf(sum);
    }
    write_rows(out + row * ldo + work.head * HEAD_DIM, ldo, state.out, inverse,
               memory + OUT_AT + warp * 16 * HEAD_DIM * 2, count);
  }
}
