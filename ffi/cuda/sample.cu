// Draws one token per sequence from a row of logits, a block each.
//   sample   ids (B) =, logprob (B) =, sampling_logprob (B) =
// In the order transformers applies them: repetition penalty (Keskar et al. 2019; over prompt and completion, kept as
// a bit set per slot), temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024). `logprob` is of
// softmax(logits / temperature) before penalty and truncation: bit for bit what log_softmax_forward gives for the
// token; `sampling_logprob` is of the distribution really drawn from. greedy: the largest logit, the lowest id among
// equals. A row that is not finite gives −1.
//
// The random number is Philox4x32-10 under the key (seed, stream), counted by the sequence's (position, sample, prompt,
// step), so it does not depend on the batch. counters (B, 5): those four, then the slot. The token is the first, by
// ascending id among those kept, at which the running sum passes the random share of the total. Sums are of whole
// numbers, multiples of 2⁻⁴⁴ of the largest exponential, so that their order does not matter.
#include "sampling.cuh"

// Ids that a warp reads at once.
constexpr int STRIDE = WARP * SOFTMAX_UNIT;

// The first id at which the running mass of kept tokens passes `share` / 2⁵³ of their total: each round cuts the ids
// among the warps and goes on with the one that holds the crossing. Only one thread gets the answer, the others −1.
INLINE int draw(const Row& row, const Kept& kept, u64 share, u64* sums, u64* total) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  int low = 0, high = row.size;
  u64 before = 0, target = 0;
  bool whole = true;
  do {
    const int width = ceil_div(high - low, warps * STRIDE) * STRIDE;
    const int from = low + warp * width, to = smaller(from + width, high);
    u64 sum = 0;
    row.each(from + lane * SOFTMAX_UNIT, to, STRIDE, [&](int id, float z) { sum += kept.mass(row, id, z); });
    sum = lanes_reduce(sum, Add());
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    if (whole) {
      *total = 0;
      for (int w = 0; w < warps; w++) *total += sums[w];
      target = __umul64hi(share << 11, *total);
      whole = false;
    }
    int w = 0;
    while (w < warps - 1 && before + sums[w] <= target) before += sums[w++];
    low += w * width;
    high = smaller(low + width, high);
    __syncthreads();  // `sums` is written again
  } while (warps > 1 && high - low > STRIDE);

  if (warp > 0) return -1;
  int found = -1;
  for (int from = low; from < high && before <= target; from += STRIDE) {
    const int first = from + lane * SOFTMAX_UNIT, last = smaller(from + STRIDE, high);
    u64 mine = 0;
    row.each(first, last, STRIDE, [&](int id, float z) { mine += kept.mass(row, id, z); });
    const u64 scanned = lanes_scan(mine);
    u64 running = before + scanned - mine;
    if (running <= target && target < running + mine)
      row.each(first, last, STRIDE, [&](int id, float z) {
        running += kept.mass(row, id, z);
        if (found < 0 && running > target) found = id;
      });
    before += __shfl_sync(ALL_LANES, scanned, WARP - 1);
  }
  return found;
}

// Tokens that a block works on in shared memory once top-k or top-p has left no more; a power of two.
constexpr int LISTED = 1024;

struct List {
  u64 keys[LISTED];    // id and score's bits, ascending
  u64 masses[LISTED];  // 0 of tokens that are not kept
  u64 whole;           // mass of the row, for top-p alone
  int count;
};

// The mass at which top-p stops: at least 1, for the first token is kept.
INLINE u64 share_of(float top_p, u64 mass) {
  const u64 target = __double2ull_ru((double)top_p * (double)mass);
  return target < 1 ? 1 : target > mass ? mass : target;
}

INLINE int id_of(u64 key) { return (int)(key >> 32); }
INLINE float score_of(u64 key) { return __uint_as_float((u32)key); }

