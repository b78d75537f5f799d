// What the kernels of the attention gradient share: the work list in device memory, and the walk over the queries that
// see a tile of keys.
//
// P = exp(scale · q·k − lse), dP = dout · v, dS = P ∘ (dP − delta) with delta = dout · out, row by row (Dao 2023,
// FlashAttention-2, algorithm 2); dv = Pᵀ dout, dk = scale · dSᵀ q, dq = scale · dS k. P is computed twice, once for a
// tile of keys and once for a tile of queries, so that each sum belongs to one block and needs no atomics.
//
// A prompt's keys are seen by all its completions: 64 completions of 1,024 tokens are 1,024 tiles of queries for each
// of a prompt's few tiles of keys, and a block for each would work alone long after all others have ended. So the list
// of query tiles of one key tile is cut into units of at most `chunk` tiles. A key tile of one unit is written at once;
// the units of one that was cut leave float32 sums in slots, and attention_backward_sum adds them in order. The launch
// knows T and S only: ceil(T / 64) + S tiles at most, ceil(T / 128) + 8 slots. The least chunk of 16, 32, 64, … tiles
// whose slots suffice is found on the device from the segment table; it depends on nothing else, nor do the bits.
//
// TILE, a macro, is the rows in a tile of keys or of queries, counted from the start of their segment.
#pragma once

#include "primitives.cuh"

#ifndef WINDOWED  // kernels that make lists and sums need not know
#define WINDOWED 0
#endif

struct Segment {
  int start, length, prefix_start, prefix_length;
};

INLINE int larger_of(int a, int b) { return a > b ? a : b; }

INLINE Segment segment_at(const int* segments, int s) {
  const int* at = segments + 4 * s;
  return Segment{at[0], at[1], at[2], at[3]};
}

// A tile of the table: segment −1 is none. Its key gradient lies in slots first_slot … first_slot + units − 1 where
// units > 1.
struct Tile {
  int segment, index, first_slot, units;
};

INLINE Tile tile_at(const int4* tiles, int i) {
  const int4 t = tiles[i];
  return Tile{t.x, t.y, t.z, t.w};
}

// Part of the list of query tiles of one key tile: entries from … to − 1. The list is the own segment's tiles from the
// key tile on, then those of segments first_visitor … visitors_end − 1 whose prefix meets this segment.
struct Work {
  int segment, index, from, to, slot, first_visitor, visitors_end;
};

INLINE Work work_at(const int4* units, int i) {
  const int4 a = units[2 * i], b = units[2 * i + 1];
  return Work{a.x, a.y, a.z, a.w, b.x, b.y, b.z};
}

// Does c's prefix take in rows of s?
INLINE bool visits(const Segment& c, const Segment& s) {
  return c.prefix_length > 0 && c.prefix_start < s.start + s.length && c.prefix_start + c.prefix_length > s.start;
}

// A query sees a key of its own segment at most window − 1 rows before it. Of its prefix, the rows between the prefix's end
// and its segment's start do not count: `shift` is their number.
INLINE bool in_window(int query, int key, int shift, int window) { return query - key - shift < window; }

// The queries that a unit meets, AT_ONCE rows and one head of the group at a time; all threads hold the same walk. A
// prompt precedes its completions, so a query sees no key that lies behind it, whosever it is.
template <int AT_ONCE>
struct QueryWalk {
  const int* segments;
  int own, c;    // the keys' segment, the next one to look at
  int left;      // tiles of the unit that are not yet passed
  int row, end;  // first row of the step, end of its segment
  int sub;       // rows of the tile already passed
  int head;      // within the group
  int from, to;  // rows of keys that these queries see, as far as they precede them
  int shift;     // in_window

  INLINE QueryWalk(const int* segments, const Work& work) {
    begin(segments, work);
    enter(work);
  }

  // The two parts of the constructor, for a walk in memory.
  INLINE void begin(const int* all, const Work& work) {
    const Segment s = segment_at(all, work.segment);
    segments = all;
    own = work.segment;
    c = work.first_visitor;
    left = work.to - work.from;
    row = s.start + (work.index + work.from) * TILE;
    from = s.start;
    to = end = s.start + s.length;
    sub = head = shift = 0;
  }
  INLINE void enter(const Work& work) {
    if (row >= end) visit(work.index + work.from - ceil_div(end - from, TILE));
  }

  // Goes on to tile `skip` of the following visitors' tiles; the table ends after the last entry of a unit.
  INLINE void visit(int skip) {
    const Segment s = segment_at(segments, own);
    for (;;) {
      const Segment visitor = segment_at(segments, c++);
      if (!visits(visitor, s)) continue;
      const int tiles = ceil_div(visitor.length, TILE);
      if (skip < tiles) {
        row = visitor.start + skip * TILE;
        end = visitor.start + visitor.length;
        from = visitor.prefix_start;
        to = visitor.prefix_start + visitor.prefix_length;
        shift = visitor.start - to;
        return;
      }
      skip -= tiles;
    }
  }

  INLINE bool advance(int group) {
    if (++head < group) return true;
    head = 0;
    row += AT_ONCE;
    sub += AT_ONCE;
    if (sub < TILE && row < end) return true;
    sub = 0;
    if (--left == 0) return false;
    if (row >= end) visit(0);
    return true;
  }

  INLINE int rows() const { return smaller(AT_ONCE, end - row); }
};

// The keys that neighbouring queries see, AT_ONCE rows at a time: the prefix, then the own segment up to the last of them.
template <int AT_ONCE>
struct KeyWalk {
  Segment s;
  int own_end;  // keys of the own segment that the last query sees
  int at;
  bool own;

  // `from`: the first query's place in its segment.
  INLINE KeyWalk(const Segment& s, int own_end, int from, int window)
      : s(s), own_end(own_end), at(0), own(s.prefix_length == 0) {
    if (!WINDOWED) return;
    const int own_before = from - window + 1, before = own_before + s.prefix_length;
    own = own || before >= s.prefix_length;
    at = larger_of(0, own ? own_before : before) / AT_ONCE * AT_ONCE;
  }

  // Rows between the end of the keys' segment and the queries' (in_window).
  INLINE int shift() const { return own ? 0 : s.start - s.prefix_start - s.prefix_length; }

  INLINE bool advance() {
    at += AT_ONCE;
    if (at < (own ? own_end : s.prefix_length)) return true;
    if (own) return false;
    own = true;
    at = 0;
    return true;
  }

  INLINE int row() const { return (own ? s.start : s.prefix_start) + at; }
  INLINE int rows() const { return smaller(AT_ONCE, (own ? own_end : s.prefix_length) - at); }
};
