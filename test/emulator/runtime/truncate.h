// Sums as tensor cores form them, if a test asks for it (Settings::accumulation). A step takes a fixed number of products plus
// the running sum, all exact; shifts each to the largest exponent among them; truncates below 2^-(23 + extra bits) of it; adds
// them exactly; and truncates the sum to float32. Everything rounds toward zero, so errors of a long sum do not cancel.
//
// Sources for this behaviour, with steps of 8 products and 1 extra bit on an A100, 16 and 2 on an H100: M. Fasi, N. J. Higham,
// M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330 (2021); X. Li et al.,
// "FTTN: Feature-targeted testing for numerical properties of NVIDIA & AMD matrix accelerators" (2024).
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#include "../engine.h"

namespace emulator {

struct Parts {
  int64_t significand = 0;  // with its sign; value = significand · 2^(exponent - 23)
  int exponent = 0;
};

inline Parts parts_of(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), field = bits >> 23 & 255, fraction = bits & 0x7fffff;
  const int64_t magnitude = field ? fraction | 0x800000 : fraction;
  return {bits >> 31 ? -magnitude : magnitude, field ? int(field) - 127 : -126};
}

// One step: sum + Σ a[i] · b[i·stride] over `count` products, at most 16.
inline float truncated_step(float sum, const float* a, const float* b, int stride, int count, int extra_bits) {
  constexpr int LOWEST = -149;  // exponent of the smallest float32
  int64_t significand[17];
  int exponent[17], used = 0, largest = INT32_MIN;
  bool finite = std::isfinite(sum);
  for (int i = 0; i < count; i++) {
    const float x = a[i], y = b[i * stride];
    finite &= std::isfinite(x) && std::isfinite(y);
    const Parts p = parts_of(x), q = parts_of(y);
    if (!p.significand || !q.significand) continue;
    significand[used] = p.significand * q.significand;  // · 2^(exponent - 46)
    exponent[used] = p.exponent + q.exponent;
    largest = exponent[used] > largest ? exponent[used] : largest;
    used++;
  }
  if (!finite) {  // NaN and infinities as IEEE 754 has them
    for (int i = 0; i < count; i++) sum += a[i] * b[i * stride];
    return sum;
  }
  if (const Parts p = parts_of(sum); p.significand) {
    significand[used] = p.significand << 23;
    exponent[used] = p.exponent;
    largest = exponent[used] > largest ? exponent[used] : largest;
    used++;
  }
  if (!used) return sum;
  int unit = largest - 23 - extra_bits;  // the sum counts multiples of 2^unit
  if (unit < LOWEST) unit = LOWEST;
  int64_t total = 0;
  for (int i = 0; i < used; i++) {
    const int64_t magnitude = significand[i] < 0 ? -significand[i] : significand[i];
    const int shift = unit - (exponent[i] - 46);  // at least 21, as no exponent exceeds the largest
    const int64_t kept = shift > 62 ? 0 : magnitude >> shift;
    total += significand[i] < 0 ? -kept : kept;
  }
  uint64_t magnitude = uint64_t(total < 0 ? -total : total);
  for (; magnitude >> 24; unit++) magnitude >>= 1;
  const float result = std::ldexp(float(magnitude), unit);
  return total < 0 ? -result : result;
}

// A sum of any length, in hardware-sized steps.
inline float truncated_sum(float sum, const float* a, const float* b, int stride, int count, const Accumulation& how) {
  for (int k = 0; k < count; k += how.products) {
    const int step = count - k < how.products ? count - k : how.products;
    sum = truncated_step(sum, a + k, b + k * stride, stride, step, how.extra_bits);
  }
  return sum;
}

}  // namespace emulator
