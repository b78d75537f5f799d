// The gradients of keys and values in bfloat16 for sm_90a: attention_backward_keys of attention_backward.cu by products
// of warpgroups; head sizes 64 and 128, rows that 16-byte copies can reach.
//
// A block stays on its multiprocessor and takes one unit of work (attention_backward.cuh) and key-value head after
// another. One thread of the producer has the copy engine fetch the tile of keys and values, then the unit's queries
// and dout, QUERIES rows and one head at a time, ahead of use and into the next unit; a warp brings their statistics.
// Each warpgroup of consumers has 64 of the keys. Scores and dP have keys as rows, so that P and dS, rounded to
// bfloat16, are the left operands of dv += P · dout and dk += dS · q without leaving registers. While a warpgroup takes
// exponentials, its dP is under way, and while it forms dS, its dv; the next scores are issued behind dk.
//
// Shared memory: keys, values, STAGES of queries and dout, rows of dk or dv on their way, then barriers, statistics and
// what the producer says about a tile.
#include "attention_backward.cuh"
#include "attention_warpgroup.cuh"

constexpr int KEY_BYTES = tile_bytes<ROWS>(), STEP_BYTES = tile_bytes<QUERIES>();
constexpr int VALUES_AT = KEY_BYTES, STEPS_AT = VALUES_AT + KEY_BYTES;
constexpr int OUT_AT = STEPS_AT + STAGES * 2 * STEP_BYTES, CONTROL_AT = OUT_AT + KEY_BYTES;
constexpr float LOG2_E = 1.4426950408889634f;
static_assert(TILE == ROWS && TILE % QUERIES == 0, "a unit's tiles are a consumer's");

// Queries of one head, from row `query` on, and the rows of keys that they see: from … to − 1, as far as they are not
// behind them and not `reach` rows before them (QueryWalk).
struct Step {
  int query, from, to, reach;
  bool more;        // of this unit
  int rows, stats;  // that are there, and where their statistics begin
};

// What consumers read of a stage.
struct alignas(128) Stage {
  float exponents[QUERIES], deltas[QUERIES];
  alignas(128) Step step;
};

struct Control {
  u64 planned[STAGES], steps_full[STAGES], steps_free[STAGES];
  u64 partial[STAGES];       // copies that the producer waits for itself
  u64 keys_full, keys_free;  // of values and `work` as well
  alignas(16) Work work;     // a segment of -1: there is no more
  int padding;               // a unit is two int4
  int head, first_key;
  QueryWalk<QUERIES> walk;   // the producer's
  Stage stages[STAGES];
};
static_assert(CONTROL_AT + sizeof(Control) <= SHARED_BYTES, "shared memory of a launch");

// What a launch is given beyond its outputs.
struct Inputs {
  const TensorMap *qkv, *dout;
  const float2* stats;
  const int4* units;
  const int* segments;
  int items, T, Hkv, group, k_column, v_column, window;  // items: of the list of units and heads
};

// ---- the producer

// The list ends with its first unit that is none.
INLINE bool is_listed(const Inputs& in, int item) {
  return item < in.items && work_at(in.units, item / in.Hkv).segment >= 0;
}

// Queries that see no key of the tile, all of them being behind the window.
INLINE bool is_behind(const QueryWalk<QUERIES>& walk, int first_key, int window) {
  return WINDOWED && walk.row >= first_key + TILE + walk.shift + window;
}

// Announces the walk's step and has it fetched, and goes on to the unit's next one.
INLINE void plan_step(Control& control, const Inputs& in, u32 steps, int stage) {
  QueryWalk<QUERIES>& walk = control.walk;
  Step& step = control.stages[stage].step;
  const int query = walk.row, rows = walk.rows(), head = control.head * in.group + walk.head;
  const u32 barrier = shared_address(rows < QUERIES ? &control.partial[stage] : &control.steps_full[stage]);
  barrier_expect(barrier, 2 * STEP_BYTES);
  copy_rows<QUERIES>(steps, in.qkv, head * HEAD_DIM, query, barrier);
  copy_rows<QUERIES>(steps + STEP_BYTES, in.dout, head * HEAD_DIM, query, barrier);
  step.query = query;
  step.rows = rows;
  step.from = walk.from;
  step.to = walk.to;
  step.reach = walk.shift + in.window;
  step.stats = head * in.T + query;
  bool more;
  do more = walk.advance(in.group);
  while (more && is_behind(walk, control.first_key, in.window));
  step.more = more;
}

