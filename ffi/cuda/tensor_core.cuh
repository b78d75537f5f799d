// Tensor cores, asynchronous copies to shared memory and the layout of shared rows: sm_80 and later. One wrapper for
// each PTX instruction; what fragments mean is said here, tiling is the kernels' own.
//
// Fragments of m16n8k16, for a lane with g = lane / 4 and t = lane % 4; a register holds two neighbours, lower first:
//   a (16×16)  a[0] row g,     columns 2t, 2t+1     a[1] row g + 8, same columns
//              a[2] row g,     columns 2t+8, 2t+9   a[3] row g + 8, same columns
//   b (16×8)   b0 rows 2t, 2t+1, column g           b1 rows 2t+8, 2t+9, column g
//   d (16×8)   d[0], d[1] row g, columns 2t, 2t+1   d[2], d[3] row g + 8, same columns
#pragma once
#include "primitives.cuh"

// d += a · b, bfloat16 in, float32 sums.
INLINE void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

INLINE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Four 8×8 matrices of 16-bit elements. Lane i names row i % 8 of matrix i / 8 (16 bytes, aligned); of matrix m each
// lane gets row lane / 4, columns 2 (lane % 4) and the next, in r[m].
INLINE void load_matrices(u32 (&r)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// The same of the transposed matrices: a lane gets rows 2 (lane % 4) and the next of column lane / 4.
INLINE void load_matrices_transposed(u32 (&r)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// Copies 16 bytes, or writes zeros where not `there` (the source is not read then). Complete after copies_wait.
INLINE void copy_async(u32 shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(__cvta_generic_to_global(global)),
               "r"(there ? 16 : 0)
               : "memory");
}

// The same of 8 bytes.
__device__ __forceinline__ void copy_async_8(unsigned shared, const void* global, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared), "l"(__cvta_generic_to_global(global)),
               "r"(there ? 8 : 0)
               : "memory");
}

// Closes the group of copies issued since the last commit.
INLINE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's own copies, all but the latest N groups; a barrier must follow before others' are read.
template <int N>
INLINE void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// 2^x, to 2⁻²²; 0 for −infinity.
INLINE float exp2_approx(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// Rows of CHUNKS 16-byte chunks in shared memory, without padding. Chunks are exchanged within a row (XOR) such that
// the same chunk of 8 successive rows lies in 8 different groups of 4 banks: what ldmatrix and 128-bit access need.

// What chunk numbers of a row are XORed with; the same for rows a multiple of 8 apart.
template <int CHUNKS>
INLINE int exchange(int row) {
  constexpr int period = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : CHUNKS % 2 == 0 ? 2 : 1;
  return row / (8 / period) % period;
}

// Byte offset of a chunk.
template <int CHUNKS>
INLINE u32 swizzled(int row, int chunk) {
  return (u32)(row * CHUNKS + (chunk ^ exchange<CHUNKS>(row))) * 16;
}
