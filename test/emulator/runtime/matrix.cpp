// ldmatrix and mma.sync, for the whole warp at once. Fragment layouts as in the PTX manual, "Matrix fragments for mma.m16n8k16"
// and so on: group = lane / 4 is a row of A and C and a column of B; pair = lane % 4 counts along the other dimension.
#include <cstring>

#include "check.h"
#include "state.h"
#include "truncate.h"

namespace emulator {
namespace {

constexpr int ROWS = 16, COLUMNS = 8, MOST_DEPTH = 16;

// Half a row of the result: fits a register on every processor. A wider one would be kept in memory on some.
typedef float Half __attribute__((vector_size(16)));

// The words of every lane; see MatrixStep.
using Words = u32* const*;

float number(u32 bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

float half(u32 bits) {
  u32 sign = (bits & 0x8000) << 16, rest = bits & 0x7fff;
  if (rest >= 0x7c00) return number(sign | 0x7f800000 | rest << 13);
  if (rest >= 0x0400) return number(sign | ((rest << 13) + 0x38000000));
  float value = (float)rest * 0x1p-24f;
  return sign ? -value : value;
}

// The two numbers in a register.
template <bool BF16>
void unpack(u32 bits, float* low, float* high) {
  *low = BF16 ? number(bits << 16) : half(bits & 0xffff);
  *high = BF16 ? number(bits & 0xffff0000u) : half(bits >> 16);
}

struct Tiles {
  alignas(64) float a[ROWS][MOST_DEPTH], b[MOST_DEPTH][COLUMNS], c[ROWS][COLUMNS];
};

template <bool BF16, int DEPTH>
void gather_pairs(const MatrixStep& step, Words words, Tiles& t) {
  for (int lane = 0; lane < (int)LANES; lane++) {
    const u32* own = words[lane];
    int group = lane / 4, pair = lane % 4 * 2;
    // a0: row group, a1: row group + 8, a2 and a3: the same rows, eight columns further.
    for (int i = 0; i < DEPTH / 4; i++) {
      float* to = &t.a[group + i % 2 * 8][pair + i / 2 * 8];
      unpack<BF16>(own[step.a[i]], to, to + 1);
    }
    for (int i = 0; i < DEPTH / 8; i++)
      unpack<BF16>(own[step.b[i]], &t.b[pair + i * 8][group], &t.b[pair + 1 + i * 8][group]);
  }
}

template <int DEPTH>
void gather_tf32(const MatrixStep& step, Words words, Tiles& t) {
  for (int lane = 0; lane < (int)LANES; lane++) {
    const u32* own = words[lane];
    int group = lane / 4, one = lane % 4;
    // The hardware uses the upper 19 bits.
    for (int i = 0; i < DEPTH / 2; i++) t.a[group + i % 2 * 8][one + i / 2 * 4] = number(own[step.a[i]] & 0xffffe000u);
    for (int i = 0; i < DEPTH / 4; i++) t.b[one + i * 4][group] = number(own[step.b[i]] & 0xffffe000u);
  }
}

// Products are added in the order of k. Two rows at once, so that sums do not wait for each other.
void add_rounded(Tiles& t, int depth) {
  for (int row = 0; row < ROWS; row += 2) {
    Half sum[4];
    memcpy(sum, t.c[row], sizeof sum);
    for (int k = 0; k < depth; k++) {
      Half b[2];
      memcpy(b, t.b[k], sizeof b);
      float first = t.a[row][k], second = t.a[row + 1][k];
      sum[0] += first * b[0];
      sum[1] += first * b[1];
      sum[2] += second * b[0];
      sum[3] += second * b[1];
    }
    memcpy(t.c[row], sum, sizeof sum);
  }
}

void add_truncated(Tiles& t, int depth, const Accumulation& how) {
  for (int row = 0; row < ROWS; row++)
    for (int column = 0; column < COLUMNS; column++)
      t.c[row][column] = truncated_sum(t.c[row][column], t.a[row], &t.b[0][column], COLUMNS, depth, how);
}

void multiply(const MatrixStep& step, Words words, const Accumulation& how) {
  Tiles t;
  int depth = 16;
  switch (step.kind) {
    case MMA_BF16_K16: gather_pairs<true, 16>(step, words, t); break;
    case MMA_BF16_K8:
      gather_pairs<true, 8>(step, words, t);
      depth = 8;
      break;
    case MMA_F16_K16: gather_pairs<false, 16>(step, words, t); break;
    case MMA_F16_K8:
      gather_pairs<false, 8>(step, words, t);
      depth = 8;
      break;
    case MMA_TF32_K8:
      gather_tf32<8>(step, words, t);
      depth = 8;
      break;
    case MMA_TF32_K4:
      gather_tf32<4>(step, words, t);
      depth = 4;
      break;
  }
  // Rows group and group + 8, two columns each.
  for (int lane = 0; lane < (int)LANES; lane++)
    for (int i = 0; i < 4; i++) t.c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = number(words[lane][step.c[i]]);
  if (how.products) add_truncated(t, depth, how);
  else add_rounded(t, depth);
  for (int lane = 0; lane < (int)LANES; lane++)
    for (int i = 0; i < 4; i++) memcpy(&words[lane][step.d[i]], &t.c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], 4);
}

// Row r of matrix m is at the address given by lane 8·m + r.
void load(const MatrixStep& step, Words words, Thread* const* lanes) {
  Checker* checker = lanes[0]->check ? lanes[0]->block->worker->checker.get() : nullptr;
  bool transposed = step.kind == MATRIX_LOAD_TRANSPOSED;
  u32 rows[LANES];
  for (u32 lane = 0; lane < step.b[0] * 8u; lane++) rows[lane] = words[lane][step.a[0]];
  for (u32 m = 0; m < step.b[0]; m++) {
    u16 matrix[8][8];
    for (u32 r = 0; r < 8; r++) {
      Thread* lane = lanes[m * 8 + r];
      u32 address = rows[m * 8 + r];
      memcpy(matrix[r], checker ? checker->access_row(lane, address, step.site) : lane->shared + address, 16);
    }
    if (checker) checker->count_rows(rows + m * 8, step.site);
    for (u32 lane = 0; lane < LANES; lane++) {
      u32 group = lane / 4, pair = lane % 4 * 2;
      u16 low = transposed ? matrix[pair][group] : matrix[group][pair];
      u16 high = transposed ? matrix[pair + 1][group] : matrix[group][pair + 1];
      words[lane][step.d[m]] = low | (u32)high << 16;
    }
  }
}

struct Operand {
  const MatrixGroup* group;
  u32* words;
  int site;
};

void carry_out(void* const* operands, u32, Thread* const* lanes) {
  auto& first = *(Operand*)operands[0];
  u32* words[LANES];
  for (u32 lane = 0; lane < LANES; lane++) {
    auto& own = *(Operand*)operands[lane];
    words[lane] = own.words;
    if (own.group == first.group) continue;
    report_fault(lanes[lane], own.site, "divergent-warp", "lane 0 meets it in another instruction");
    abandon(*lanes[0]->block->worker, Outcome::launch_failed);
  }
  for (u32 i = 0; i < first.group->count; i++) {
    const MatrixStep& step = first.group->steps[i];
    if (step.kind < MATRIX_LOAD) multiply(step, words, lanes[0]->block->worker->accumulation);
    else load(step, words, lanes);
  }
}

}  // namespace

// .aligned: all 32 lanes or none.
void matrices(Thread* me, const MatrixGroup* group, u32* words, int site) {
  if (__builtin_expect(me->warp->live != ~0u, 0)) {
    report_fault(me, site, "warp-mask", "needs all 32 lanes; %08x are there", me->warp->live);
    abandon(*me->block->worker, Outcome::launch_failed);
  }
  Operand own{group, words, site};
  rendezvous(me, ~0u, carry_out, &own, site);
}

}  // namespace emulator
