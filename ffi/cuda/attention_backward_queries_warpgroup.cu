// The gradient of queries in bfloat16 for sm_90a: attention_backward_queries of attention_backward.cu by products of
// warpgroups; head sizes 64 and 128, rows that 16-byte copies can reach.
//
// Arranged as attention_forward_warpgroup.cu: a block takes one tile of queries and head after another, its producer
// has queries, dout and the tiles of keys and values fetched, each warpgroup of consumers has 64 of the queries. dS,
// rounded to bfloat16, is the left operand of dq += dS · keys without leaving registers. While a warpgroup takes
// exponentials, its dP is under way; the next scores are issued behind dq.
//
// Shared memory: queries, dout, STAGES of keys and values, rows of dq on their way, then barriers, statistics and the
// tile that is being worked on.
#include "attention_tiles.cuh"
#include "attention_warpgroup.cuh"

constexpr int QUERY_BYTES = tile_bytes<ROWS>(), KEY_BYTES = tile_bytes<KEYS>();
constexpr int DOUTS_AT = QUERY_BYTES, STEPS_AT = DOUTS_AT + QUERY_BYTES;
constexpr int OUT_AT = STEPS_AT + STAGES * 2 * KEY_BYTES, CONTROL_AT = OUT_AT + QUERY_BYTES;
constexpr float LOG2_E = 1.4426950408889634f;

// What the producer tells the consumers about a tile; a head of -1: there are no more.
struct Work {
  QueryTile tile;
  int head;
};

struct Control {
  u64 steps_full[STAGES], steps_free[STAGES];
  u64 queries_full, queries_free;  // of dout, statistics and `work` as well
  u64 partial;                     // copies that the producer waits for itself
  Work work;
  alignas(16) float exponents[ROWS], deltas[ROWS];
};
static_assert(CONTROL_AT + sizeof(Control) <= SHARED_BYTES, "shared memory of a launch");

// What a launch is given beyond its output.
struct Inputs {
  const TensorMap *qkv, *dout;
  const float2* stats;
  const int* segments;
  int S, T, H, group, k_column, v_column, window;
};

// Tiles of keys that no row of the tile of queries sees, before those that one does.
INLINE int tiles_before(const QueryTile& tile, int window) { return WINDOWED ? first_key_tile(tile, window) : 0; }

// ---- the producer

// A tile of keys and values, zeros in the rows that do not belong to it.
INLINE void produce_keys(char* memory, Control& control, const Inputs& in, const KeyTile& keys, int head, Place place,
                         int& partial_parity) {
  const int lane = threadIdx.x % WARP;
  const u32 full = shared_address(&control.steps_full[place.stage]), partial = shared_address(&control.partial);
  barrier_wait(shared_address(&control.steps_free[place.stage]), place.parity ^ 1);
  char* const rows = memory + STEPS_AT + place.stage * 2 * KEY_BYTES;
  const u32 shared = shared_address(rows), barrier = keys.count < KEYS ? partial : full;
  if (lane == 0) {
    barrier_expect(barrier, 2 * KEY_BYTES);
    copy_rows<KEYS>(shared, in.qkv, in.k_column + head * HEAD_DIM, keys.row, barrier);
    copy_rows<KEYS>(shared + KEY_BYTES, in.qkv, in.v_column + head * HEAD_DIM, keys.row, barrier);
  }
  if (keys.count == KEYS) return;
  barrier_wait(partial, partial_parity);
  partial_parity ^= 1;
  clear_rows<KEYS>(rows, keys.count);
  clear_rows<KEYS>(rows + KEY_BYTES, keys.count);
  publish_shared();
  __syncwarp();
  if (lane == 0) barrier_arrive(full);
}

INLINE void produce(char* memory, Control& control, const Inputs& in, int* next) {
  const int lane = threadIdx.x % WARP;
  const u32 queries_full = shared_address(&control.queries_full), queries = shared_address(memory);
  Place place;
  int partial_parity = 0;
  for (int parity = 1;; parity ^= 1) {
    const int item = __shfl_sync(ALL_LANES, lane == 0 ? atomicAdd(next, 1) : 0, 0);
    Work work;
    work.head = item % in.H;
    int index = item / in.H;
    const bool found = find_tile(work.tile, in.segments, in.S, index);
    barrier_wait(shared_address(&control.queries_free), parity);
    if (!found) {
      if (lane == 0) {
        // Every block ends with one number too many; the last of these starts the count anew for the next launch.
        if (index * in.H + work.head == gridDim.x - 1) atomicExch(next, 0);
        control.work.head = -1;
        barrier_arrive(queries_full);
      }
      return;
    }
    const QueryTile& tile = work.tile;
    const int row = tile.start + tile.from;
#pragma unroll
    for (int i = lane; i < ROWS; i += WARP) {
      const bool there = tile.from + i < tile.length;
      const float2 two = there ? in.stats[(i64)work.head * in.T + row + i] : make_float2(0, 0);
      control.exponents[i] = two.x;
      control.deltas[i] = two.y;
    }
    if (lane == 0) control.work = work;
    __syncwarp();
    if (lane == 0) {
      barrier_expect(queries_full, 2 * QUERY_BYTES);
      copy_rows<ROWS>(queries, in.qkv, work.head * HEAD_DIM, row, queries_full);
      copy_rows<ROWS>(queries + DOUTS_AT, in.dout, work.head * HEAD_DIM, row, queries_full);
    }
    const int tiles = key_tiles(tile), kv_head = work.head / in.group;
    for (int t = tiles_before(tile, in.window); t < tiles; t++, place.advance())
      produce_keys(memory, control, in, key_tile(tile, t), kv_head, place, partial_parity);
  }
}

