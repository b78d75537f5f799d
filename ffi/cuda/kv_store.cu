// Puts keys and values of T tokens at (page (T), offset (T)); a token of page −1 is left out. k and v are parts of one
// buffer with row stride ldkv, heads HEAD_DIM apart. A thread takes 16 bytes of one head's row of a page.
#include "attention_pages.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
kv_store(X_TYPE* key_pages, X_TYPE* value_pages, const X_TYPE* k, const X_TYPE* v, const int* page, const int* offset,
         int T, int Hkv, i64 ldkv) {
  const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = thread / PIECES;
  const int piece = (int)(thread % PIECES) * PIECE, head = (int)(row % (2 * Hkv)), token = (int)(row / (2 * Hkv));
  if (token >= T || page[token] < 0) return;
  const bool value = head >= Hkv;
  const int h = value ? head - Hkv : head;
  const X_TYPE* source = (value ? v : k) + token * ldkv + h * HEAD_DIM + piece;
  X_TYPE* target = (value ? value_pages : key_pages) + page_row(page[token], Hkv, h, offset[token]) + piece;
  if (HEAD_DIM % PIECE == 0 && (u64)source % 16 == 0) {
    *(uint4*)target = *(const uint4*)source;
    return;
  }
#pragma unroll
  for (int e = 0; e < PIECE; e++) target[e] = piece + e < HEAD_DIM ? source[e] : X_TYPE(0);
}
