// The product itself: operands packed into float32 panels, sums over k in order within pieces of 256, and the pieces in order.
// The order is the same for every shape and thread, so a row's bits don't depend on the rest of the batch.
//
// If the driver says that tensor cores truncate, the products they would compute are summed that way instead
// (runtime/truncate.h), plainly and over the whole of k.
#include "gemm.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "../driver/hooks.h"
#include "../runtime/truncate.h"

namespace emulator::blas {

namespace {

constexpr int64_t panel_m = 16, panel_n = 6, block_m = 128, block_n = 768, block_k = 256;

float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

float from_bf16(uint16_t bits) { return from_bits(uint32_t(bits) << 16); }

uint16_t to_bf16(float value) {
  const uint32_t bits = to_bits(value);
  if (std::isnan(value)) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(float(mantissa | 1024), exponent - 25) : std::ldexp(float(mantissa), -24));
}

uint16_t to_f16(float value) {
  const uint16_t sign = uint16_t(to_bits(value) >> 16 & 0x8000);
  if (std::isnan(value)) return 0x7fff;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) return sign | uint16_t(std::nearbyint(magnitude * 0x1p24f));
  int exponent;
  const float fraction = std::frexp(magnitude, &exponent);  // [0.5, 1)
  return sign | uint16_t(((exponent + 13) << 10) + int(std::nearbyint(fraction * 2048.0f)));
}

// Ties away from zero, like cvt.rna.tf32.
float to_tf32(float value) { return std::isfinite(value) ? from_bits((to_bits(value) + 0x1000) & ~0x1fffu) : value; }

float rounded(float value, Rounding rounding) {
  switch (rounding) {
    case Rounding::tf32: return to_tf32(value);
    case Rounding::bf16: return from_bf16(to_bf16(value));
    case Rounding::f16: return from_f16(to_f16(value));
    case Rounding::none: break;
  }
  return value;
}

float load(const char* base, int type, int64_t index) {
  if (type == f32) return reinterpret_cast<const float*>(base)[index];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(base)[index];
  return type == bf16 ? from_bf16(bits) : from_f16(bits);
}

void store(char* base, int type, int64_t index, float value) {
  if (type == f32)
    reinterpret_cast<float*>(base)[index] = value;
  else
    reinterpret_cast<uint16_t*>(base)[index] = type == bf16 ? to_bf16(value) : to_f16(value);
}

// A matrix operand as the product traverses it: element (i, p) for p along k.
struct Operand {
  const char* base;
  int type;
  int64_t step_i, step_p;
  Rounding rounding;
};

// Rows i0.. of the operand, `width` per panel, as [panel][p][row]; rows past the end are zero.
template <int64_t width, class Read>
void pack_with(Read read, int64_t i0, int64_t rows, int64_t p0, int64_t depth, float* packed) {
  for (int64_t panel = 0; panel < rows; panel += width) {
    for (int64_t lane = 0; lane < width; lane++) {
      float* to = packed + panel * depth + lane;
      if (panel + lane < rows)
        for (int64_t p = 0; p < depth; p++) to[p * width] = read(i0 + panel + lane, p0 + p);
      else
        for (int64_t p = 0; p < depth; p++) to[p * width] = 0;
    }
  }
}

template <int64_t width>
void pack(const Operand& x, int64_t i0, int64_t rows, int64_t p0, int64_t depth, float* packed) {
  const auto* floats = reinterpret_cast<const float*>(x.base);
  const auto* shorts = reinterpret_cast<const uint16_t*>(x.base);
  const auto at = [&](int64_t i, int64_t p) { return i * x.step_i + p * x.step_p; };
  if (x.type == bf16)
    pack_with<width>([&](int64_t i, int64_t p) { return from_bf16(shorts[at(i, p)]); }, i0, rows, p0, depth, packed);
  else if (x.type == f32 && x.rounding == Rounding::none)
    pack_with<width>([&](int64_t i, int64_t p) { return floats[at(i, p)]; }, i0, rows, p0, depth, packed);
  else
    pack_with<width>([&](int64_t i, int64_t p) { return rounded(load(x.base, x.type, at(i, p)), x.rounding); }, i0, rows,
                     p0, depth, packed);
}

