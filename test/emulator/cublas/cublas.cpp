// libcublas: handles and the extended products. Leaves out levels 1 and 2, complex types, int8, float64, pointers of
// device memory for alpha and beta.
#include <set>
#include <string>
#include <utility>

#include "../driver/hooks.h"
#include "gemm.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

using namespace emulator::blas;

struct Handle {
  void* stream = nullptr;
  int math_mode = 0;
  bool workspace = false;  // the caller's own
};

std::set<Handle*>& handles() {
  static std::set<Handle*> live;
  return live;
}

Handle* find(void* handle) {
  const auto found = handles().find(static_cast<Handle*>(handle));
  return found == handles().end() ? nullptr : *found;
}

constexpr int tf32_mode = 3, disallow_reduced_precision = 16;

bool known_algorithm(int algorithm) {
  return (algorithm >= -1 && algorithm <= 23) || (algorithm >= 99 && algorithm <= 115);
}

// A product inside a captured graph needs the caller's workspace: the graph cannot keep the library's own pool.
void check_workspace(const Handle& handle, const char* name) {
  if (handle.workspace || !emulator_hook_capturing(handle.stream)) return;
  emulator_hook_report("no-workspace", name,
                       "captured without a workspace of the caller's (cublasSetWorkspace after cublasSetStream)");
}

Status gemm(const char* name, void* raw_handle, int transa, int transb, int64_t m, int64_t n, int64_t k, const void* alpha,
            Matrix a, Matrix b, const void* beta, Matrix c, int64_t batch, int compute_type, int algorithm) {
  emulator_hook_count(name);
  const Handle* handle = find(raw_handle);
  if (!handle) return not_initialized;
  if (transa < 0 || transa > 2 || transb < 0 || transb > 2 || m < 0 || n < 0 || k < 0 || batch < 0) return invalid_value;
  if (!known_algorithm(algorithm)) return invalid_value;
  if (!supported(compute_type, a.type, b.type, c.type, c.type)) return not_supported;
  a.rows = transa ? k : m;
  a.columns = transa ? m : k;
  b.rows = transb ? n : k;
  b.columns = transb ? k : n;
  c.rows = m;
  c.columns = n;
  for (const auto& [operand, matrix] : {std::pair{"A", a}, {"B", b}, {"C", c}}) {
    const char* fault = fault_of(matrix);
    if (!fault) continue;
    emulator_hook_report("blas-argument", name, (std::string(name) + ": " + operand + " has " + fault).c_str());
    return invalid_value;
  }
  if (!m || !n || !batch) return success;
  if (!alpha || !beta) return invalid_value;
  check_workspace(*handle, name);
  Problem problem{name, m, n, k, batch, transa != 0, transb != 0,
                  rounding_of(compute_type, (handle->math_mode & ~disallow_reduced_precision) == tf32_mode),
                  *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, c, c, 0, 0};
  return submit(problem, handle->stream);
}

}  // namespace

API int cublasCreate_v2(void** handle) {
  emulator_hook_count(__func__);
  if (!handle) return invalid_value;
  if (emulator_hook_status()) return not_initialized;
  auto* created = new Handle;
  handles().insert(created);
  emulator_hook_live("cublas", 1);
  *handle = created;
  return success;
}

API int cublasDestroy_v2(void* raw) {
  emulator_hook_count(__func__);
  Handle* handle = find(raw);
  if (!handle) return not_initialized;
  handles().erase(handle);
  emulator_hook_live("cublas", -1);
  delete handle;
  return success;
}

// Resets the workspace to the library's own pool (cuBLAS, cublasSetStream()).
API int cublasSetStream_v2(void* raw, void* stream) {
  emulator_hook_count(__func__);
  Handle* handle = find(raw);
  if (!handle) return not_initialized;
  handle->stream = stream;
  handle->workspace = false;
  return success;
}