// Lists the tokens among which top-k, else top-p, finds its last one, and all before it: those up to a bin of the first digit,
// by one reading of the row for the bins and one for the list. False if there are more than the list holds.
template <bool BY_MASS>
INLINE bool list_first(const Row& row, int top_k, float top_p, List& list, Shared& shared) {
  const int first = threadIdx.x * SOFTMAX_UNIT, step = blockDim.x * SOFTMAX_UNIT;
  for (int i = threadIdx.x; i < BINS; i += blockDim.x) {
    shared.counts[i] = 0;
    if (BY_MASS) shared.low[i] = shared.high[i] = 0;
  }
  if (threadIdx.x == 0) shared.before = 0, list.count = 0;
  __syncthreads();
  u64 all = 0;
  row.each(first, row.size, step, [&](int id, float z) {
    const u32 bin = digit(token_of(row, z, id), 0);
    atomicAdd(&shared.counts[bin], 1u);
    if (!BY_MASS) return;
    const u64 mass = row.mass(z);
    all += mass;
    const u32 low = (u32)mass, old = atomicAdd(&shared.low[bin], low);
    const u32 high = (u32)(mass >> 32) + (old + low < old);  // carried by the one addition that overflows
    if (high > 0) atomicAdd(&shared.high[bin], high);
  });
  u64 target = top_k;
  if (BY_MASS) {
    all = block_reduce(all, Add(), shared.sums);
    if (threadIdx.x == 0) list.whole = all;
    target = share_of(top_p, all);
  }
  __syncthreads();
  if (threadIdx.x < WARP) pick_bin(BY_MASS, target, shared);
  __syncthreads();
  const u32 last = shared.bin;
  int mine = 0;
  for (int i = threadIdx.x; i <= last; i += blockDim.x) mine += shared.counts[i];
  const int count = block_reduce(mine, Add(), shared.ints);
  if (count > LISTED) return false;

  row.each(first, row.size, step, [&](int id, float z) {
    if (digit(token_of(row, z, id), 0) > last) return;
    list.keys[atomicAdd(&list.count, 1)] = (u64)id << 32 | __float_as_uint(z);
  });
  int size = 1;
  while (size < count) size *= 2;
  for (int i = count + threadIdx.x; i < size; i += blockDim.x) list.keys[i] = ~0ull;
  __syncthreads();
  // bitonic sort (Batcher 1968): whatever order they came in, they end in that of their ids
  for (int run = 2; run <= size; run *= 2)
    for (int apart = run / 2; apart > 0; apart /= 2) {
      for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const int other = i ^ apart;
        if (other < i) continue;
        const u64 a = list.keys[i], b = list.keys[other];
        if ((a > b) == ((i & run) == 0)) list.keys[i] = b, list.keys[other] = a;
      }
      __syncthreads();
    }
  return true;
}

// Sets to 0 the masses of listed tokens that are ranked beyond the one at which the running measure, of a count of tokens or of
// mass, reaches `target`.
template <bool BY_MASS>
INLINE void cut(List& list, u64 target) {
  constexpr int EACH = LISTED / WARP;
  u32 dropped[EACH / WARP] = {};  // bit per token of this thread, for blocks of a warp or more
  int n = 0;
  for (int i = threadIdx.x; i < list.count; i += blockDim.x, n++) {
    const u64 rank = rank_of(score_of(list.keys[i]), id_of(list.keys[i]));
    u64 running = 0;
    for (int j = 0; j < list.count; j++)
      if (rank_of(score_of(list.keys[j]), id_of(list.keys[j])) < rank) running += BY_MASS ? list.masses[j] : 1;
    if (running >= target) dropped[n / WARP] |= 1u << n % WARP;
  }
  __syncthreads();
  n = 0;
  for (int i = threadIdx.x; i < list.count; i += blockDim.x, n++)
    if (dropped[n / WARP] >> n % WARP & 1) list.masses[i] = 0;
  __syncthreads();
}

INLINE u64 listed_mass(const List& list, u64* sums) {
  u64 mass = 0;
  for (int i = threadIdx.x; i < list.count; i += blockDim.x) mass += list.masses[i];
  return block_reduce(mass, Add(), sums);
}

// As `draw`, from the list: the first warp goes through the ids in their order.
INLINE int draw_listed(const List& list, u64 share, u64* sums, u64* total) {
  *total = listed_mass(list, sums);
  if (threadIdx.x >= WARP) return -1;
  const u64 target = __umul64hi(share << 11, *total);
  u64 before = 0;
  int found = -1;
  for (int from = 0; from < list.count && before <= target; from += WARP) {
    const int i = from + threadIdx.x;
    const u64 mine = i < list.count ? list.masses[i] : 0, scanned = lanes_scan(mine);
    const u64 running = before + scanned;
    if (running - mine <= target && target < running) found = id_of(list.keys[i]);
    before += __shfl_sync(ALL_LANES, scanned, WARP - 1);
  }
  return found;
}