// ---- the consumers

// Zeros where a row does not see a key; `place`: the place of the warp's first row in its segment.
INLINE void hide(float (&p)[KEYS / 8][4], const KeyTile& keys, int place, int window) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = place + half * 8 + lane / 4, first = lane % 4 * 2;
    const int to = visible(keys, row) - first, from = WINDOWED ? hidden(keys, row, window) - first : 0;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int e = 0; e < 2; e++)
        if (8 * n + e >= to || (WINDOWED && 8 * n + e < from)) p[n][2 * half + e] = 0;
  }
}

// One tile of queries: `sums`, without the scale, of the warpgroup's 64 rows. `place` goes on from tile to tile.
INLINE void consume(float (&sums)[HEAD_DIM / 8][4], const QueryTile& tile, int warp, u32 base, const Control& control,
                    Place& place, int window, float exponent) {
  const int lane = threadIdx.x % WARP, within = warp * 16 + lane / 4, row = tile.from + warp * 16;
  const u32 full = shared_address(control.steps_full), free = shared_address(control.steps_free);
  const u32 queries = base + warp / 4 * 64 * PANEL_ROW_BYTES;
  float exponents[2], deltas[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    exponents[half] = control.exponents[within + half * 8];
    deltas[half] = control.deltas[within + half * 8];
  }
  float p[KEYS / 8][4], ds[KEYS / 8][4];
  u32 weights[KEYS / 16][4];
  const int tiles = key_tiles(tile);
  int held = -1;  // the stage that products under way still read
#pragma unroll 1
  for (int t = tiles_before(tile, window); t < tiles; t++, place.advance()) {
    const u32 keys = base + STEPS_AT + place.stage * 2 * KEY_BYTES;
    barrier_wait(full + 8 * place.stage, place.parity);
    products_begin();
    score<KEYS>(p, queries, keys);
    products_commit();
    products_wait<1>();  // the sums before
    settled(sums);
    if (held >= 0 && lane == 0) barrier_arrive(free + 8 * held);
    held = place.stage;
    products_begin();
    score<KEYS>(ds, queries + DOUTS_AT, keys + KEY_BYTES);
    products_commit();
    products_wait<1>();  // scores
    settled(p);
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) p[n][e] = exp2_approx(fmaf(p[n][e], exponent, exponents[e / 2]));
    const KeyTile tile_of_keys = key_tile(tile, t);
    const bool all = visible(tile_of_keys, row) == KEYS && (!WINDOWED || hidden(tile_of_keys, row + 15, window) <= 0);
    if (!all) hide(p, tile_of_keys, row, window);
    products_wait<0>();  // dP
    settled(ds);
    if (t == tiles - 1) {
      __syncwarp();
      if (lane == 0) barrier_arrive(shared_address(&control.queries_free));
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) ds[n][e] = p[n][e] * (ds[n][e] - deltas[e / 2]);
    pack<KEYS>(weights, ds);
    products_begin();
    weigh<KEYS>(sums, weights, keys);
    products_commit();
  }
  products_wait<0>();
  settled(sums);
  if (lane == 0) barrier_arrive(free + 8 * held);
}

// `qkv`, `douts`: tiles of BOX rows and 64 columns of the buffer that q, k and v are parts of, q from column 0 on, and
// of dout. stats: attention_backward.cuh. `next`: the number of the next tile of queries and head, 0 before and after
// the launch.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_backward_queries_warpgroup(const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap douts,
                                         bf16* dq, const float2* stats, const int* segments, int* next, int S, int T,
                                         int H, int group, int k_column, int v_column, int window, i64 ldd,
                                         float scale) {
  extern __shared__ __align__(1024) char memory[];
  Control& control = *(Control*)(memory + CONTROL_AT);
  // The same in all lanes, which the compiler must know to leave products asynchronous.
  const int warp = __shfl_sync(ALL_LANES, threadIdx.x / WARP, 0);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_init(shared_address(&control.steps_full[stage]), 1);
      barrier_init(shared_address(&control.steps_free[stage]), CONSUMER_WARPS);
    }
    barrier_init(shared_address(&control.queries_full), 1);
    barrier_init(shared_address(&control.queries_free), CONSUMER_WARPS);
    barrier_init(shared_address(&control.partial), 1);
    publish_shared();
  }
  __syncthreads();
  if (warp / 4 == CONSUMERS) {
    registers_release<PRODUCER_REGISTERS>();
    const Inputs in = {&qkv, &douts, stats, segments, S, T, H, group, k_column, v_column, window};
    if (warp == CONSUMER_WARPS) produce(memory, control, in, next);
    return;
  }
  registers_claim<CONSUMER_REGISTERS>();
  Place place;
  for (int parity = 0;; parity ^= 1) {
    barrier_wait(shared_address(&control.queries_full), parity);
    if (control.work.head < 0) return;
    const Work work = control.work;
    const QueryTile& tile = work.tile;
    float sums[HEAD_DIM / 8][4] = {};
    consume(sums, tile, warp, shared_address(memory), control, place, window, scale * LOG2_E);
    const int row = tile.from + warp * 16;
    const float scales[2] = {scale, scale};
    write_rows(dq + (tile.start + row) * ldd + work.head * HEAD_DIM, ldd, sums, scales,
               memory + OUT_AT + warp * 16 * HEAD_DIM * 2, tile.length - row);
  }
}
