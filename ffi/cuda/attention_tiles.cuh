// What the forward kernels of packed attention share: which rows of queries a block takes, which keys they see, and how
// rows come into shared memory. HEAD_DIM, THREADS, ROWS (of queries) and KEYS of a tile are macros.
//
// segments (S, 4): start, length, prefix start, prefix length, in rows. Keys are taken in tiles, counted from the
// prefix's start and anew from the segment's own, so that a tile never reaches into another segment.
//
// With a window, a row sees itself and the window − 1 tokens before it, counted through the prefix: a kernel begins at the
// first tile that one of its rows sees, and a row may see none of the first tiles.
#pragma once
#include "tensor_core.cuh"

// Up to ROWS successive rows of one segment, from its row `from` on.
struct QueryTile {
  int start, length, prefix_start, prefix_length, from;
};

// Tile number `index` of all segments' tiles, false where there are fewer; from `index`, tiles of earlier segments are
// taken off. Within a segment the last comes first: it sees the most keys, and a long block that starts late is waited
// for.
INLINE bool find_tile(QueryTile& tile, const int* segments, int S, int& index) {
  const int lane = threadIdx.x % WARP;
  for (int base = 0; base < S; base += WARP) {
    const int tiles = base + lane < S ? ceil_div(segments[4 * (base + lane) + 1], ROWS) : 0;
    const int end = lanes_scan(tiles);
    const u32 beyond = __ballot_sync(ALL_LANES, end > index);
    if (beyond != 0) {
      const int owner = __ffs(beyond) - 1;
      const int* segment = segments + 4 * (base + owner);
      const int last = __shfl_sync(ALL_LANES, end, owner) - 1;
      tile = QueryTile{segment[0], segment[1], segment[2], segment[3], (last - index) * ROWS};
      return true;
    }
    index -= __shfl_sync(ALL_LANES, end, WARP - 1);
  }
  return false;
}

// Up to KEYS keys: rows row … row + count − 1. `first` is the place of the first in its own segment; keys of the prefix have
// places below zero, so that a row's own place says in both cases how many it sees.
struct KeyTile {
  int row, count, first;
};

INLINE int key_tiles(const QueryTile& q) {
  return ceil_div(q.prefix_length, KEYS) + ceil_div(smaller(q.length, q.from + ROWS), KEYS);
}

INLINE KeyTile key_tile(const QueryTile& q, int index) {
  const int prefix_tiles = ceil_div(q.prefix_length, KEYS);
  if (index < prefix_tiles)
    return KeyTile{q.prefix_start + index * KEYS, smaller(KEYS, q.prefix_length - index * KEYS),
                   index * KEYS - q.prefix_length};
  const int first = (index - prefix_tiles) * KEYS;
  return KeyTile{q.start + first, smaller(KEYS, q.length - first), first};
}

// How many of a tile's keys the row at `place` of its segment sees.
INLINE int visible(const KeyTile& keys, int place) { return smaller(keys.count, place - keys.first + 1); }

// The first tile of keys with one in the window of the tile's first row.
INLINE int first_key_tile(const QueryTile& q, int window) {
  const int own = q.from - window + 1, all = own + q.prefix_length;  // keys before the window, of the segment and in all
  if (all <= 0) return 0;
  return all < q.prefix_length ? all / KEYS : ceil_div(q.prefix_length, KEYS) + (own > 0 ? own / KEYS : 0);
}

// How many of a tile's first keys lie before the window of the row at `place`; zero or less: none.
INLINE int hidden(const KeyTile& keys, int place, int window) { return place - window + 1 - keys.first; }

// Whether 16-byte copies can fetch a row's HEAD_DIM elements at p, and at multiples of `stride` and HEAD_DIM behind it.
template <class T>
INLINE bool copyable(const T* p, i64 stride) {
  return HEAD_DIM * sizeof(T) % 16 == 0 && ((u64)p | (u64)stride * sizeof(T)) % 16 == 0;
}

// Issues copies of `count` of N rows to swizzled shared rows of CHUNKS chunks: zeros beyond HEAD_DIM, and in rows
// that are missing. Not `wide`: element by element, complete at once.
template <int N, int CHUNKS, class T>
INLINE void load_rows(char* shared, const T* rows, i64 stride, int count, bool wide) {
  constexpr int PER = 16 / sizeof(T), ALL = N * CHUNKS;
  if (wide) {
    const u32 target = shared_address(shared);
#pragma unroll
    for (int step = 0; step < (ALL + THREADS - 1) / THREADS; step++) {
      const int i = threadIdx.x + step * THREADS, row = i / CHUNKS, chunk = i % CHUNKS;
      const bool there = row < count && chunk * PER < HEAD_DIM;
      if (ALL % THREADS == 0 || i < ALL)
        copy_async(target + swizzled<CHUNKS>(row, chunk), rows + (there ? row * (int)stride + chunk * PER : 0), there);
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < ALL; i += THREADS) {
      const int row = i / CHUNKS, chunk = i % CHUNKS;
      union {
        T elements[PER];
        uint4 all;
      } piece;
      const T* source = rows + row * stride + chunk * PER;
#pragma unroll
      for (int e = 0; e < PER; e++) piece.elements[e] = row < count && chunk * PER + e < HEAD_DIM ? source[e] : T(0);
      *(uint4*)(shared + swizzled<CHUNKS>(row, chunk)) = piece.all;
    }
  }
}
