// The optimizer's step on one parameter, and masters of bfloat16 parameters.
//   adamw         Loshchilov & Hutter 2019, decoupled decay: parameter, master, m, v updated from the gradient g
//   adamw_8bit    the same with m and v in 8 bits (Dettmers et al. 2022, arXiv 2110.02861)
//   masters       y (=|+=) the float32 masters of a bfloat16 parameter    split_masters: both parts of masters x =
//
// grad_scale is the clipping factor; correction1 = 1 − β1^t, correction2 = 1 − β2^t. `form` says what the parameter p is:
// float32, its own master (0); the upper half of a master whose lower half is `master` (1); bfloat16 without more, rounded at
// random (2, random_rounding.h). `first_element`, a multiple of 8: the parameter's element that is p[0], if these n are a
// piece of it.
//
// A moment in 8 bits is a code per element, the index of a number in [−1, 1] in a map of 256 (m: signed, v: unsigned), and for
// every 256 elements, in the order in which they lie, the largest magnitude as float32. The map that takes a number to its
// code is a table, as bitsandbytes has it on a CPU: `nearest` has the code nearest to each of 65,536 numbers spread evenly
// over [−1, 1]. But 0 stays 0, so that what never had a gradient (the padding of a parameter too) keeps still.
#include "random_rounding.h"
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

static constexpr int64_t ADAM_BLOCK = 16384;
static constexpr int64_t MOMENTS = 256;  // elements that share a largest magnitude
static constexpr int64_t MAP = 256, NEAREST = 65536;
enum { FLOAT32_MASTER, SPLIT_MASTER, ROUNDED_MASTER };

template <class Body>
INLINE void adam_blocks(int64_t n, const Body& body) {
  parallel(ceil_div(n, ADAM_BLOCK), [&](int64_t b) { body(b * ADAM_BLOCK, smaller(n, (b + 1) * ADAM_BLOCK)); });
}

struct AdamW {
  V step, root, decay, b1, b2, c1, c2, eps, scale;
  INLINE AdamW of(float lr, float beta1, float beta2, float eps, float weight_decay, float correction1, float correction2,
                  float grad_scale) {
    return {set1(lr / correction1), set1(__builtin_sqrtf(correction2)), set1(1.0f - lr * weight_decay),
            set1(beta1), set1(beta2), set1(1.0f - beta1), set1(1.0f - beta2), set1(eps), set1(grad_scale)};
  }
  // New moments, and the new parameter.
  __attribute__((always_inline)) V updated(V before, V raw, V& first, V& second) const {
    const V grad = mul(raw, scale);
    first = fma(b1, first, mul(c1, grad));
    second = fma(b2, second, mul(c2, mul(grad, grad)));
    const V denominator = add(div(sqrt(second), root), eps);
    return sub(mul(before, decay), div(mul(step, first), denominator));
  }
};

// A parameter with its master.
struct Master {
  void* p;
  uint16_t* lower;
  int32_t form;

  __attribute__((always_inline)) V load(int64_t i, int k) const {
    if (form == FLOAT32_MASTER) return load_upto((const float*)p + i, k);
    if (form == SPLIT_MASTER) return join_upto((const bf16*)p + i, lower + i, k);
    return load_upto((const bf16*)p + i, k);
  }
  __attribute__((always_inline)) void store(int64_t i, V value, const uint16_t* noise, int k) const {
    if (form == FLOAT32_MASTER) store_upto((float*)p + i, value, k);
    else if (form == SPLIT_MASTER) split_upto((bf16*)p + i, lower + i, value, k);
    else store_rounded((bf16*)p + i, value, noise, k);
  }
};

void adamw(void* p, uint16_t* master, float* m, float* v, const float* g, int64_t n, float lr, float beta1, float beta2,
           float eps, float weight_decay, float correction1, float correction2, float grad_scale, int32_t form, uint32_t seed,
           uint32_t stream, uint32_t step, uint32_t parameter, int64_t first_element) {
  const AdamW adam = AdamW::of(lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale);
  const Master own = {p, master, form};
  const Counter counter = {seed, stream, step, parameter};
  adam_blocks(n, [&](int64_t from, int64_t to) {
    uint16_t noise[NOISE];
    for (int64_t i = from; i < to; i += W) {
      if (form == ROUNDED_MASTER && (i - from) % NOISE == 0) make_noise(noise, first_element + i, counter);
      int k = (int)smaller(W, to - i);
      V first = load_upto(m + i, k), second = load_upto(v + i, k);
      const V value = adam.updated(own.load(i, k), load_upto(g + i, k), first, second);
      store_upto(m + i, first, k);
      store_upto(v + i, second, k);
      own.store(i, value, noise + (i - from) % NOISE, k);
    }
  });
}

