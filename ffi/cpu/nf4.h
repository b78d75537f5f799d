// A weight (N, K) in NF4 with double quantization (Dettmers et al. 2023, arXiv 2305.14314): a code of 4 bits for each element,
// the index of one of 16 numbers; for every 64 elements, row after row, a scale of 8 bits, the index of one of 256 numbers,
// which is multiplied by the float32 of every 256 scales and added to an offset.
//
// It is one buffer (../../src/tensor/nf4.ts): as float32 the 16 numbers, the 256, the offset and 15 zeros, then the float32
// of every 256 scales; the scales; the codes in panels, [N/16][K][8] bytes: byte j has column j in its low half and column
// j + 8 in its high one. Each part begins at a multiple of 128 bytes.
#pragma once
#include "simd.h"

namespace KERNEL_PATH {

struct Nf4 {
  const float *numbers, *scale_numbers, *nested;
  const uint8_t *scales, *codes;
  float offset;
  int64_t N, K;

  static __attribute__((always_inline)) Nf4 of(const void* w, int64_t N, int64_t K) {
    const auto whole = [](int64_t bytes) { return ceil_div(bytes, 128) * 128; };
    const int64_t scales = ceil_div(N * K, 64);
    const float* numbers = (const float*)w;
    const float* nested = numbers + 288;
    const uint8_t* first = (const uint8_t*)nested + whole(4 * ceil_div(scales, 256));
    return {numbers, numbers + 16, nested, first, first + whole(scales), numbers[272], N, K};
  }

  // Of the block with element i; 0 beyond the last.
  float scale(int64_t i) const {
    if (i >= N * K) return 0;
    const int64_t block = i / 64;
    return scale_numbers[scales[block]] * nested[block / 256] + offset;
  }

  // The 8 bytes of 16 columns.
  const uint8_t* row(int64_t panel, int64_t k) const { return codes + (panel * K + k) * 8; }

  // to[0 … 15] = numbers of a row, times the scales of the columns.
  static __attribute__((always_inline)) void decode(float* to, const uint8_t* row, const float* numbers, const float* by) {
#if defined(__AVX512F__)
    const __m256i low = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)row));
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_srli_epi32(low, 4), 1);
    _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_permutexvar_ps(both, _mm512_loadu_ps(numbers)), _mm512_loadu_ps(by)));
#elif defined(__AVX2__)
    const __m256 below = _mm256_loadu_ps(numbers), above = _mm256_loadu_ps(numbers + 8);
    const __m256i low = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)row)), high = _mm256_srli_epi32(low, 4);
    const auto number = [&](__m256i code) {  // by three bits of the code, then by the fourth
      return _mm256_blendv_ps(_mm256_permutevar8x32_ps(below, code), _mm256_permutevar8x32_ps(above, code),
                              _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
    };
    _mm256_storeu_ps(to, _mm256_mul_ps(number(low), _mm256_loadu_ps(by)));
    _mm256_storeu_ps(to + 8, _mm256_mul_ps(number(high), _mm256_loadu_ps(by + 8)));
#else
    for (int j = 0; j < 8; j++) {
      to[j] = numbers[row[j] & 15] * by[j];
      to[j + 8] = numbers[row[j] >> 4] * by[j + 8];
    }
#endif
  }

  // wide[i][16] = columns of a panel at k + i, for `depth` of them.
  void widen(float* wide, int64_t panel, int64_t k, int64_t depth) const {
    const int64_t n = panel * PANEL;
    const bool together = K % 64 == 0;  // all columns' blocks begin at the same k
    float by[PANEL];
    for (int64_t i = 0; i < depth; i++) {
      if (i == 0 || !together || (k + i) % 64 == 0)
        for (int64_t j = 0; j < PANEL; j++) {
          const int64_t at = (n + j) * K + k + i;
          if (i == 0 || at % 64 == 0) by[j] = scale(at);
        }
      decode(wide + i * PANEL, row(panel, k + i), numbers, by);
    }
  }

  // wide[i][16] = elements k0 … k0 + 15 of row n0 + i, for `depth` rows from n0, a multiple of 16.
  void transpose(float* wide, int64_t n0, int64_t depth, int64_t k0) const {
    const int64_t columns = smaller(PANEL, K - k0);
    for (int64_t n = 0; n < depth; n += PANEL) {
      float block[PANEL * PANEL] = {};
      widen(block, (n0 + n) / PANEL, k0, columns);
      float* target = wide + n * PANEL;
      const int64_t rows = smaller(PANEL, depth - n);
#if defined(__AVX2__)
      if (rows == PANEL) {
        for (int r = 0; r < PANEL; r += 8)
          for (int c = 0; c < PANEL; c += 8) transpose_8x8(target + r * PANEL + c, PANEL, block + c * PANEL + r, PANEL);
        continue;
      }
#endif
      for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < PANEL; c++) target[r * PANEL + c] = block[c * PANEL + r];
    }
  }
};

}  // namespace KERNEL_PATH
