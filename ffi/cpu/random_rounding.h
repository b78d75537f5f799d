// Stochastic rounding of float32 to bfloat16: the 16 bits that are cut off, as a fraction, are the probability of rounding away
// from zero. The random numbers are Philox4x32-10 (Salmon et al. 2011) under the key (seed, stream), counted by (element ÷ 8,
// step, parameter): each of a block's four words has the 16 bits of two elements, the lower half's first. So an element's
// number depends on nothing else, on any number of threads.
#pragma once
#include "simd.h"

namespace KERNEL_PATH {

typedef uint32_t Words __attribute__((vector_size(4 * W)));
typedef uint64_t LongWords __attribute__((vector_size(8 * W)));
typedef uint16_t Shorts __attribute__((vector_size(2 * W)));

// Whose random numbers: the run's seed and a stream of it, the optimizer's step, the parameter among those trained.
struct Counter {
  uint32_t seed, stream, step, parameter;
};

static constexpr int64_t NOISE = 256;  // elements at once, a multiple of 8 W

// The random 16 bits of elements [at, at + NOISE); `at` is a multiple of 8.
static __attribute__((noinline)) void make_noise(uint16_t* noise, int64_t at, const Counter& c) {
  for (int64_t block = 0; block < NOISE / 8; block += W) {
    Words c0, c1, c2 = c.step - Words{}, c3 = c.parameter - Words{};
    for (int lane = 0; lane < W; lane++) {
      const uint64_t count = (uint64_t)(at / 8 + block + lane);
      c0[lane] = (uint32_t)count, c1[lane] = (uint32_t)(count >> 32);
    }
    uint32_t k0 = c.seed, k1 = c.stream;
    for (int round = 0; round < 10; round++) {
      const LongWords a = __builtin_convertvector(c0, LongWords) * 0xD2511F53ull;
      const LongWords b = __builtin_convertvector(c2, LongWords) * 0xCD9E8D57ull;
      const Words n0 = __builtin_convertvector(b >> 32, Words) ^ c1 ^ k0;
      const Words n2 = __builtin_convertvector(a >> 32, Words) ^ c3 ^ k1;
      c1 = __builtin_convertvector(b, Words);
      c3 = __builtin_convertvector(a, Words);
      c0 = n0, c2 = n2;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    uint32_t words[4][W];
    memcpy(words[0], &c0, sizeof c0);
    memcpy(words[1], &c1, sizeof c1);
    memcpy(words[2], &c2, sizeof c2);
    memcpy(words[3], &c3, sizeof c3);
    for (int lane = 0; lane < W; lane++)
      for (int word = 0; word < 4; word++) {
        uint16_t* to = noise + (block + lane) * 8 + 2 * word;
        to[0] = (uint16_t)words[word][lane], to[1] = (uint16_t)(words[word][lane] >> 16);
      }
  }
}

// The first n elements; infinity stays, and a number beyond the largest bfloat16 may become it.
INLINE void store_rounded(bf16* p, V x, const uint16_t* noise, int n) {
  Shorts random;
  memcpy(&random, noise, sizeof random);
  Words bits;
  memcpy(&bits, &x, sizeof bits);
  const Shorts rounded = __builtin_convertvector((bits + __builtin_convertvector(random, Words)) >> 16, Shorts);
  if (n >= W) {
    memcpy(p, &rounded, sizeof rounded);
    return;
  }
  for (int i = 0; i < n; i++) p[i].bits = rounded[i];
}

}  // namespace KERNEL_PATH
