// ldmatrix and mma.sync, for the whole warp at once. Layouts of fragments as in the PTX manual, "Matrix fragments for
// mma.m16n8k16" and so on: group = lane / 4 is a row of A and C and a column of B, pair = lane % 4 counts along the rest.
#include <cstring>

#include "check.h"
#include "state.h"

namespace emulator {
namespace {

constexpr int ROWS = 16, COLUMNS = 8, MOST_DEPTH = 16;

// One row of the result; two of them in a register where the processor has 256 bits.
typedef float Row __attribute__((vector_size(COLUMNS * sizeof(float))));

struct Multiply {
  const u32 *a, *b, *c;
  u32* d;
  int kind, site;
};

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

// The two numbers of a register.
template <bool BF16>
void unpack(u32 bits, float* low, float* high) {
  *low = BF16 ? number(bits << 16) : half(bits & 0xffff);
  *high = BF16 ? number(bits & 0xffff0000u) : half(bits >> 16);
}

struct Tiles {
  alignas(64) float a[ROWS][MOST_DEPTH], b[MOST_DEPTH][COLUMNS], c[ROWS][COLUMNS];
};

template <bool BF16, int DEPTH>
void gather_pairs(void* const* operands, Tiles& t) {
  for (int lane = 0; lane < (int)LANES; lane++) {
    auto& own = *(Multiply*)operands[lane];
    int group = lane / 4, pair = lane % 4 * 2;
    // a0: row group, a1: row group + 8, a2 and a3: the same rows, eight columns further.
    for (int i = 0; i < DEPTH / 4; i++) {
      float* to = &t.a[group + i % 2 * 8][pair + i / 2 * 8];
      unpack<BF16>(own.a[i], to, to + 1);
    }
    for (int i = 0; i < DEPTH / 8; i++) unpack<BF16>(own.b[i], &t.b[pair + i * 8][group], &t.b[pair + 1 + i * 8][group]);
  }
}

template <int DEPTH>
void gather_tf32(void* const* operands, Tiles& t) {
  for (int lane = 0; lane < (int)LANES; lane++) {
    auto& own = *(Multiply*)operands[lane];
    int group = lane / 4, one = lane % 4;
    // The hardware takes the upper 19 bits.
    for (int i = 0; i < DEPTH / 2; i++) t.a[group + i % 2 * 8][one + i / 2 * 4] = number(own.a[i] & 0xffffe000u);
    for (int i = 0; i < DEPTH / 4; i++) t.b[one + i * 4][group] = number(own.b[i] & 0xffffe000u);
  }
}

void multiply_lanes(void* const* operands, u32, Thread* const*) {
  Tiles t;
  int depth = 16;
  switch (((Multiply*)operands[0])->kind) {
    case MMA_BF16_K16: gather_pairs<true, 16>(operands, t); break;
    case MMA_BF16_K8: gather_pairs<true, 8>(operands, t); depth = 8; break;
    case MMA_F16_K16: gather_pairs<false, 16>(operands, t); break;
    case MMA_F16_K8: gather_pairs<false, 8>(operands, t); depth = 8; break;
    case MMA_TF32_K8: gather_tf32<8>(operands, t); depth = 8; break;
    case MMA_TF32_K4: gather_tf32<4>(operands, t); depth = 4; break;
  }
  for (int lane = 0; lane < (int)LANES; lane++) {
    auto& own = *(Multiply*)operands[lane];
    int group = lane / 4, pair = lane % 4 * 2;
    memcpy(&t.c[group][pair], own.c, 8);
    memcpy(&t.c[group + 8][pair], own.c + 2, 8);
  }
  for (int row = 0; row < ROWS; row++) {
    Row sum;
    memcpy(&sum, t.c[row], sizeof sum);
    for (int k = 0; k < depth; k++) {
      Row b;
      memcpy(&b, t.b[k], sizeof b);
      sum += t.a[row][k] * b;
    }
    memcpy(t.c[row], &sum, sizeof sum);
  }
  for (int lane = 0; lane < (int)LANES; lane++) {
    auto& own = *(Multiply*)operands[lane];
    int group = lane / 4, pair = lane % 4 * 2;
    memcpy(own.d, &t.c[group][pair], 8);
    memcpy(own.d + 2, &t.c[group + 8][pair], 8);
  }
}

struct Load {
  u32 address, matrices;
  int transposed, site;
  u32* d;
};

// Row r of matrix m lies at the address that lane 8·m + r gives.
void load_lanes(void* const* operands, u32, Thread* const* lanes) {
  auto& first = *(Load*)operands[0];
  Checker* checker = lanes[0]->check ? lanes[0]->block->worker->checker.get() : nullptr;
  for (u32 m = 0; m < first.matrices; m++) {
    u16 matrix[8][8];
    u32 rows[8];
    for (u32 r = 0; r < 8; r++) {
      Thread* lane = lanes[m * 8 + r];
      rows[r] = ((Load*)operands[m * 8 + r])->address;
      const char* row = checker ? checker->access_row(lane, rows[r], first.site) : lane->shared + rows[r];
      memcpy(matrix[r], row, 16);
    }
    if (checker) checker->count_rows(rows, first.site);
    for (u32 lane = 0; lane < LANES; lane++) {
      u32 group = lane / 4, pair = lane % 4 * 2;
      u16 low = first.transposed ? matrix[pair][group] : matrix[group][pair];
      u16 high = first.transposed ? matrix[pair + 1][group] : matrix[group][pair + 1];
      ((Load*)operands[lane])->d[m] = low | (u32)high << 16;
    }
  }
}

// .aligned: all 32 lanes or none.
void require_whole_warp(Thread* me, int site) {
  if (me->warp->live == ~0u) return;
  report_fault(me, site, "warp-mask", "needs all 32 lanes; %08x are there", me->warp->live);
  abandon(*me->block->worker, Outcome::launch_failed);
}

}  // namespace

void mma(Thread* me, int kind, const u32* a, const u32* b, const u32* c, u32* d, int site) {
  require_whole_warp(me, site);
  Multiply own{a, b, c, d, kind, site};
  rendezvous(me, ~0u, multiply_lanes, &own, site);
}

void ldmatrix(Thread* me, u32 address, u32 matrices, int transposed, u32* d, int site) {
  require_whole_warp(me, site);
  Load own{address, matrices, transposed, site, d};
  rendezvous(me, ~0u, load_lanes, &own, site);
}

}  // namespace emulator
