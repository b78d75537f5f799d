// Matrix products as cuBLAS defines them, D = alpha op(A) op(B) + beta C (+ bias), all column-major: the code shared by
// libcublas and libcublasLt. Deliberately independent of the project's own kernels.
#pragma once
#include <cstdint>

namespace emulator::blas {

// cudaDataType
enum Type : int { f32 = 0, f64 = 1, f16 = 2, i8 = 3, bf16 = 14 };

// cublasComputeType_t
enum Compute : int {
  compute_32f = 68,
  compute_32f_pedantic = 69,
  compute_32f_fast_16f = 74,
  compute_32f_fast_16bf = 75,
  compute_32f_fast_tf32 = 77,
};

// cublasStatus_t
enum Status : int {
  success = 0,
  not_initialized = 1,
  alloc_failed = 3,
  invalid_value = 7,
  mapping_error = 11,
  execution_failed = 13,
  internal_error = 14,
  not_supported = 15,
};

// How the tensor cores treat float32 operands.
enum class Rounding : int { none, tf32, bf16, f16 };

struct Matrix {
  uint64_t address;
  int type;
  int64_t rows, columns, leading, stride;  // as stored; stride in elements between matrices of a batch
};

// Plain data: it is copied when the work is queued, and kept by graphs.
struct Problem {
  const char* name;
  int64_t m, n, k, batch;
  bool transpose_a, transpose_b;
  Rounding rounding;
  float alpha, beta;
  Matrix a, b, c, d;
  uint64_t bias;  // m values, one per row of D; 0: none
  int bias_type;
};

int size_of(int type);  // bytes; 0 for an unsupported type

// Whether cuBLAS has a product of these types: its table of supported combinations, for real types, without int8.
bool supported(int compute, int a, int b, int c, int d);
Rounding rounding_of(int compute, bool tf32_mode);

// Checks sizes, leading dimensions and alignment of one operand; null, or the error.
const char* fault_of(const Matrix&);

// Queues the product. Memory is checked when it runs: an extent outside its allocation is reported and ends the context, as the
// illegal access would.
Status submit(const Problem&, void* stream);

void compute(const Problem&);

const char* status_name(int status);
const char* status_text(int status);

}  // namespace emulator::blas
