// libcublasLt: descriptors, the heuristic, the product with a bias in its epilogue. Leaves out other epilogues, orders other
// than column-major, scales and matrix transforms: the heuristic finds nothing for them.
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "../driver/hooks.h"
#include "gemm.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

using namespace emulator::blas;

enum Epilogue : uint32_t { plain = 1, with_bias = 4 };

struct Operation {
  int compute, scale;
  int32_t pointer_mode = 0, transa = 0, transb = 0, transc = 0;
  uint32_t epilogue = plain;
  uint64_t bias = 0;
  int32_t bias_type = -1;  // D's
  bool other = false;      // an attribute was set that has no effect here
};

struct Layout {
  int32_t type;
  uint64_t rows, columns;
  int64_t leading;
  int32_t order = 0, batch = 1;
  int64_t stride = 0;
};

struct Preference {
  uint64_t workspace = 0;
};

struct Algorithm {  // cublasLtMatmulAlgo_t
  uint64_t data[8];
};

struct HeuristicResult {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

constexpr uint64_t algorithm_mark = 0x656d756c61746f72;

template <class T>
std::set<T*>& objects() {
  static std::set<T*> live;
  return live;
}

template <class T>
T* find(void* pointer) {
  const auto found = objects<T>().find(static_cast<T*>(pointer));
  return found == objects<T>().end() ? nullptr : *found;
}

template <class T>
Status create(void** result, T value) {
  if (!result) return invalid_value;
  auto* created = new T(value);
  objects<T>().insert(created);
  emulator_hook_live("cublasLt", 1);
  *result = created;
  return success;
}

template <class T>
Status destroy(void* pointer) {
  T* object = find<T>(pointer);
  if (!object) return invalid_value;
  objects<T>().erase(object);
  emulator_hook_live("cublasLt", -1);
  delete object;
  return success;
}

struct LtHandle {};

template <class T>
Status assign(T* target, const void* buffer, size_t size) {
  if (!buffer || size != sizeof(T)) return invalid_value;
  memcpy(target, buffer, size);
  return success;
}

Matrix matrix_of(const Layout& layout, const void* address) {
  return {uint64_t(address), layout.type, int64_t(layout.rows), int64_t(layout.columns), layout.leading, layout.stride};
}

// Whether sizes match (else invalid_value) and such a product exists (else not_supported).
Status check(const Operation& operation, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const uint64_t m = operation.transa ? a.columns : a.rows, k = operation.transa ? a.rows : a.columns;
  const uint64_t n = operation.transb ? b.rows : b.columns, kb = operation.transb ? b.columns : b.rows;
  if (k != kb || d.rows != m || d.columns != n || c.rows != m || c.columns != n) return invalid_value;
  for (const Layout* each : {&a, &b, &c, &d})
    if (each->batch != d.batch || each->leading < int64_t(each->rows)) return invalid_value;
  if (operation.other || operation.transc || operation.pointer_mode || operation.scale != f32) return not_supported;
  if (a.order || b.order || c.order || d.order) return not_supported;
  if (operation.epilogue != plain && operation.epilogue != with_bias) return not_supported;
  if (!supported(operation.compute, a.type, b.type, c.type, d.type)) return not_supported;
  // The bias has D's type.
  const int bias_type = operation.bias_type < 0 ? d.type : operation.bias_type;
  if (operation.epilogue == with_bias && bias_type != d.type) return not_supported;
  return success;
}

}  // namespace

API int cublasLtCreate(void** handle) {
  emulator_hook_count(__func__);
  if (emulator_hook_status()) return not_initialized;
  return create(handle, LtHandle{});
}

API int cublasLtDestroy(void* handle) {
  emulator_hook_count(__func__);
  return destroy<LtHandle>(handle);
}

API size_t cublasLtGetVersion() { return 130000; }
API const char* cublasLtGetStatusName(int status) { return status_name(status); }
API const char* cublasLtGetStatusString(int status) { return status_text(status); }

API int cublasLtMatmulDescCreate(void** descriptor, int compute, int scale) {
  emulator_hook_count(__func__);
  return create(descriptor, Operation{.compute = compute, .scale = scale});
}

API int cublasLtMatmulDescDestroy(void* descriptor) {
  emulator_hook_count(__func__);
  return destroy<Operation>(descriptor);
}

API int cublasLtMatmulDescSetAttribute(void* descriptor, int attribute, const void* buffer, size_t size) {
  emulator_hook_count(__func__);
  Operation* operation = find<Operation>(descriptor);
  if (!operation) return invalid_value;
  switch (attribute) {
    case 0: return assign(&operation->compute, buffer, size);
    case 1: return assign(&operation->scale, buffer, size);
    case 2: return assign(&operation->pointer_mode, buffer, size);
    case 3: return assign(&operation->transa, buffer, size);
    case 4: return assign(&operation->transb, buffer, size);
    case 5: return assign(&operation->transc, buffer, size);
    case 7: return assign(&operation->epilogue, buffer, size);
    case 8: return assign(&operation->bias, buffer, size);
    case 26: return assign(&operation->bias_type, buffer, size);
    default:
      if (attribute < 0 || attribute > 41 || !buffer) return invalid_value;
      operation->other = true;
      return success;
  }
}

