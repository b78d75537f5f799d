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

extern "C" __global__ void __launch_bounds__(THREADS)
    sample(int* ids, float* logprob, float* sampling_logprob, const float* logits, const int* logit_row,
           const int* counters, u32* seen, int vocabulary, u32 seed, u32 stream, int greedy, float inverse_temperature,
           int top_k, float top_p, float min_p, float repetition_penalty) {
  __shared__ Shared shared;
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
    if (top_k > 0 && top_k < vocabulary) kept.last = last_kept<false>(row, kept.last, top_k, shared);
    if (top_p < 1.0f) {
      const u64 mass = kept_mass(row, kept, shared);
      const u64 target = __double2ull_ru((double)top_p * (double)mass);
      kept.last = last_kept<true>(row, kept.last, target < 1 ? 1 : target > mass ? mass : target, shared);
    }
    kept.least = min_p;
    const u64 share = philox_bits(counter[0], counter[1], counter[2], counter[3], seed, stream);
    id = draw(row, kept, share, shared.sums, &total);
  }
  if (id < 0) return;
  const float untouched = row_logprob(values[id], inverse_temperature, full);
  ids[b] = id;
  logprob[b] = untouched;
  sampling_logprob[b] =
      marks || truncate ? row.score(id) - row.top - logf((float)total * (1.0f / MASS_ONE)) : untouched;
  if (marks) marks[id >> 5] |= 1u << (id & 31);
}
