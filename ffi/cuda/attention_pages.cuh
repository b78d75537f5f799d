// A page of the key-value cache holds PAGE_TOKENS: keys (Hkv, PAGE_TOKENS, PADDED) and values alike, in the type of
// activations, X_TYPE. Rows are padded with zeros from HEAD_DIM to PADDED elements, so that every row of either type begins
// and ends on 16 bytes. All four are macros.
#pragma once
#include "primitives.cuh"

static_assert(PADDED % 8 == 0, "16 bytes in either type");
constexpr int PIECE = 16 / sizeof(X_TYPE), PIECES = PADDED / PIECE;  // elements in 16 bytes, and those in a row

// Element offset of a token's row.
INLINE i64 page_row(int page, int Hkv, int head, int offset) {
  return (((i64)page * Hkv + head) * PAGE_TOKENS + offset) * PADDED;
}