// Half by half, which takes fewer registers.
INLINE void copy_unit(int4* to, const int4* from) {
  to[0] = from[0];
  asm volatile("" ::: "memory");
  to[1] = from[1];
  asm volatile("" ::: "memory");
}

// One thread, to which the walk belongs; registers being few here, it is in shared memory.
INLINE void plan(char* memory, Control& control, const Inputs& in, int* next) {
  const u32 keys_full = shared_address(&control.keys_full), keys = shared_address(memory);
  Place place;
  for (int parity = 1;; parity ^= 1) {
    const int item = atomicAdd(next, 1);
    const bool found = is_listed(in, item);
    barrier_wait(shared_address(&control.keys_free), parity);
    if (!found) {
      // Every block ends with one number too many; the last of these starts the count anew for the next launch.
      const int end = item - ((int)gridDim.x - 1);
      if (end >= 0 && !is_listed(in, end) && (end == 0 || is_listed(in, end - 1))) atomicExch(next, 0);
      control.work.segment = -1;
      barrier_arrive(keys_full);
      barrier_wait(shared_address(&control.steps_free[place.stage]), place.parity ^ 1);
      control.stages[place.stage].step.rows = 0;
      barrier_arrive(shared_address(&control.planned[place.stage]));
      return;
    }
    copy_unit((int4*)&control.work, in.units + 2 * (item / in.Hkv));
    const int head = item % in.Hkv;
    const int first_key = segment_at(in.segments, control.work.segment).start + control.work.index * TILE;
    control.head = head;
    control.first_key = first_key;
    barrier_expect(keys_full, 2 * KEY_BYTES);
    copy_rows<ROWS>(keys, in.qkv, in.k_column + head * HEAD_DIM, first_key, keys_full);
    copy_rows<ROWS>(keys + VALUES_AT, in.qkv, in.v_column + head * HEAD_DIM, first_key, keys_full);
    control.walk.begin(in.segments, control.work);
    asm volatile("" ::: "memory");  // the walk is written before
    control.walk.enter(control.work);
    for (bool more = true; more; place.advance()) {
      barrier_wait(shared_address(&control.steps_free[place.stage]), place.parity ^ 1);
      plan_step(control, in, keys + STEPS_AT + place.stage * 2 * STEP_BYTES, place.stage);
      more = control.stages[place.stage].step.more;
      barrier_arrive(shared_address(&control.planned[place.stage]));
    }
  }
}