// The numbers of W codes.
INLINE V numbers_of(const float* map, const uint8_t* codes) {
#if defined(__AVX512F__)
  return _mm512_i32gather_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)codes)), map, 4);
#elif defined(__AVX2__)
  return _mm256_i32gather_ps(map, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)codes)), 4);
#else
  float a[W];
  for (int i = 0; i < W; i++) a[i] = map[codes[i]];
  return load(a);
#endif
}

// Codes of `count` numbers (the others of x, up to MOMENTS, are 0), and their largest magnitude.
static void quantize(uint8_t* codes, float* absmax, const float* x, int64_t count, const uint8_t* nearest, uint8_t zero_code) {
  typedef int32_t Ints __attribute__((vector_size(4 * W)));
  V most = zero();
  for (int64_t i = 0; i < MOMENTS; i += W) {
    const V value = load(x + i);
    most = max(max(most, value), sub(zero(), value));
  }
  *absmax = max_lanes(most);
  if (*absmax == 0) {
    memset(codes, 0, (size_t)count);
    return;
  }
  const V inverse = set1(1.0f / *absmax), one = set1(1.0f), half = set1(0.5f), last = set1((float)(NEAREST - 1));
  int32_t at[MOMENTS];
  for (int64_t i = 0; i < MOMENTS; i += W) {
    const V normed = min(max(mul(load(x + i), inverse), sub(zero(), one)), one);
    const Ints index = __builtin_convertvector(fma(mul(add(normed, one), half), last, half), Ints);
    memcpy(at + i, &index, sizeof index);
  }
  for (int64_t i = 0; i < count; i++) codes[i] = x[i] == 0 ? zero_code : nearest[at[i]];
}

// m, v (n) codes with m_absmax, v_absmax (⌈n ÷ 256⌉); maps (2, 256) the numbers of m's codes, then of v's; nearest
// (2, 65536) likewise. 0 has code 127 in the signed map and 0 in the unsigned.
void adamw_8bit(void* p, uint16_t* master, uint8_t* m, float* m_absmax, uint8_t* v, float* v_absmax, const float* g,
                const float* maps, const uint8_t* nearest, int64_t n, float lr, float beta1, float beta2, float eps,
                float weight_decay, float correction1, float correction2, float grad_scale, int32_t form, uint32_t seed,
                uint32_t stream, uint32_t step, uint32_t parameter, int64_t first_element) {
  const AdamW adam = AdamW::of(lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale);
  const Master own = {p, master, form};
  const Counter counter = {seed, stream, step, parameter};
  static_assert(NOISE == MOMENTS && ADAM_BLOCK % MOMENTS == 0);
  adam_blocks(n, [&](int64_t from, int64_t to) {
    uint16_t noise[NOISE];
    for (int64_t at = from; at < to; at += MOMENTS) {
      const int64_t count = smaller(MOMENTS, to - at), block = at / MOMENTS;
      float first_of[MOMENTS] = {}, second_of[MOMENTS] = {};
      uint8_t m_codes[MOMENTS] = {}, v_codes[MOMENTS] = {};
      memcpy(m_codes, m + at, (size_t)count);
      memcpy(v_codes, v + at, (size_t)count);
      if (form == ROUNDED_MASTER) make_noise(noise, first_element + at, counter);
      const V m_most = set1(m_absmax[block]), v_most = set1(v_absmax[block]);
      for (int64_t i = 0; i < count; i += W) {
        const int k = (int)smaller(W, count - i);
        V first = mul(numbers_of(maps, m_codes + i), m_most), second = mul(numbers_of(maps + MAP, v_codes + i), v_most);
        const V value = adam.updated(own.load(at + i, k), load_upto(g + at + i, k), first, second);
        store_upto(first_of + i, first, k);
        store_upto(second_of + i, second, k);
        own.store(at + i, value, noise + i, k);
      }
      quantize(m + at, m_absmax + block, first_of, count, nearest, 127);
      quantize(v + at, v_absmax + block, second_of, count, nearest + NEAREST, 0);
    }
  });
}

void masters(float* y, const void* p, const uint16_t* lower, int64_t n, int32_t accumulate) {
  adam_blocks(n, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += W) {
      const int k = (int)smaller(W, to - i);
      const V value = lower ? join_upto((const bf16*)p + i, lower + i, k) : load_upto((const bf16*)p + i, k);
      store_upto(y + i, accumulate ? add(load_upto(y + i, k), value) : value, k);
    }
  });
}

void split_masters(void* p, uint16_t* lower, const float* x, int64_t n) {
  adam_blocks(n, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += W) {
      const int k = (int)smaller(W, to - i);
      split_upto((bf16*)p + i, lower + i, load_upto(x + i, k), k);
    }
  });
}

}  // namespace KERNEL_PATH
