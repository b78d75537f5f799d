// Checks shared by both libraries: supported combinations of types, dimensions, alignment, extents; status names and texts.
#include <cstdio>

#include "../driver/hooks.h"
#include "gemm.h"

namespace emulator::blas {

namespace {

// One past the last byte of the operand's whole batch.
uint64_t extent(const Matrix& x, int64_t batch) {
  if (!x.rows || !x.columns) return 0;
  const int64_t last = (batch - 1) * x.stride + (x.columns - 1) * x.leading + x.rows;
  return uint64_t(last) * uint64_t(size_of(x.type));
}

bool reachable(const Problem& problem, const char* operand, uint64_t address, uint64_t bytes) {
  if (!bytes || emulator_hook_inside(address, bytes)) return true;
  char text[320];
  snprintf(text, sizeof text, "%s, m=%lld n=%lld k=%lld: %s, %llu bytes at 0x%llx, does not lie inside one allocation",
           problem.name, (long long)problem.m, (long long)problem.n, (long long)problem.k, operand,
           (unsigned long long)bytes, (unsigned long long)address);
  emulator_hook_report("out-of-bounds", problem.name, text);
  emulator_hook_fault(700);
  return false;
}

void run(const void* data) {
  const Problem& problem = *static_cast<const Problem*>(data);
  const bool reads = problem.k && problem.alpha != 0;
  if (reads && !reachable(problem, "A", problem.a.address, extent(problem.a, problem.batch))) return;
  if (reads && !reachable(problem, "B", problem.b.address, extent(problem.b, problem.batch))) return;
  if (problem.beta != 0 && !reachable(problem, "C", problem.c.address, extent(problem.c, problem.batch))) return;
  if (!reachable(problem, "D", problem.d.address, extent(problem.d, problem.batch))) return;
  const uint64_t bias_bytes = problem.bias ? uint64_t(problem.m) * uint64_t(size_of(problem.bias_type)) : 0;
  if (!reachable(problem, "the bias", problem.bias, bias_bytes)) return;
  Problem read = problem;
  if (!reads) read.k = 0;  // alpha = 0 or k = 0: A and B are not read
  compute(read);
  const Matrix& d = problem.d;
  const uint64_t bytes = uint64_t(size_of(d.type));
  for (int64_t index = 0; index < problem.batch; index++)
    for (int64_t j = 0; j < problem.n; j++)
      emulator_hook_written(d.address + uint64_t(index * d.stride + j * d.leading) * bytes, uint64_t(problem.m) * bytes);
}

}  // namespace

bool supported(int compute, int a, int b, int c, int d) {
  if (c != d || a != b) return false;
  switch (compute) {
    case compute_32f:
    case compute_32f_pedantic:
      return a == f32 ? c == f32 : (a == bf16 || a == f16) && (c == a || c == f32);
    case compute_32f_fast_16f:
    case compute_32f_fast_16bf:
    case compute_32f_fast_tf32:
      return a == f32 && c == f32;
    default:
      return false;
  }
}

Rounding rounding_of(int compute, bool tf32_mode) {
  switch (compute) {
    case compute_32f_fast_16f: return Rounding::f16;
    case compute_32f_fast_16bf: return Rounding::bf16;
    case compute_32f_fast_tf32: return Rounding::tf32;
    case compute_32f: return tf32_mode ? Rounding::tf32 : Rounding::none;
    default: return Rounding::none;
  }
}

const char* fault_of(const Matrix& x) {
  if (x.rows < 0 || x.columns < 0) return "a negative size";
  if (x.leading < (x.rows > 1 ? x.rows : 1)) return "a leading dimension below the number of rows";
  if (!size_of(x.type)) return "an unknown type";
  if (x.rows && x.columns && x.address % uint64_t(size_of(x.type))) return "an address that is not aligned to the type";
  return nullptr;
}

Status submit(const Problem& problem, void* stream) {
  const int status = emulator_hook_submit(stream, problem.name, run, &problem, sizeof problem);
  return status ? execution_failed : success;
}

const char* status_name(int status) {
  switch (status) {
    case 0: return "CUBLAS_STATUS_SUCCESS";
    case 1: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3: return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7: return "CUBLAS_STATUS_INVALID_VALUE";
    case 8: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case 11: return "CUBLAS_STATUS_MAPPING_ERROR";
    case 13: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case 15: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case 16: return "CUBLAS_STATUS_LICENSE_ERROR";
    default: return "CUBLAS_STATUS_UNKNOWN";
  }
}

const char* status_text(int status) {
  switch (status) {
    case 0: return "success";
    case 1: return "the library was not initialized";
    case 3: return "the resource allocation failed";
    case 7: return "an unsupported value or parameter was passed to the function";
    case 8: return "the function requires an architectural feature absent from the device";
    case 11: return "an access to GPU memory space failed";
    case 13: return "the function failed to launch on the GPU";
    case 14: return "an internal operation failed";
    case 15: return "the functionality requested is not supported";
    case 16: return "the functionality requested requires some license and an error was detected when trying to check "
                    "the current licensing";
    default: return "<unknown>";
  }
}

}  // namespace emulator::blas