// One warp: the statistics of each step. Rows that are not there become zeros, with statistics of zero: they add
// nothing to dk and dv.
INLINE void complete(char* memory, Control& control, const Inputs& in) {
  const int lane = threadIdx.x % WARP;
  u32 parities = 0;  // of the next copies, by stage
  for (Place place;; place.advance()) {
    barrier_wait(shared_address(&control.planned[place.stage]), place.parity);
    const int rows = control.stages[place.stage].step.rows, at = control.stages[place.stage].step.stats;
    if (rows == 0) return;
#pragma unroll
    for (int row = lane; row < QUERIES; row += WARP) {
      const float2 two = row < rows ? in.stats[at + row] : make_float2(0, 0);
      control.stages[place.stage].exponents[row] = two.x;
      control.stages[place.stage].deltas[row] = two.y;
    }
    const u32 full = shared_address(&control.steps_full[place.stage]);
    if (rows < QUERIES) {
      barrier_wait(shared_address(&control.partial[place.stage]), parities >> place.stage & 1);
      parities ^= 1u << place.stage;
      char* const steps = memory + STEPS_AT + place.stage * 2 * STEP_BYTES;
      clear_rows<QUERIES>(steps, rows);
      clear_rows<QUERIES>(steps + STEP_BYTES, rows);
      publish_shared();
      if (lane == 0) barrier_arrive(full);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(full);
  }
}

// ---- the consumers

struct Sums {
  float keys[HEAD_DIM / 8][4], values[HEAD_DIM / 8][4];  // fragments, those of keys without the scale
};

// Whether one of 64 keys, or a warp's 16, is seen by one of the queries, and whether all of them are by all.
INLINE bool some_seen(const Step& step, int key, int keys) {
  return key < step.query + QUERIES && (!WINDOWED || step.query < key + keys - 1 + step.reach);
}
INLINE bool all_seen(const Step& step, int key, int keys) {
  return key + keys - 1 <= step.query && key >= step.from && key + keys <= step.to &&
         (!WINDOWED || step.query + QUERIES - 1 < key + step.reach);
}

// Zeros where a query does not see a key; `key`: the warp's first.
INLINE void hide(float (&p)[QUERIES / 8][4], const Step& step, int key) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int own = key + half * 8 + lane / 4, first = step.query + lane % 4 * 2;
    const int from = own < step.from || own >= step.to ? QUERIES : own - first;  // the queries that see it
    const int to = own + step.reach - first;
#pragma unroll
    for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
      for (int e = 0; e < 2; e++)
        if (8 * n + e < from || (WINDOWED && 8 * n + e >= to)) p[n][2 * half + e] = 0;
  }
}

// One unit: its steps from `place` on, for the warpgroup's 64 keys.
INLINE void consume(Sums& sums, int warp, u32 base, const Control& control, Place& place, float exponent) {
  const int lane = threadIdx.x % WARP, key = control.first_key + warp / 4 * 64, row = key + warp % 4 * 16;
  const u32 keys = base + warp / 4 * 64 * PANEL_ROW_BYTES;
  const u32 full = shared_address(control.steps_full), free = shared_address(control.steps_free);
  float p[QUERIES / 8][4], ds[QUERIES / 8][4];
  u32 weights[QUERIES / 16][4], slopes[QUERIES / 16][4];
  int held = -1;  // the stage that products under way still read
  auto release = [&](int stage) {
    __syncwarp();
    if (lane == 0) barrier_arrive(free + 8 * stage);
  };
  for (bool more = true; more; place.advance()) {
    barrier_wait(full + 8 * place.stage, place.parity);
    const Step step = control.stages[place.stage].step;
    more = step.more;
    if (!some_seen(step, key, 64)) {
      release(place.stage);
      continue;
    }
    const u32 queries = base + STEPS_AT + place.stage * 2 * STEP_BYTES, douts = queries + STEP_BYTES;
    products_begin();
    score<QUERIES>(p, keys, queries);
    products_commit();
    products_wait<1>();  // the sums before
    settled(sums.keys);
    settled(sums.values);
    if (held >= 0) release(held);
    held = place.stage;
    products_begin();
    score<QUERIES>(ds, keys + VALUES_AT, douts);
    products_commit();
    products_wait<1>();  // scores
    settled(p);
    const float* const exponents = control.stages[place.stage].exponents + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < QUERIES / 8; n++) {
      const float2 two = *(const float2*)(exponents + 8 * n);
#pragma unroll
      for (int e = 0; e < 4; e++) p[n][e] = exp2_approx(fmaf(p[n][e], exponent, e % 2 ? two.y : two.x));
    }
    if (!all_seen(step, row, 16)) hide(p, step, row);
    pack<QUERIES>(weights, p);
    products_begin();
    weigh<QUERIES>(sums.values, weights, douts);
    products_commit();
    products_wait<1>();  // dP
    settled(ds);
    const float* const deltas = control.stages[place.stage].deltas + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < QUERIES / 8; n++) {
      const float2 two = *(const float2*)(deltas + 8 * n);
#pragma unroll
      for (int e = 0; e < 4; e++) ds[n][e] = p[n][e] * (ds[n][e] - (e % 2 ? two.y : two.x));
    }
    pack<QUERIES>(slopes, ds);
    products_begin();
    weigh<QUERIES>(sums.keys, slopes, queries);
    products_commit();
  }
  products_wait<0>();
  settled(sums.keys);
  settled(sums.values);
  if (held >= 0) release(held);
}

