// Every kernel that the bindings call: name, parameters, arguments. The dispatcher, each path's table and the
// declarations are generated from this one list. Argument order: outputs, inputs, saved statistics, sizes, scalars.
//
// Legend: T tokens, D hidden width, F intermediate width, H heads, Dh head size, V vocabulary, B sequences, S segments,
// N rows or outputs. dtype codes: 0 float32, 1 bfloat16 (2 float16, as a source only). Gradients of activations are
// float32 and written (=); gradients of parameters are float32 and accumulated (+=).
#pragma once
#include <stdint.h>

// What an adapter adds to a product: in columns [first, first + N), down (M, rank) · bᵀ, b (N, rank) in the layout of weights.
// `down` has x's type and b the weight's; first is a multiple of 16.
struct AdapterTerm {
  const void* down;
  const void* b;
  int64_t rank, ld, first, N;
};

#define CPU_OPS(OP)                                                                                                    \
  OP(matmul_forward,                                                                                                   \
     (void* y, const void* x, const void* w, const void* bias, int32_t M, int32_t N, int32_t K, int32_t ldy,           \
      int32_t ldx, int32_t ydtype, int32_t xdtype, int32_t wdtype, int32_t accumulate, float factor),                  \
     (y, x, w, bias, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate, factor))                                   \
  OP(adapted_forward,                                                                                                  \
     (void* y, const void* x, const void* w, const void* bias, const AdapterTerm* terms, int32_t count, int32_t M,     \
      int32_t N, int32_t K, int32_t ldy, int32_t ldx, int32_t ydtype, int32_t xdtype, int32_t wdtype,                  \
      int32_t accumulate),                                                                                             \
     (y, x, w, bias, terms, count, M, N, K, ldy, ldx, ydtype, xdtype, wdtype, accumulate))                             \
  OP(matmul_backward_input,                                                                                            \
     (void* dx, const void* dy, const void* w, int32_t M, int32_t N, int32_t K, int32_t lddx, int32_t lddy,            \
      int32_t dxdtype, int32_t dydtype, int32_t wdtype, int32_t accumulate, float factor),                             \
     (dx, dy, w, M, N, K, lddx, lddy, dxdtype, dydtype, wdtype, accumulate, factor))                                   \
  OP(matmul_backward_weight,                                                                                           \
     (float* dw, const void* dy, const void* x, int32_t M, int32_t N, int32_t K, int32_t lddy, int32_t ldx,            \
      int32_t dydtype, int32_t xdtype),                                                                                \
     (dw, dy, x, M, N, K, lddy, ldx, dydtype, xdtype))                                                                 \
  OP(bias_backward, (float* dbias, const void* dy, int32_t M, int32_t N, int32_t lddy, int32_t dydtype),               \
     (dbias, dy, M, N, lddy, dydtype))                                                                                 \
  OP(weight_pack,                                                                                                      \
     (void* w, const void* source, int32_t n0, int32_t rows, int32_t N, int32_t K, int32_t wdtype,                     \
      int32_t source_dtype, int32_t layout_dtype),                                                                     \
     (w, source, n0, rows, N, K, wdtype, source_dtype, layout_dtype))                                                  \
  OP(weight_unpack,                                                                                                    \
     (void* target, const void* w, int32_t n0, int32_t rows, int32_t K, int32_t target_dtype, int32_t wdtype,          \
      int32_t layout_dtype),                                                                                           \
     (target, w, n0, rows, K, target_dtype, wdtype, layout_dtype))                                                     \
  OP(next_tokens, (int32_t* tokens, const int32_t* ids, const int32_t* from, int32_t B), (tokens, ids, from, B))       \
  OP(embedding_forward,                                                                                                \
     (float* x, const int32_t* ids, const void* w, int32_t T, int32_t D, int32_t wdtype),                              \
     (x, ids, w, T, D, wdtype))                                                                                        \
  OP(embedding_backward,                                                                                               \
     (float* dw, const float* dx, const int32_t* ids, int32_t T, int32_t D, int32_t wdtype),                           \
     (dw, dx, ids, T, D, wdtype))                                                                                      \
  OP(rmsnorm_forward,                                                                                                  \
     (void* y, float* rstd, const void* x, const void* weight, int32_t T, int32_t H, int32_t D, int32_t ldy,           \
      int32_t ldx, float eps, float offset, int32_t ydtype, int32_t xdtype, int32_t wdtype),                           \
     (y, rstd, x, weight, T, H, D, ldy, ldx, eps, offset, ydtype, xdtype, wdtype))                                     \
  OP(rmsnorm_backward,                                                                                                 \
     (void* dx, float* dweight, const void* dy, const void* x, const void* weight, const float* rstd,                  \
      const float* dresidual, int32_t T, int32_t H, int32_t D, int32_t lddx, int32_t lddy, int32_t ldx, float offset,  \
      int32_t dxdtype, int32_t dydtype, int32_t xdtype, int32_t wdtype),                                               \
     (dx, dweight, dy, x, weight, rstd, dresidual, T, H, D, lddx, lddy, ldx, offset, dxdtype, dydtype, xdtype, wdtype))\
  OP(rope_forward,                                                                                                     \
     (void* x, const int32_t* positions, const float* cos, const float* sin, int32_t T, int32_t H, int32_t Dh,         \
      int32_t ldx, int32_t dtype),                                                                                     \
     (x, positions, cos, sin, T, H, Dh, ldx, dtype))                                                                   \
  OP(rope_backward,                                                                                                    \
     (void* dx, const int32_t* positions, const float* cos, const float* sin, int32_t T, int32_t H, int32_t Dh,        \
      int32_t lddx, int32_t dtype),                                                                                    \
     (dx, positions, cos, sin, T, H, Dh, lddx, dtype))                                                                 \
  OP(heads_forward,                                                                                                    \
     (void* qkv, float* rstd_q, float* rstd_k, const void* raw, const void* weight_q, const void* weight_k,            \
      const int32_t* positions, const float* cos, const float* sin, int32_t T, int32_t H, int32_t Hkv, int32_t Dh,     \
      int32_t ldqkv, int32_t ldraw, float eps, float offset, int32_t dtype, int32_t wdtype),                           \
     (qkv, rstd_q, rstd_k, raw, weight_q, weight_k, positions, cos, sin, T, H, Hkv, Dh, ldqkv, ldraw, eps, offset,     \
      dtype, wdtype))                                                                                                  \
  OP(attention_forward,                                                                                                \
     (void* out, float* lse, const void* q, const void* k, const void* v, const int32_t* segments, int32_t S,          \
      int32_t T, int32_t H, int32_t Hkv, int32_t Dh, int32_t window, int32_t ldo, int32_t ldq, float scale,            \
      int32_t dtype),                                                                                                  \
     (out, lse, q, k, v, segments, S, T, H, Hkv, Dh, window, ldo, ldq, scale, dtype))                                  \
  OP(attention_backward,                                                                                               \
     (void* dq, void* dk, void* dv, const void* dout, const void* q, const void* k, const void* v,                     \
      const void* out, const float* lse, const int32_t* segments, float* scratch, int32_t scratch_rows, int32_t S,     \
      int32_t T, int32_t H, int32_t Hkv, int32_t Dh, int32_t window, int32_t ldq, int32_t ldo, float scale,            \
      int32_t dtype, int32_t gdtype),                                                                                  \
     (dq, dk, dv, dout, q, k, v, out, lse, segments, scratch, scratch_rows, S, T, H, Hkv, Dh, window, ldq, ldo, scale, \
      dtype, gdtype))                                                                                                  \
  OP(kv_store,                                                                                                         \
     (void* kpages, void* vpages, const void* k, const void* v, const int32_t* page, const int32_t* offset,            \
      int32_t T, int32_t Hkv, int32_t Dh, int32_t ldkv, int32_t dtype),                                                \
     (kpages, vpages, k, v, page, offset, T, Hkv, Dh, ldkv, dtype))                                                    \
  OP(attention_decode,                                                                                                 \
     (void* out, const void* q, const void* kpages, const void* vpages, const int32_t* page_table,                     \
      const int32_t* prompt_lengths, const int32_t* completion_lengths, int32_t B, int32_t table_width, int32_t H,     \
      int32_t Hkv, int32_t Dh, int32_t window, int32_t ldo, int32_t ldq, float scale, int32_t dtype),                  \
     (out, q, kpages, vpages, page_table, prompt_lengths, completion_lengths, B, table_width, H, Hkv, Dh, window, ldo, \
      ldq, scale, dtype))                                                                                              \
  OP(glu_forward, (void* y, const void* x, int32_t T, int32_t F, int32_t gelu, int32_t dtype),                         \
     (y, x, T, F, gelu, dtype))                                                                                        \
  OP(glu_backward,                                                                                                     \
     (void* dx, void* y, const void* dy, const void* x, int32_t T, int32_t F, int32_t gelu, int32_t dtype,             \
      int32_t gdtype),                                                                                                 \
     (dx, y, dy, x, T, F, gelu, dtype, gdtype))                                                                         \
  OP(route_forward,                                                                                                    \
     (float* weights, int32_t* experts, float* probabilities, const float* logits, int32_t T, int32_t E, int32_t K,    \
      int32_t normalized, int32_t given),                                                                              \
     (weights, experts, probabilities, logits, T, E, K, normalized, given))                                            \
  OP(route_backward,                                                                                                   \
     (float* dlogits, const float* dweights, const float* weights, const int32_t* experts,                             \
      const float* probabilities, int32_t T, int32_t E, int32_t K, int32_t normalized),                                \
     (dlogits, dweights, weights, experts, probabilities, T, E, K, normalized))                                        \
  OP(balance_forward,                                                                                                  \
     (float* load, const float* probabilities, const float* row_weights, int32_t T, int32_t E),                        \
     (load, probabilities, row_weights, T, E))                                                                         \
  OP(balance_backward,                                                                                                 \
     (float* dlogits, const float* probabilities, const float* slopes, const float* row_weights, int32_t T, int32_t E),\
     (dlogits, probabilities, slopes, row_weights, T, E))                                                              \
  OP(dispatch,                                                                                                         \
     (int32_t* offsets, int32_t* order, int32_t* places, const int32_t* experts, int32_t T, int32_t E, int32_t K),     \
     (offsets, order, places, experts, T, E, K))                                                                       \
  OP(gather_pairs,                                                                                                     \
     (void* y, const void* x, const int32_t* order, int32_t P, int32_t K, int32_t D, int32_t dtype),                   \
     (y, x, order, P, K, D, dtype))                                                                                    \
  OP(scatter_pairs,                                                                                                    \
     (void* dx, const void* dy, const int32_t* places, int32_t T, int32_t K, int32_t D, int32_t gdtype),               \
     (dx, dy, places, T, K, D, gdtype))                                                                                \
  OP(combine_forward,                                                                                                  \
     (float* x, const void* y, const int32_t* places, const float* weights, int32_t T, int32_t K, int32_t D,           \
      int32_t dtype),                                                                                                  \
     (x, y, places, weights, T, K, D, dtype))                                                                          \
  OP(combine_backward,                                                                                                 \
     (void* dy, float* dweights, const float* dx, const void* y, const int32_t* places, const float* weights,          \
      int32_t T, int32_t K, int32_t D, int32_t dtype, int32_t gdtype),                                                 \
     (dy, dweights, dx, y, places, weights, T, K, D, dtype, gdtype))                                                   \
  OP(experts_forward,                                                                                                  \
     (void* y, const void* x, const void* w, const int32_t* offsets, int32_t E, int64_t next, int32_t N, int32_t K,    \
      int32_t ldy, int32_t ldx, int32_t ydtype, int32_t xdtype, int32_t wdtype),                                       \
     (y, x, w, offsets, E, next, N, K, ldy, ldx, ydtype, xdtype, wdtype))                                              \
  OP(experts_backward_input,                                                                                           \
     (void* dx, const void* dy, const void* w, const int32_t* offsets, int32_t E, int64_t next, int32_t N, int32_t K,  \
      int32_t lddx, int32_t lddy, int32_t dxdtype, int32_t dydtype, int32_t wdtype, int32_t accumulate),               \
     (dx, dy, w, offsets, E, next, N, K, lddx, lddy, dxdtype, dydtype, wdtype, accumulate))                            \
  OP(experts_backward_weight,                                                                                          \
     (float* dw, const void* dy, const void* x, const int32_t* offsets, int32_t E, int64_t next, int32_t N, int32_t K, \
      int32_t lddy, int32_t ldx, int32_t dydtype, int32_t xdtype),                                                     \
     (dw, dy, x, offsets, E, next, N, K, lddy, ldx, dydtype, xdtype))                                                  \
  OP(log_softmax_forward,                                                                                              \
     (float* logprob, float* entropy, float* lse, const float* logits, const int32_t* entry_start,                     \
      const int32_t* targets, int32_t rows, int32_t vocabulary, float inverse_temperature),                            \
     (logprob, entropy, lse, logits, entry_start, targets, rows, vocabulary, inverse_temperature))                     \
  OP(log_softmax_backward,                                                                                             \
     (void* dlogits, const float* logits, const float* dlogprob, const float* dentropy, const int32_t* entry_start,    \
      const int32_t* targets, const float* lse, const float* entropy, int32_t rows, int32_t vocabulary,                \
      float inverse_temperature, int32_t gdtype),                                                                      \
     (dlogits, logits, dlogprob, dentropy, entry_start, targets, lse, entropy, rows, vocabulary, inverse_temperature,  \
      gdtype))                                                                                                         \
  OP(sample,                                                                                                           \
     (int32_t* ids, float* logprob, float* sampling_logprob, const float* logits, const int32_t* logit_row,            \
      const int32_t* counters, uint32_t* seen, int32_t B, int32_t vocabulary, uint32_t seed, uint32_t stream,          \
      int32_t greedy, float inverse_temperature, int32_t top_k, float top_p, float min_p, float repetition_penalty),   \
     (ids, logprob, sampling_logprob, logits, logit_row, counters, seen, B, vocabulary, seed, stream, greedy,          \
      inverse_temperature, top_k, top_p, min_p, repetition_penalty))                                                   \
  OP(adamw,                                                                                                            \
     (void* p, uint16_t* master, float* m, float* v, const float* g, int64_t n, float lr, float beta1, float beta2,    \
      float eps, float weight_decay, float correction1, float correction2, float grad_scale, int32_t form,             \
      uint32_t seed, uint32_t stream, uint32_t step, uint32_t parameter, int64_t first_element),                       \
     (p, master, m, v, g, n, lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale, form, seed,    \
      stream, step, parameter, first_element))                                                                         \
  OP(adamw_8bit,                                                                                                       \
     (void* p, uint16_t* master, uint8_t* m, float* m_absmax, uint8_t* v, float* v_absmax, const float* g,             \
      const float* maps, const uint8_t* nearest, int64_t n, float lr, float beta1, float beta2, float eps,             \
      float weight_decay, float correction1, float correction2, float grad_scale, int32_t form, uint32_t seed,         \
      uint32_t stream, uint32_t step, uint32_t parameter, int64_t first_element),                                      \
     (p, master, m, m_absmax, v, v_absmax, g, maps, nearest, n, lr, beta1, beta2, eps, weight_decay, correction1,      \
      correction2, grad_scale, form, seed, stream, step, parameter, first_element))                                    \
  OP(masters, (float* y, const void* p, const uint16_t* lower, int64_t n, int32_t accumulate),                         \
     (y, p, lower, n, accumulate))                                                                                     \
  OP(split_masters, (void* p, uint16_t* lower, const float* x, int64_t n), (p, lower, x, n))                           \
  OP(sum_squares, (double* sum, const float* x, int64_t n), (sum, x, n))                                               \
  OP(scale, (float* x, int64_t n, float factor), (x, n, factor))                                                       \
  OP(add, (float* y, const float* x, int64_t n), (y, x, n))                                                            \
  OP(softcap_forward, (float* x, int64_t n, float cap), (x, n, cap))                                                   \
  OP(softcap_backward, (void* dx, const float* y, int64_t n, float cap, int32_t gdtype), (dx, y, n, cap, gdtype))      \
  OP(fill, (float* x, int64_t n, float value), (x, n, value))                                                          \
  OP(cast, (void* y, const void* x, int64_t n, int32_t ydtype, int32_t xdtype), (y, x, n, ydtype, xdtype))             \
  OP(gather_rows, (float* y, const float* x, const int32_t* rows, int32_t N, int32_t D), (y, x, rows, N, D))           \
  OP(scatter_rows,                                                                                                     \
     (float* dx, const void* dy, const int32_t* rows, int32_t N, int32_t T, int32_t D, int32_t gdtype),                \
     (dx, dy, rows, N, T, D, gdtype))

