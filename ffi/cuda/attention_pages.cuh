// A page of the key-value cache holds 64 tokens: keys (Hkv, 64, PADDED) and values alike, in the type of activations.
// HEAD_DIM and X_TYPE are macros. Rows are padded to a multiple of 8 elements, with zeros, so that every row of either
// type begins and ends on 16 bytes.
#pragma once
#include "primitives.cuh"

constexpr int PAGE_TOKENS = 64;
constexpr int PADDED = (HEAD_DIM + 7) / 8 * 8;
constexpr int PIECE = 16 / sizeof(X_TYPE), PIECES = PADDED / PIECE;  // elements in 16 bytes, and those in a row

// Element offset of a token's row.
INLINE i64 page_row(int page, int Hkv, int head, int offset) {
  return (((i64)page * Hkv + head) * PAGE_TOKENS + offset) * PADDED;
}