typedef float Four __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));

// sums (16 × `columns`, column-major with `leading`) += A panel · columns of the B panel. All are aligned to whole vectors.
template <class Lanes, int columns>
__attribute__((always_inline)) inline void multiply_columns(const float* a, const float* b, int64_t depth, float* sums,
                                                            int64_t leading) {
  constexpr int vectors = panel_m * sizeof(float) / sizeof(Lanes);
  Lanes total[columns][vectors] = {};
  for (int64_t p = 0; p < depth; p++) {
    const auto* column = reinterpret_cast<const Lanes*>(a + p * panel_m);
    for (int j = 0; j < columns; j++)
      for (int v = 0; v < vectors; v++) total[j][v] += column[v] * b[p * panel_n + j];
  }
  for (int j = 0; j < columns; j++) {
    auto* sum = reinterpret_cast<Lanes*>(sums + j * leading);
    for (int v = 0; v < vectors; v++) sum[v] += total[j][v];
  }
}

void multiply_narrow(const float* a, const float* b, int64_t depth, float* sums, int64_t leading) {
  for (int j = 0; j < panel_n; j += 2) multiply_columns<Four, 2>(a, b + j, depth, sums + j * leading, leading);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void multiply_wide(const float* a, const float* b, int64_t depth, float* sums,
                                                   int64_t leading) {
  multiply_columns<Eight, 6>(a, b, depth, sums, leading);
}
const auto multiply_panel = __builtin_cpu_supports("avx2") ? multiply_wide : multiply_narrow;
#else
const auto multiply_panel = multiply_narrow;
#endif

// Floats from an address aligned for vector loads.
struct Buffer {
  std::vector<float> floats;
  float* zeroed(int64_t count) {
    floats.assign(size_t(count + panel_m), 0.0f);
    return reinterpret_cast<float*>((uint64_t(floats.data()) + 63) & ~63ull);
  }
};

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Stores a sum of products as element (i, j) of the result; `c` and `d` are the starts of both in the batch.
void finish(const Problem& problem, const char* c, char* d, int64_t i, int64_t j, float sum) {
  float value = problem.alpha * sum;
  if (problem.beta != 0) value += problem.beta * load(c, problem.c.type, j * problem.c.leading + i);
  if (problem.bias) value += load(reinterpret_cast<char*>(problem.bias), problem.bias_type, i);
  store(d, problem.d.type, j * problem.d.leading + i, value);
}

// Rows [m0, m1) and columns [n0, n1) of one product of the batch.
void compute_part(const Problem& problem, int64_t index, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
  const auto base = [&](const Matrix& x) {
    return reinterpret_cast<char*>(x.address) + index * x.stride * size_of(x.type);
  };
  const Matrix &a = problem.a, &b = problem.b, &c = problem.c, &d = problem.d;
  const Operand left{base(a), a.type, problem.transpose_a ? a.leading : 1, problem.transpose_a ? 1 : a.leading,
                     problem.rounding};
  const Operand right{base(b), b.type, problem.transpose_b ? 1 : b.leading, problem.transpose_b ? b.leading : 1,
                      problem.rounding};
  const int64_t rows = m1 - m0, leading = round_up(rows, panel_m);
  static thread_local Buffer sums_buffer, a_buffer, b_buffer;
  const int64_t deepest = std::min(block_k, problem.k);
  float* packed_a = a_buffer.zeroed(std::min(block_m, leading) * deepest);
  float* packed_b = b_buffer.zeroed(round_up(std::min(block_n, n1 - n0), panel_n) * deepest);
  for (int64_t j0 = n0; j0 < n1; j0 += block_n) {
    const int64_t columns = std::min(block_n, n1 - j0);
    float* sums = sums_buffer.zeroed(leading * round_up(columns, panel_n));
    for (int64_t p0 = 0; p0 < problem.k; p0 += block_k) {
      const int64_t depth = std::min(block_k, problem.k - p0);
      pack<panel_n>(right, j0, columns, p0, depth, packed_b);
      for (int64_t i0 = 0; i0 < rows; i0 += block_m) {
        const int64_t height = std::min(block_m, rows - i0);
        pack<panel_m>(left, m0 + i0, height, p0, depth, packed_a);
        for (int64_t j = 0; j < columns; j += panel_n)
          for (int64_t i = 0; i < height; i += panel_m)
            multiply_panel(&packed_a[i * depth], &packed_b[j * depth], depth, &sums[j * leading + i0 + i], leading);
      }
    }
    for (int64_t j = 0; j < columns; j++)
      for (int64_t i = 0; i < rows; i++) finish(problem, base(c), base(d), m0 + i, j0 + j, sums[j * leading + i]);
  }
}

// Tensor cores compute products of 16-bit numbers, and of float32 ones that are rounded to 16 bits or to TF32.
bool on_tensor_cores(const Problem& problem) { return problem.a.type != f32 || problem.rounding != Rounding::none; }

void compute_truncated(const Problem& problem, int64_t index, const Accumulation& how) {
  const auto base = [&](const Matrix& x) {
    return reinterpret_cast<char*>(x.address) + index * x.stride * size_of(x.type);
  };
  const Matrix &a = problem.a, &b = problem.b, &c = problem.c, &d = problem.d;
  const auto element = [&](const Matrix& x, bool transposed, int64_t i, int64_t p) {
    return rounded(load(base(x), x.type, transposed ? i * x.leading + p : p * x.leading + i), problem.rounding);
  };
  std::vector<float> left(size_t(problem.m * problem.k)), right(size_t(problem.k));
  for (int64_t i = 0; i < problem.m; i++)
    for (int64_t p = 0; p < problem.k; p++) left[size_t(i * problem.k + p)] = element(a, problem.transpose_a, i, p);
  for (int64_t j = 0; j < problem.n; j++) {
    for (int64_t p = 0; p < problem.k; p++) right[size_t(p)] = element(b, !problem.transpose_b, j, p);
    for (int64_t i = 0; i < problem.m; i++) {
      const float sum = truncated_sum(0, &left[size_t(i * problem.k)], right.data(), 1, int(problem.k), how);
      finish(problem, base(c), base(d), i, j, sum);
    }
  }
}

int thread_count() {
  static const int count = [] {
    const char* asked = getenv("EMULATOR_THREADS");
    const int number = asked ? atoi(asked) : int(std::thread::hardware_concurrency());
    return std::clamp(number, 1, 16);
  }();
  return count;
}

}  // namespace