API int cublasGetStream_v2(void* raw, void** stream) {
  emulator_hook_count(__func__);
  Handle* handle = find(raw);
  if (!handle) return not_initialized;
  if (!stream) return invalid_value;
  *stream = handle->stream;
  return success;
}

API int cublasSetWorkspace_v2(void* raw, void* workspace, size_t bytes) {
  emulator_hook_count(__func__);
  Handle* handle = find(raw);
  if (!handle) return not_initialized;
  const uint64_t address = uint64_t(workspace);
  if (bytes && (address % 256 || !emulator_hook_inside(address, bytes))) return invalid_value;
  handle->workspace = bytes > 0;
  return success;
}

API int cublasSetMathMode(void* raw, int mode) {
  emulator_hook_count(__func__);
  Handle* handle = find(raw);
  if (!handle) return not_initialized;
  if ((mode & ~disallow_reduced_precision) < 0 || (mode & ~disallow_reduced_precision) > tf32_mode) return invalid_value;
  handle->math_mode = mode;
  return success;
}

API int cublasGetMathMode(void* raw, int* mode) {
  emulator_hook_count(__func__);
  Handle* handle = find(raw);
  if (!handle) return not_initialized;
  if (!mode) return invalid_value;
  *mode = handle->math_mode;
  return success;
}

API int cublasSetPointerMode_v2(void* raw, int mode) {
  emulator_hook_count(__func__);
  if (!find(raw)) return not_initialized;
  return mode == 0 ? success : not_supported;  // scalars on the host only
}

API int cublasSetAtomicsMode(void* raw, int mode) {
  emulator_hook_count(__func__);
  if (!find(raw)) return not_initialized;
  return mode == 0 || mode == 1 ? success : invalid_value;
}

API int cublasGetVersion_v2(void* raw, int* version) {
  emulator_hook_count(__func__);
  if (!find(raw)) return not_initialized;
  if (!version) return invalid_value;
  *version = 130000;
  return success;
}

API int cublasGetProperty(int type, int* value) {
  if (!value || type < 0 || type > 2) return invalid_value;
  *value = type == 0 ? 13 : 0;
  return success;
}

API const char* cublasGetStatusName(int status) { return status_name(status); }
API const char* cublasGetStatusString(int status) { return status_text(status); }

API int cublasGemmEx(void* handle, int transa, int transb, int m, int n, int k, const void* alpha, const void* a, int atype,
                     int lda, const void* b, int btype, int ldb, const void* beta, void* c, int ctype, int ldc, int compute,
                     int algorithm) {
  return gemm(__func__, handle, transa, transb, m, n, k, alpha, {uint64_t(a), atype, 0, 0, lda, 0},
              {uint64_t(b), btype, 0, 0, ldb, 0}, beta, {uint64_t(c), ctype, 0, 0, ldc, 0}, 1, compute, algorithm);
}

API int cublasGemmStridedBatchedEx(void* handle, int transa, int transb, int m, int n, int k, const void* alpha,
                                   const void* a, int atype, int lda, long long stride_a, const void* b, int btype, int ldb,
                                   long long stride_b, const void* beta, void* c, int ctype, int ldc, long long stride_c,
                                   int batch, int compute, int algorithm) {
  return gemm(__func__, handle, transa, transb, m, n, k, alpha, {uint64_t(a), atype, 0, 0, lda, stride_a},
              {uint64_t(b), btype, 0, 0, ldb, stride_b}, beta, {uint64_t(c), ctype, 0, 0, ldc, stride_c}, batch, compute,
              algorithm);
}

API int cublasSgemm_v2(void* handle, int transa, int transb, int m, int n, int k, const float* alpha, const float* a, int lda,
                       const float* b, int ldb, const float* beta, float* c, int ldc) {
  return gemm(__func__, handle, transa, transb, m, n, k, alpha, {uint64_t(a), f32, 0, 0, lda, 0},
              {uint64_t(b), f32, 0, 0, ldb, 0}, beta, {uint64_t(c), f32, 0, 0, ldc, 0}, 1, compute_32f, -1);
}
