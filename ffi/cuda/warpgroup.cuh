// Instructions of sm_90a: barriers in shared memory, copies of tiles by the copy engine, products of a warpgroup (four
// warps, the first a multiple of four) that run while the threads go on. One wrapper for each PTX instruction, as in
// tensor_core.cuh; tiling is the kernels' own.
//
// Tiles in shared memory are panels of 64 columns: rows of 128 bytes, whose eight 16-byte chunks are exchanged as
// swizzled<8> does. A panel starts at a multiple of 1,024 bytes. This is the copy engine's and the products' 128-byte
// swizzle.
#pragma once
#include "tensor_core.cuh"

constexpr int PANEL_COLUMNS = 64, PANEL_ROW_BYTES = 128;

// ---- barriers: 8 bytes of shared memory. A phase ends when `count` arrivals and all announced bytes have come

INLINE void barrier_init(u32 barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

INLINE void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives and announces bytes that copies will bring; before they are issued.
INLINE void barrier_expect(u32 barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Waits for the end of the phase with this parity; the first phase has parity 0.
INLINE void barrier_wait(u32 barrier, int parity) {
  u32 over;
  do {
    asm volatile(
        "{ .reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2; selp.u32 %0, 1, 0, over; }"
        : "=r"(over)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (over == 0);
}

// `threads` threads in all meet at hardware barrier ID; arriving does not wait.
template <int ID>
INLINE void meet(int threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(ID), "r"(threads) : "memory");
}
template <int ID>
INLINE void meet_arrive(int threads) {
  asm volatile("bar.arrive %0, %1;" ::"n"(ID), "r"(threads) : "memory");
}

// Registers of a thread of this warpgroup, multiples of 8; a claim waits until other warpgroups have released enough.
template <int N>
INLINE void registers_release() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
INLINE void registers_claim() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// Shared memory that this thread has written, barriers included, becomes visible to copy engine and products, once the
// reader is synchronized with it.
INLINE void publish_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- the copy engine

// A matrix in global memory and the size of its tiles, encoded by the driver (cuTensorMapEncodeTiled).
struct alignas(64) TensorMap {
  u64 words[16];
};

// Copies the tile from this column and row on; rows beyond the matrix are zeros. Completion counts at `barrier`.
INLINE void copy_tile(u32 shared, const TensorMap* map, int column, int row, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// ---- products: d (64×N) = or += a (64×16) · b (16×N), bfloat16 in, float32 sums. d is each warp's own 16 rows, in
// fragments of tensor_core.cuh's m16n8k16, one per 8 columns.

// Where a product finds an operand, from the panel's first row on: the descriptor's low word, to which a multiple of 16
// bytes is added as sixteenths. `stride`: bytes between panels, where one product needs several.
INLINE u32 place_of(u32 shared, u32 stride) { return shared / 16 | stride / 16 << 16; }
INLINE u64 operand(u32 place) {
  constexpr u64 eight_rows = 8 * PANEL_ROW_BYTES / 16, swizzle_128 = 1;
  return place | eight_rows << 32 | swizzle_128 << 62;
}

// Between writing d or a in registers and the first product with them.
INLINE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Closes the group of products issued since the last commit.
INLINE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for all but the latest N groups; settled() must follow for what they wrote.
template <int N>
INLINE void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Keeps the compiler from using values before the wait above it.
template <int N>
INLINE void settled(float (&d)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; n++) asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
}

#define FRAGMENT(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define FRAGMENTS_4(d, n) FRAGMENT(d, n), FRAGMENT(d, n + 1), FRAGMENT(d, n + 2), FRAGMENT(d, n + 3)
#define FRAGMENTS_8(d) FRAGMENTS_4(d, 0), FRAGMENTS_4(d, 4)
#define FRAGMENTS_16(d) FRAGMENTS_8(d), FRAGMENTS_4(d, 8), FRAGMENTS_4(d, 12)
#define REGISTERS_32                                                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64                                                                                         \
  REGISTERS_32                                                                                               \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// Both operands in shared memory, rows along the product's 16: a (64 rows), b (N rows, transposed by the product).
INLINE void product(float (&d)[16][4], u64 a, u64 b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.u32 add, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_64
      "}, %64, %65, add, 1, 1, 0, 0; }"
      : FRAGMENTS_16(d)
      : "l"(a), "l"(b), "r"((u32)add)
      : "memory");
}

INLINE void product(float (&d)[8][4], u64 a, u64 b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.u32 add, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGISTERS_32
      "}, %32, %33, add, 1, 1, 0, 0; }"
      : FRAGMENTS_8(d)
      : "l"(a), "l"(b), "r"((u32)add)
      : "memory");
}

// a in registers, a fragment of tensor_core.cuh; b's 16 rows in shared memory.
INLINE void product(float (&d)[16][4], const u32 (&a)[4], u64 b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.u32 add, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_64
      "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1; }"
      : FRAGMENTS_16(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((u32)add)
      : "memory");
}

INLINE void product(float (&d)[8][4], const u32 (&a)[4], u64 b, bool add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.u32 add, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGISTERS_32
      "}, {%32, %33, %34, %35}, %36, add, 1, 1, 1; }"
      : FRAGMENTS_8(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((u32)add)
      : "memory");
}