int size_of(int type) { return type == f32 ? 4 : type == bf16 || type == f16 ? 2 : 0; }

void compute(const Problem& problem) {
  Accumulation how;
  emulator_hook_accumulation(&how.products, &how.extra_bits);
  if (how.products && on_tensor_cores(problem)) {
    for (int64_t index = 0; index < problem.batch; index++) compute_truncated(problem, index, how);
    return;
  }
  const double work = double(problem.m) * double(problem.n) * double(problem.k);
  const int threads = work < double(1 << 22) ? 1 : thread_count();
  for (int64_t index = 0; index < problem.batch; index++) {
    // The longer side is split, at whole panels.
    const bool by_rows = problem.m >= problem.n;
    const int64_t length = by_rows ? problem.m : problem.n;
    const int64_t piece = round_up((length + threads - 1) / threads, by_rows ? panel_m : panel_n);
    const auto part = [&](int64_t from) {
      const int64_t to = std::min(length, from + piece);
      if (by_rows) compute_part(problem, index, from, to, 0, problem.n);
      else compute_part(problem, index, 0, problem.m, from, to);
    };
    std::vector<std::thread> others;
    for (int64_t from = piece; from < length; from += piece) others.emplace_back(part, from);
    part(0);
    for (std::thread& other : others) other.join();
  }
}

}  // namespace emulator::blas
