// Flat float32 work and moves of rows.
//   sum_squares   sum (1) =   in float64, in blocks of fixed size added in order
//   scale, fill   x =         add: y +=        cast: y =
//   softcap_forward  x = cap · tanh(x / cap)   softcap_backward: dx (n) *= 1 − (y / cap)², y what the forward pass left
//   gather_rows   y (N, D) = x[rows]           scatter_rows: dx (T, D) = 0, then dx[rows] = dy (rows distinct)
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

static constexpr int64_t BLOCK = 16384;

template <class Body>
INLINE void blocks(int64_t n, const Body& body) {
  parallel(ceil_div(n, BLOCK), [&](int64_t b) { body(b * BLOCK, smaller(n, (b + 1) * BLOCK)); });
}

void sum_squares(double* sum, const float* x, int64_t n) {
  typedef float Floats __attribute__((vector_size(16)));
  typedef double Doubles __attribute__((vector_size(32)));
  constexpr int PARTS = W / 4;  // four of W lanes each
  // Blocks are summed a batch at a time, so the partial sums fit a fixed array for any n.
  constexpr int64_t BATCH = 1024;
  double partial[BATCH], total = 0;
  for (int64_t first = 0; first < n; first += BATCH * BLOCK) {
    int64_t count = smaller(BATCH, ceil_div(n - first, BLOCK));
    parallel(count, [&](int64_t b) {
      int64_t i = first + b * BLOCK, to = smaller(n, i + BLOCK);
      Doubles s[PARTS] = {};
      for (; i + W <= to; i += W)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++) {
          Floats floats;
          memcpy(&floats, x + i + 4 * part, sizeof floats);
          const Doubles value = __builtin_convertvector(floats, Doubles);
          s[part] += value * value;
        }
      for (int lane = 0; i < to; i++, lane++) s[lane / 4][lane % 4] += (double)x[i] * x[i];
      double block = 0;
      for (int lane = 0; lane < W; lane++) block += s[lane / 4][lane % 4];
      partial[b] = block;
    });
    for (int64_t b = 0; b < count; b++) total += partial[b];
  }
  *sum = total;
}

// x = f(i, k) for the k elements from i.
template <class T, class F>
INLINE void each(T* x, int64_t n, const F& f) {
  blocks(n, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += W) {
      int k = (int)smaller(W, to - i);
      store_upto(x + i, f(i, k), k);
    }
  });
}

void scale(float* x, int64_t n, float factor) {
  each(x, n, [&](int64_t i, int k) { return mul(load_upto(x + i, k), set1(factor)); });
}

void add(float* y, const float* x, int64_t n) {
  each(y, n, [&](int64_t i, int k) { return add(load_upto(y + i, k), load_upto(x + i, k)); });
}

// tanh: its series where e^(−2x) would cancel.
INLINE V tanh_of(V x) {
  const V size = max(x, sub(zero(), x)), square = mul(x, x);
  V series = fma(square, set1(-17.0f / 315), set1(2.0f / 15));
  series = fma(square, series, set1(-1.0f / 3));
  series = fma(mul(x, square), series, x);
  const V e = exp_below(mul(size, set1(-2.0f)));
  const V whole = div(sub(set1(1.0f), e), add(set1(1.0f), e));
  return select_less(size, set1(0.2f), series, select_less(x, zero(), sub(zero(), whole), whole));
}

void softcap_forward(float* x, int64_t n, float cap) {
  const V inverse = set1(1.0f / cap);
  each(x, n, [&](int64_t i, int k) { return mul(tanh_of(mul(load_upto(x + i, k), inverse)), set1(cap)); });
}

void softcap_backward(void* dx, const float* y, int64_t n, float cap, int32_t gdtype) {
  const V inverse = set1(1.0f / cap);
  WITH_DTYPE(gdtype, TG, {
    each((TG*)dx, n, [&](int64_t i, int k) {
      const V t = mul(load_upto(y + i, k), inverse);
      return mul(load_upto((const TG*)dx + i, k), sub(set1(1.0f), mul(t, t)));
    });
  });
}

// The same; `least` elements or more, which the caches could not hold, are written past them, without reading them first.
template <class F>
INLINE void each_past_caches(float* x, int64_t n, int64_t least, const F& f) {
  if (n < least || (uintptr_t)x % sizeof(V) != 0) return each(x, n, f);
  blocks(n, [&](int64_t from, int64_t to) {
    int64_t i = from;
    for (; i + W <= to; i += W) stream(x + i, f(i, W));
    store_upto(x + i, f(i, (int)(to - i)), (int)(to - i));
    stream_fence();
  });
}

void fill(float* x, int64_t n, float value) {
  each_past_caches(x, n, 4 << 20, [&](int64_t, int) { return set1(value); });
}

void cast(void* y, const void* x, int64_t n, int32_t ydtype, int32_t xdtype) {
  if (ydtype == 0 && xdtype == 0)
    return each_past_caches((float*)y, n, 1 << 20, [&](int64_t i, int k) { return load_upto((const float*)x + i, k); });
  WITH_DTYPE(ydtype, TY, {
    blocks(n, [&](int64_t from, int64_t to) {
      if (xdtype == 2) {
        for (int64_t i = from; i < to; i++) store_scalar((TY*)y + i, to_float(((const f16*)x)[i]));
      } else {
        WITH_DTYPE(xdtype, TX, {
          for (int64_t i = from; i < to; i += W) {
            int k = (int)smaller(W, to - i);
            store_upto((TY*)y + i, load_upto((const TX*)x + i, k), k);
          }
        });
      }
    });
  });
}

void gather_rows(float* y, const float* x, const int32_t* rows, int32_t N, int32_t D) {
  parallel(ceil_div(N, 16), [&](int64_t block) {
    for (int64_t i = block * 16; i < smaller(N, block * 16 + 16); i++)
      memcpy(y + i * D, x + rows[i] * (int64_t)D, sizeof(float) * D);
  });
}

void scatter_rows(float* dx, const void* dy, const int32_t* rows, int32_t N, int32_t T, int32_t D, int32_t gdtype) {
  fill(dx, (int64_t)T * D, 0.0f);
  WITH_DTYPE(gdtype, TG, {
    parallel(ceil_div(N, 16), [&](int64_t block) {
      for (int64_t i = block * 16; i < smaller(N, block * 16 + 16); i++)
        for (int64_t d = 0; d < D; d += W) {
          const int n = (int)smaller(W, D - d);
          store_upto(dx + rows[i] * (int64_t)D + d, load_upto((const TG*)dy + i * D + d, n), n);
        }
    });
  });
}

}  // namespace KERNEL_PATH