// A warp's 16 rows of one of the sums to its slot.
INLINE void write_slot(float* slot, const float (&sums)[HEAD_DIM / 8][4], float factor) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++)
      *(float2*)(slot + (half * 8 + lane / 4) * HEAD_DIM + 8 * n + lane % 4 * 2) =
          make_float2(sums[n][2 * half] * factor, sums[n][2 * half + 1] * factor);
}

// `qkv`, `douts`: tiles of BOX rows and 64 columns of the buffer that q, k and v are parts of, q from column 0 on, and
// of dout. units, max_units, slots, stats: attention_backward.cuh. `next`: the number of the next unit and head, 0
// before and after the launch.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_backward_keys_warpgroup(const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap douts,
                                      bf16* dk, bf16* dv, float* slots, const float2* stats, const int4* units,
                                      const int* segments, int* next, int max_units, int T, int Hkv, int group,
                                      int k_column, int v_column, int window, i64 ldd, float scale) {
  extern __shared__ __align__(1024) char memory[];
  Control& control = *(Control*)(memory + CONTROL_AT);
  // The same in all lanes, which the compiler must know to leave products asynchronous.
  const int warp = __shfl_sync(ALL_LANES, threadIdx.x / WARP, 0), lane = threadIdx.x % WARP;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_init(shared_address(&control.planned[stage]), 1);
      barrier_init(shared_address(&control.partial[stage]), 1);
      barrier_init(shared_address(&control.steps_full[stage]), 2);  // copies or zeros, and statistics
      barrier_init(shared_address(&control.steps_free[stage]), CONSUMER_WARPS);
    }
    barrier_init(shared_address(&control.keys_full), 1);
    barrier_init(shared_address(&control.keys_free), CONSUMER_WARPS);
    publish_shared();
  }
  __syncthreads();
  if (warp / 4 == CONSUMERS) {
    registers_release<PRODUCER_REGISTERS>();
    const int items = max_units * Hkv;
    const Inputs in = {&qkv, &douts, stats, units, segments, items, T, Hkv, group, k_column, v_column, window};
    if (threadIdx.x == CONSUMERS * WARPGROUP) plan(memory, control, in, next);
    if (warp == CONSUMER_WARPS + 1) complete(memory, control, in);
    return;
  }
  registers_claim<CONSUMER_REGISTERS>();
  Place place;
  for (int parity = 0;; parity ^= 1) {
    barrier_wait(shared_address(&control.keys_full), parity);
    if (control.work.segment < 0) return;
    Sums sums = {};
    consume(sums, warp, shared_address(memory), control, place, scale * LOG2_E);
    const Work work = control.work;  // only now: registers are short before
    const int head = control.head;
    __syncwarp();
    if (lane == 0) barrier_arrive(shared_address(&control.keys_free));
    const Segment s = segment_at(segments, work.segment);
    if (work.slot < 0) {
      const int row = work.index * TILE + warp * 16, count = s.length - row;
      const i64 at = (s.start + row) * ldd + head * HEAD_DIM;
      const float scales[2] = {scale, scale}, ones[2] = {1, 1};
      char* const staging = memory + OUT_AT + warp * 16 * HEAD_DIM * 2;
      write_rows(dk + at, ldd, sums.keys, scales, staging, count);
      write_rows(dv + at, ldd, sums.values, ones, staging, count);
    } else {
      float* const slot = slots + (((i64)work.slot * Hkv + head) * 2 * TILE + warp * 16) * HEAD_DIM;
      write_slot(slot, sums.keys, scale);
      write_slot(slot + TILE * HEAD_DIM, sums.values, 1.0f);
    }
  }
}