API int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  emulator_hook_count(__func__);
  return create(layout, Layout{.type = type, .rows = rows, .columns = columns, .leading = leading});
}

API int cublasLtMatrixLayoutDestroy(void* layout) {
  emulator_hook_count(__func__);
  return destroy<Layout>(layout);
}

API int cublasLtMatrixLayoutSetAttribute(void* pointer, int attribute, const void* buffer, size_t size) {
  emulator_hook_count(__func__);
  Layout* layout = find<Layout>(pointer);
  if (!layout) return invalid_value;
  switch (attribute) {
    case 0: return assign(&layout->type, buffer, size);
    case 1: return assign(&layout->order, buffer, size);
    case 2: return assign(&layout->rows, buffer, size);
    case 3: return assign(&layout->columns, buffer, size);
    case 4: return assign(&layout->leading, buffer, size);
    case 5: return assign(&layout->batch, buffer, size);
    case 6: return assign(&layout->stride, buffer, size);
    default: return invalid_value;
  }
}

API int cublasLtMatmulPreferenceCreate(void** preference) {
  emulator_hook_count(__func__);
  return create(preference, Preference{});
}

API int cublasLtMatmulPreferenceDestroy(void* preference) {
  emulator_hook_count(__func__);
  return destroy<Preference>(preference);
}

API int cublasLtMatmulPreferenceSetAttribute(void* pointer, int attribute, const void* buffer, size_t size) {
  emulator_hook_count(__func__);
  Preference* preference = find<Preference>(pointer);
  if (!preference || attribute < 0 || attribute > 15) return invalid_value;
  if (attribute == 1) return assign(&preference->workspace, buffer, size);
  return buffer ? success : invalid_value;
}

API int cublasLtMatmulAlgoGetHeuristic(void* handle, void* descriptor, void* a, void* b, void* c, void* d, void* preference,
                                       int requested, HeuristicResult* results, int* returned) {
  emulator_hook_count(__func__);
  if (!find<LtHandle>(handle)) return not_initialized;
  const Operation* operation = find<Operation>(descriptor);
  const Layout *la = find<Layout>(a), *lb = find<Layout>(b), *lc = find<Layout>(c), *ld = find<Layout>(d);
  if (!operation || !la || !lb || !lc || !ld || !find<Preference>(preference)) return invalid_value;
  if (requested <= 0 || !results || !returned) return invalid_value;
  *returned = 0;
  const Status status = check(*operation, *la, *lb, *lc, *ld);
  if (status) return status;
  results[0] = {};
  results[0].algorithm.data[0] = algorithm_mark;
  results[0].waves = 1;
  *returned = 1;
  return success;
}

API int cublasLtMatmul(void* handle, void* descriptor, const void* alpha, const void* a, void* adesc, const void* b,
                       void* bdesc, const void* beta, const void* c, void* cdesc, void* d, void* ddesc,
                       const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
  emulator_hook_count(__func__);
  if (!find<LtHandle>(handle)) return not_initialized;
  const Operation* operation = find<Operation>(descriptor);
  const Layout *la = find<Layout>(adesc), *lb = find<Layout>(bdesc), *lc = find<Layout>(cdesc), *ld = find<Layout>(ddesc);
  if (!operation || !la || !lb || !lc || !ld || !alpha || !beta) return invalid_value;
  if (algorithm && algorithm->data[0] != algorithm_mark) return invalid_value;
  if (const Status status = check(*operation, *la, *lb, *lc, *ld)) return status;
  const uint64_t space = uint64_t(workspace);
  if (workspace_bytes && (space % 256 || !emulator_hook_inside(space, workspace_bytes))) return invalid_value;
  if (operation->epilogue == with_bias && !operation->bias) return invalid_value;
  const int64_t m = int64_t(ld->rows), n = int64_t(ld->columns);
  const int64_t k = int64_t(operation->transa ? la->rows : la->columns);
  Problem problem{__func__, m, n, k, ld->batch, operation->transa != 0, operation->transb != 0,
                  rounding_of(operation->compute, false), *static_cast<const float*>(alpha),
                  *static_cast<const float*>(beta), matrix_of(*la, a), matrix_of(*lb, b), matrix_of(*lc, c),
                  matrix_of(*ld, d), operation->epilogue == with_bias ? operation->bias : 0,
                  operation->bias_type < 0 ? ld->type : operation->bias_type};
  for (const auto& [operand, matrix] : {std::pair{"A", problem.a}, {"B", problem.b}, {"C", problem.c}, {"D", problem.d}}) {
    if (operand[0] == 'C' && problem.beta == 0) continue;
    const char* fault = fault_of(matrix);
    if (!fault) continue;
    emulator_hook_report("blas-argument", __func__, (std::string("cublasLtMatmul: ") + operand + " has " + fault).c_str());
    return invalid_value;
  }
  if (!m || !n) return success;
  return submit(problem, stream);
}
