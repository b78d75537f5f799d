// wgmma: products of four warps with operands in shared memory. Each warp computes its own 16 rows at the issue; that its
// registers and the shared memory are left alone until the wait is checked. Layouts: PTX manual, "Asynchronous warpgroup level
// matrix shared memory layout". Leaves out other types than bfloat16 and other swizzles than 128 bytes.
#include <algorithm>
#include <cstring>

#include "check.h"
#include "state.h"
#include "truncate.h"

namespace emulator {
namespace {

constexpr u32 WARPGROUP_WARPS = 4, ROWS = 16, DEPTH = 16, MOST_COLUMNS = 256, PANEL = 64 /* columns */;

typedef float Four __attribute__((vector_size(16)));

float number(u32 bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// An operand in shared memory.
struct Matrix {
  u32 start, leading, stride;
  // The 16 bytes that hold element (line, 8·part …) of a K-major operand, or (k, 8·part …) of an MN-major one.
  u32 chunk(bool mn_major, u32 line, u32 part) const {
    u32 at = mn_major ? part / 8 * leading + line / 8 * stride + line % 8 * 128 + part % 8 * 16
                      : line / 8 * stride + line % 8 * 128 + part * 16;
    at += start;
    return at ^ (at >> 3 & 0x70);
  }
};

struct Operand {
  const WarpgroupStep* step;
  u64 a, b;
  u32 add;
  u32* words;
};

struct Tiles {
  alignas(64) float a[ROWS][DEPTH], b[DEPTH][MOST_COLUMNS], c[ROWS][MOST_COLUMNS];
};

Matrix described(Thread* me, u64 bits, bool uses_leading, int site) {
  Matrix matrix{(u32)(bits & 0x3fff) << 4, (u32)(bits >> 16 & 0x3fff) << 4, (u32)(bits >> 32 & 0x3fff) << 4};
  const char* wrong = nullptr;
  if (bits >> 62 != 1) wrong = "another swizzle than 128 bytes, which the emulator does not know";
  else if (bits >> 49 & 7) wrong = "a base offset, which the emulator does not know";
  else if (matrix.start & 0x380) wrong = "a start beyond the first row of a pattern of 1024 bytes";
  else if (matrix.stride & 0x3ff || (uses_leading && matrix.leading & 0x3ff))
    wrong = "offsets that are not multiples of 1024 bytes";
  if (wrong) {
    report_fault(me, site, "descriptor", "the descriptor %#llx has %s", bits, wrong);
    abandon(*me->block->worker, Outcome::launch_failed);
  }
  return matrix;
}

// Reads operands of this warp, and notes what was read until the product has been waited for.
class Reader {
 public:
  Reader(Thread* me, int site) : me_(me), worker_(*me->block->worker), queue_(worker_.products[me->flat / LANES]), site_(site) {}
  const u16* at(u32 address) {
    if (worker_.check) {
      worker_.checker->product_issued(me_, address, site_);
      queue_.reads.push_back({queue_.committed, address, worker_.checker->clocks().latest(), site_});
    }
    return (const u16*)(me_->shared + address);
  }

 private:
  Thread* me_;
  Worker& worker_;
  ProductQueue& queue_;
  int site_;
};

void gather(const WarpgroupStep& step, const Operand* const* lanes, Thread* me, Tiles& t) {
  Reader reader(me, step.site);
  u32 warp = me->flat / LANES % WARPGROUP_WARPS;
  if (step.a_in_registers) {
    for (u32 lane = 0; lane < LANES; lane++)
      for (u32 i = 0; i < 4; i++) {
        u32 pair = lanes[lane]->words[step.columns / 2 + i];
        float* to = &t.a[lane / 4 + i % 2 * 8][lane % 4 * 2 + i / 2 * 8];
        to[0] = number(pair << 16);
        to[1] = number(pair & 0xffff0000u);
      }
  } else {
    Matrix a = described(me, lanes[0]->a, false, step.site);
    for (u32 row = 0; row < ROWS; row++)
      for (u32 part = 0; part < 2; part++) {
        const u16* from = reader.at(a.chunk(false, warp * ROWS + row, part));
        for (u32 i = 0; i < 8; i++) t.a[row][part * 8 + i] = number((u32)from[i] << 16);
      }
  }
  Matrix b = described(me, lanes[0]->b, step.b_transposed && step.columns > PANEL, step.site);
  if (step.b_transposed) {
    for (u32 k = 0; k < DEPTH; k++)
      for (u32 part = 0; part < step.columns / 8u; part++) {
        const u16* from = reader.at(b.chunk(true, k, part));
        for (u32 i = 0; i < 8; i++) t.b[k][part * 8 + i] = number((u32)from[i] << 16);
      }
  } else {
    for (u32 column = 0; column < step.columns; column++)
      for (u32 part = 0; part < 2; part++) {
        const u16* from = reader.at(b.chunk(false, column, part));
        for (u32 i = 0; i < 8; i++) t.b[part * 8 + i][column] = number((u32)from[i] << 16);
      }
  }
}

// Products are added in the order of k, each sum rounded.
void add_rounded(Tiles& t, u32 columns) {
  for (u32 row = 0; row < ROWS; row++)
    for (u32 column = 0; column < columns; column += 8) {
      Four sum[2];
      memcpy(sum, &t.c[row][column], sizeof sum);
      for (u32 k = 0; k < DEPTH; k++) {
        Four b[2];
        memcpy(b, &t.b[k][column], sizeof b);
        sum[0] += t.a[row][k] * b[0];
        sum[1] += t.a[row][k] * b[1];
      }
      memcpy(&t.c[row][column], sum, sizeof sum);
    }
}

void carry_out(void* const* operands, u32, Thread* const* lanes) {
  Worker& worker = *lanes[0]->block->worker;
  const Operand* own[LANES];
  for (u32 lane = 0; lane < LANES; lane++) own[lane] = (const Operand*)operands[lane];
  const WarpgroupStep& step = *own[0]->step;
  for (u32 lane = 1; lane < LANES; lane++)
    if (own[lane]->step != &step || own[lane]->b != own[0]->b || own[lane]->add != own[0]->add ||
        (!step.a_in_registers && own[lane]->a != own[0]->a)) {
      report_fault(lanes[lane], step.site, "divergent-warp", "lane 0 has another instruction, descriptor or scale");
      abandon(worker, Outcome::launch_failed);
    }
  static thread_local Tiles t;
  gather(step, own, lanes[0], t);
  for (u32 lane = 0; lane < LANES; lane++)
    for (u32 i = 0; i < step.columns / 2u; i++)
      t.c[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2] = own[0]->add ? number(own[lane]->words[i]) : 0;
  if (worker.accumulation.products) {
    for (u32 row = 0; row < ROWS; row++)
      for (u32 column = 0; column < step.columns; column++)
        t.c[row][column] =
            truncated_sum(t.c[row][column], t.a[row], &t.b[0][column], MOST_COLUMNS, DEPTH, worker.accumulation);
  } else {
    add_rounded(t, step.columns);
  }
  for (u32 lane = 0; lane < LANES; lane++)
    for (u32 i = 0; i < step.columns / 2u; i++)
      memcpy(&own[lane]->words[i], &t.c[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2], 4);
  ProductQueue& queue = worker.products[lanes[0]->flat / LANES];
  queue.issued++;
  queue.open++;
  queue.site = step.site;
}

void meet(Thread* me, WarpOperation operation, void* operand, int site) {
  if (__builtin_expect(me->warp->live != ~0u, 0)) {
    report_fault(me, site, "warp-mask", "needs all 32 lanes; %08x are there", me->warp->live);
    abandon(*me->block->worker, Outcome::launch_failed);
  }
  rendezvous(me, ~0u, operation, operand, site);
}

}  // namespace

void warpgroup_product(Thread* me, const WarpgroupStep* step, u64 a, u64 b, u32 add, u32* words) {
  Operand own{step, a, b, add, words};
  meet(me, carry_out, &own, step->site);
}

void warpgroup_sync(Thread* me, int site) {
  meet(me, [](void* const*, u32, Thread* const*) {}, nullptr, site);
}

void warpgroup_commit(Thread* me, int site) {
  meet(
      me,
      [](void* const*, u32, Thread* const* lanes) {
        ProductQueue& queue = lanes[0]->block->worker->products[lanes[0]->flat / LANES];
        queue.committed++;
        queue.open = 0;
      },
      nullptr, site);
}

void warpgroup_wait(Thread* me, u32 groups_left, int site) {
  meet(
      me,
      [](void* const* operands, u32, Thread* const* lanes) {
        Thread* one = lanes[0];
        Worker& worker = *one->block->worker;
        ProductQueue& queue = worker.products[one->flat / LANES];
        u32 left = *(u32*)operands[0];
        if (queue.committed < left || queue.committed - left <= queue.done) return;
        queue.done = queue.committed - left;
        size_t over = 0;
        for (; over < queue.reads.size() && queue.reads[over].group < queue.done; over++) {
          const ProductQueue::Read& read = queue.reads[over];
          worker.checker->product_done(one, read.address, read.clock, read.site);
        }
        queue.reads.erase(queue.reads.begin(), queue.reads.begin() + (long)over);
        if (worker.check) worker.checker->warp_synchronized(one->flat / LANES);
      },
      &groups_left, site);
}

void warpgroup_hazard(Thread* me, int kind, int site) {
  if (kind == HAZARD_READ)
    report_fault(me, site, "async-product", "uses a register of a wgmma that was not waited for");
  else
    report_fault(me, site, "async-product", "no wgmma.fence since other instructions wrote one of its registers");
}

void set_registers(Thread* me, u32 count, int site) {
  me->block->worker->products[me->flat / LANES].registers = count;
  warpgroup_sync(me, site);
}

void check_warpgroups(Worker& worker, Thread* witness) {
  for (u32 w = 0; w < worker.block.warps; w++) {
    const ProductQueue& queue = worker.products[w];
    if (queue.done < queue.committed + (queue.open != 0) && queue.issued)
      report_fault(witness, queue.site, "async-product", "warp %u exits and never waits for it", w);
    const ProductQueue& first = worker.products[w / WARPGROUP_WARPS * WARPGROUP_WARPS];
    bool whole = w / WARPGROUP_WARPS * WARPGROUP_WARPS + WARPGROUP_WARPS <= worker.block.warps;
    if (queue.issued != first.issued || (queue.issued && !whole))
      report_fault(witness, std::max(queue.site, first.site), "divergent-warp",
                   "warp %u issues %u products, the first of its warpgroup %u, and four have to issue the same", w,
                   queue.issued, first.issued);
    if (queue.registers != first.registers)
      report_fault(witness, -1, "divergent-warp", "setmaxnreg: warp %u has %u registers, others of its warpgroup %u", w,
                   queue.registers, first.registers);
  }
  if (!worker.bulk_copies.empty())
    report_fault(witness, worker.bulk_copies[0].site, "async-copy", "the block ends and never waits for it");
}

}  // namespace emulator