// What top-k, top-p and min-p keep, drawn from in shared memory; false, and nothing done, if too many tokens are left.
INLINE bool draw_from_list(const Row& row, int top_k, float top_p, float min_p, u64 share, List& list, Shared& shared,
                           int* id, u64* total) {
  const bool counts = top_k > 0 && top_k < row.size;
  if (!counts && !(top_p < 1.0f)) return false;
  if (counts ? !list_first<false>(row, top_k, top_p, list, shared) : !list_first<true>(row, top_k, top_p, list, shared))
    return false;
  for (int i = threadIdx.x; i < list.count; i += blockDim.x) list.masses[i] = row.mass(score_of(list.keys[i]));
  __syncthreads();
  if (counts) cut<false>(list, top_k);
  if (top_p < 1.0f) {
    // without top-k the list is a part of the row, whose mass gave the bins
    const u64 mass = counts ? listed_mass(list, shared.sums) : list.whole;
    cut<true>(list, share_of(top_p, mass));
  }
  if (min_p > 0)
    for (int i = threadIdx.x; i < list.count; i += blockDim.x) {
      const float z = score_of(list.keys[i]);
      if (z != row.top && expf(__fsub_rn(z, row.top)) < min_p) list.masses[i] = 0;
    }
  __syncthreads();
  *id = draw_listed(list, share, shared.sums, total);
  return true;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sample(int* ids, float* logprob, float* sampling_logprob, const float* logits, const int* logit_row,
           const int* counters, u32* seen, int vocabulary, u32 seed, u32 stream, int greedy, float inverse_temperature,
           int top_k, float top_p, float min_p, float repetition_penalty) {
  __shared__ Shared shared;
  __shared__ List list;
  const int b = blockIdx.x;
  const int* counter = counters + b * 5;
  const float* values = logits + (i64)logit_row[b] * vocabulary;
  u32* marks = seen ? seen + (i64)counter[4] * ceil_div(vocabulary, 32) : nullptr;

  const RowStatistics full = row_statistics(values, vocabulary, inverse_temperature, shared.floats);
  Row row = {values, marks, vocabulary, inverse_temperature, repetition_penalty, full.max};
  if (marks) {
    float top = -INFINITY;
    row.each(threadIdx.x * SOFTMAX_UNIT, vocabulary, blockDim.x * SOFTMAX_UNIT,
             [&](int, float z) { top = fmaxf(top, z); });
    row.top = block_reduce(top, Max(), shared.floats);
  }
  if (!(full.lse - full.lse == 0) || !(row.top - row.top == 0)) {  // NaN or infinite
    if (threadIdx.x == 0) {
      ids[b] = -1;
      logprob[b] = sampling_logprob[b] = full.lse;
    }
    return;
  }

  Kept kept = {LAST_RANK, 0.0f};
  u64 total = 0;
  int id = -1;
  const bool truncate = !greedy && (top_k > 0 || top_p < 1.0f || min_p > 0.0f);
  if (greedy) {
    int lowest = vocabulary;
    row.each(threadIdx.x * SOFTMAX_UNIT, vocabulary, blockDim.x * SOFTMAX_UNIT, [&](int i, float z) {
      if (z == row.top && i < lowest) lowest = i;
      if (marks) total += row.mass(z);
    });
    lowest = block_reduce(lowest, Min(), shared.ints);
    total = block_reduce(total, Add(), shared.sums);
    if (threadIdx.x == 0) id = lowest;
  } else {
    const u64 share = philox_bits(counter[0], counter[1], counter[2], counter[3], seed, stream);
    if (!draw_from_list(row, top_k, top_p, min_p, share, list, shared, &id, &total)) {
      if (top_k > 0 && top_k < vocabulary) kept.last = last_kept<false>(row, kept.last, top_k, shared);
      if (top_p < 1.0f)
        kept.last = last_kept<true>(row, kept.last, share_of(top_p, kept_mass(row, kept, shared)), shared);
      kept.least = min_p;
      id = draw(row, kept, share, shared.sums, &total);
    }
  }
  if (id < 0) return;
  const float untouched = row_logprob(values[id], inverse_temperature, full);
  ids[b] = id;
  logprob[b] = untouched;
  sampling_logprob[b] =
      marks || truncate ? row.score(id) - row.top - logf((float)total * (1.0f / MASS_ONE)) : untouched;
  if (marks) marks[id >> 5] |= 1u << (id & 31);
}