// What a caller must know in advance: elements that the kernels' layouts take, and upper bounds of the bytes of scratch
// memory over all kernels of a model, of each thread and of one thread for all. `longest`: tokens of a sequence, T: of a batch;
// wdtype: BFLOAT16 unless all operands of all products are float32.
#define CPU_SIZES(SIZE)                                                                                                \
  SIZE(weight_elements, (int32_t N, int32_t K, int32_t wdtype), (N, K, wdtype))                                        \
  SIZE(key_page_elements, (int32_t Hkv, int32_t Dh), (Hkv, Dh))                                                        \
  SIZE(value_page_elements, (int32_t Hkv, int32_t Dh), (Hkv, Dh))                                                      \
  SIZE(attention_scratch_elements, (int32_t Hkv, int32_t Dh), (Hkv, Dh))                                               \
  SIZE(thread_scratch_bound,                                                                                           \
       (int32_t V, int32_t D, int32_t F, int32_t H, int32_t Hkv, int32_t Dh, int32_t longest, int32_t T,               \
        int32_t wdtype),                                                                                               \
       (V, D, F, H, Hkv, Dh, longest, T, wdtype))                                                                              \
  SIZE(common_scratch_bound,                                                                                           \
       (int32_t V, int32_t D, int32_t F, int32_t H, int32_t Hkv, int32_t Dh, int32_t longest, int32_t T,               \
        int32_t wdtype),                                                                                               \
       (V, D, F, H, Hkv, Dh, longest, T, wdtype))

#define KERNEL_POINTER(name, parameters, arguments) void(*name) parameters;
#define SIZE_POINTER(name, parameters, arguments) int64_t(*name) parameters;
struct Kernels {
  CPU_OPS(KERNEL_POINTER)
  CPU_SIZES(SIZE_POINTER)
  // Sustained multiply-adds of this path in float32, and of its products with bfloat16 weights (the same where it widens
  // those), for the shares of peak that are reported: runs `n` rounds, returns floating-point operations done.
  double (*fma_peak)(int64_t n);
  double (*product_peak)(int64_t n);
  int lanes;
};
#undef KERNEL_POINTER
#undef SIZE_POINTER
