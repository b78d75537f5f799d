// A path that multiplies in bfloat16: the kernels of BASE_PATH, with its own products for bfloat16 operands. What rounds
// to bfloat16 for the most part is compiled anew, with the instruction for that.
// The build compiles this file once for vdpbf16ps and once for AMX (-DAMX_TILES), with -DKERNEL_PATH and -DBASE_PATH.
#include "ops.h"

#define KERNEL_DECLARATION(name, parameters, arguments) void name parameters;
#define SIZE_DECLARATION(name, parameters, arguments) int64_t name parameters;
namespace BASE_PATH {
CPU_OPS(KERNEL_DECLARATION)
CPU_SIZES(SIZE_DECLARATION)
extern const Kernels kernels;
}
#undef KERNEL_DECLARATION
#undef SIZE_DECLARATION

#include "attention_backward_bf16.cpp"
#include "glu.cpp"
#include "log_softmax.cpp"
#include "products_bf16.cpp"
#include "nf4_bf16.cpp"
#include "rope.cpp"
#include "experts_products.h"
#include "weights_bf16.cpp"

namespace KERNEL_PATH {

static int64_t thread_scratch_bound(int32_t V, int32_t D, int32_t F, int32_t H, int32_t Hkv, int32_t Dh,
                                    int32_t longest, int32_t T, int32_t wdtype) {
  const int64_t base = BASE_PATH::thread_scratch_bound(V, D, F, H, Hkv, Dh, longest, T, wdtype);
  if (wdtype != BFLOAT16) return base;
  return base + product_scratch_bytes() +
         larger(attention_scratch_bytes(H / Hkv, Dh), attention_backward_bytes(H / Hkv, Dh, longest));
}

// The base path's kernels take turns with the slot.
static int64_t common_scratch_bound(int32_t V, int32_t D, int32_t F, int32_t H, int32_t Hkv, int32_t Dh,
                                    int32_t longest, int32_t T, int32_t wdtype) {
  const int64_t base = BASE_PATH::common_scratch_bound(V, D, F, H, Hkv, Dh, longest, T, wdtype);
  if (wdtype != BFLOAT16) return base;
  const int64_t heads = (int64_t)H * Dh;
  return larger(base, converted_bytes(V, D, F, heads, heads + 2 * (int64_t)Hkv * Dh, T));
}

static double fma_peak(int64_t n) { return BASE_PATH::kernels.fma_peak(n); }

// Initialized at compile time: code that ran while loading the library would crash processors without these instructions.
#define KERNEL_ENTRY(name, parameters, arguments) BASE_PATH::name,
static constexpr Kernels table() {
  Kernels k = {CPU_OPS(KERNEL_ENTRY) CPU_SIZES(KERNEL_ENTRY) nullptr, multiply_peak, W};
  k.thread_scratch_bound = thread_scratch_bound;
  k.common_scratch_bound = common_scratch_bound;
  k.fma_peak = fma_peak;
  k.weight_elements = weight_elements;
  k.weight_pack = weight_pack;
  k.weight_unpack = weight_unpack;
  k.embedding_forward = embedding_forward;
  k.embedding_backward = embedding_backward;
  k.key_page_elements = key_page_elements;
  k.attention_scratch_elements = attention_scratch_elements;
  k.attention_forward = attention_forward;
  k.attention_backward = attention_backward;
  k.kv_store = kv_store;
  k.attention_decode = attention_decode;
  k.matmul_forward = matmul_forward;
  k.adapted_forward = adapted_forward_nf4;
  k.matmul_backward_input = matmul_backward_input;
  k.matmul_backward_weight = matmul_backward_weight;
  k.glu_forward = glu_forward;
  k.glu_backward = glu_backward;
  k.log_softmax_backward = log_softmax_backward;
  k.rope_forward = rope_forward;
  k.rope_backward = rope_backward;
  k.experts_forward = experts_forward;
  k.experts_backward_input = experts_backward_input;
  k.experts_backward_weight = experts_backward_weight;
  return k;
}
#undef KERNEL_ENTRY
extern const Kernels kernels;
constinit const Kernels kernels = table();

}  // namespace KERNEL_PATH
