// A mixture of experts (Shazeer et al. 2017; Qwen3, arXiv 2505.09388): each of T tokens goes to K of E experts, and pairs of a
// token and an expert, P = T · K, lie side by side by expert.
//
//   route_forward     probabilities (T, E) = softmax(logits); experts (T, K) = the K most probable, the first of equal ones, or
//                     as they are (given); weights (T, K) = their probabilities, which may be scaled to a sum of 1 (normalized)
//   route_backward    dlogits (T, E) =   from dweights (T, K)
//   balance_forward   load (E) +=   Σₜ row weight · probability
//   balance_backward  dlogits (T, E) +=   of a loss with the slopes (E) in `load`
//   dispatch          offsets (E + 1) =, order (P) = t · K + k of each pair, by expert and then by token, places (T, K) = where
//                     in it a pair is
//   gather_pairs      y (P, D) = rows of x (T, D)           scatter_pairs  dx (T, D) = Σₖ dy at the token's places
//   combine_forward   x (T, D) += Σₖ weight · y at the token's places
//   combine_backward  dy (P, D) =, dweights (T, K) =
//   experts_forward, experts_backward_input, experts_backward_weight: products of each expert's rows (matmul.cpp), whose
//                     weight lies `next` elements behind the one before
//
// A token's result is a sum over its own experts in the order of their probabilities, whatever else is in the batch.
#include "simd.h"
#include "threads.h"

namespace KERNEL_PATH {

void route_forward(float* weights, int32_t* experts, float* probabilities, const float* logits, int32_t T, int32_t E,
                   int32_t K, int32_t normalized, int32_t given) {
  parallel(ceil_div(T, 16), [&](int64_t block) {
    for (int64_t t = block * 16; t < smaller(T, block * 16 + 16); t++) {
      const float* row = logits + t * E;
      float* p = probabilities + t * E;
      int32_t* own = experts + t * K;
      float top = row[0], sum = 0;
      for (int64_t e = 1; e < E; e++) top = row[e] > top ? row[e] : top;
      for (int64_t e = 0; e < E; e++) sum += p[e] = exp1(row[e] - top);
      for (int64_t e = 0; e < E; e++) p[e] /= sum;
      for (int64_t k = 0; !given && k < K; k++) {
        int32_t best = -1;
        for (int32_t e = 0; e < E; e++) {
          bool taken = false;
          for (int64_t i = 0; i < k; i++) taken = taken || own[i] == e;
          // the first of equal ones; one that is not a number is taken rather than none
          if (!taken && (best < 0 || p[e] > p[best])) best = e;
        }
        own[k] = best;
      }
      float all = 0;
      for (int64_t k = 0; k < K; k++) all += weights[t * K + k] = p[own[k]];
      for (int64_t k = 0; normalized && k < K; k++) weights[t * K + k] /= all;
    }
  });
}

// Of softmax: dl_e = p_e (dp_e − Σ p dp). Of the scaled weights w_k = p_k / s: dp_k = (dw_k − Σ w dw) / s.
void route_backward(float* dlogits, const float* dweights, const float* weights, const int32_t* experts,
                    const float* probabilities, int32_t T, int32_t E, int32_t K, int32_t normalized) {
  parallel(ceil_div(T, 16), [&](int64_t block) {
    for (int64_t t = block * 16; t < smaller(T, block * 16 + 16); t++) {
      const float *p = probabilities + t * E, *dw = dweights + t * K, *w = weights + t * K;
      const int32_t* own = experts + t * K;
      float* dl = dlogits + t * E;
      float shared = 0, scale = 1, mean = 0;
      if (normalized) {
        float sum = 0;
        for (int64_t k = 0; k < K; k++) shared += w[k] * dw[k], sum += p[own[k]];
        scale = 1.0f / sum;
      }
      for (int64_t k = 0; k < K; k++) mean += p[own[k]] * (dw[k] - shared) * scale;
      for (int64_t e = 0; e < E; e++) dl[e] = -p[e] * mean;
      for (int64_t k = 0; k < K; k++) dl[own[k]] += p[own[k]] * (dw[k] - shared) * scale;
    }
  });
}

void balance_forward(float* load, const float* probabilities, const float* row_weights, int32_t T, int32_t E) {
  parallel(ceil_div(E, 16), [&](int64_t block) {
    for (int64_t e = block * 16; e < smaller(E, block * 16 + 16); e++) {
      double sum = 0;
      for (int64_t t = 0; t < T; t++) sum += (double)row_weights[t] * probabilities[t * E + e];
      load[e] += (float)sum;
    }
  });
}

// dl_e += w p_e (s_e − Σ p s)
void balance_backward(float* dlogits, const float* probabilities, const float* slopes, const float* row_weights,
                      int32_t T, int32_t E) {
  parallel(ceil_div(T, 16), [&](int64_t block) {
    for (int64_t t = block * 16; t < smaller(T, block * 16 + 16); t++) {
      const float* p = probabilities + t * E;
      float mean = 0;
      for (int64_t e = 0; e < E; e++) mean += p[e] * slopes[e];
      for (int64_t e = 0; e < E; e++) dlogits[t * E + e] += row_weights[t] * p[e] * (slopes[e] - mean);
    }
  });
}

void dispatch(int32_t* offsets, int32_t* order, int32_t* places, const int32_t* experts, int32_t T, int32_t E,
              int32_t K) {
  const int64_t pairs = (int64_t)T * K;
  for (int64_t e = 0; e <= E; e++) offsets[e] = 0;
  for (int64_t i = 0; i < pairs; i++) offsets[experts[i] + 1]++;
  for (int64_t e = 0; e < E; e++) offsets[e + 1] += offsets[e];
  // each expert's offset walks to its end, and is then moved back
  for (int64_t i = 0; i < pairs; i++) {
    places[i] = offsets[experts[i]]++;
    order[places[i]] = (int32_t)i;
  }
  for (int64_t e = E; e > 0; e--) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

void gather_pairs(void* y, const void* x, const int32_t* order, int32_t P, int32_t K, int32_t D, int32_t dtype) {
  WITH_DTYPE(dtype, TX, {
    parallel(ceil_div(P, 16), [&](int64_t block) {
      for (int64_t i = block * 16; i < smaller(P, block * 16 + 16); i++)
        memcpy((TX*)y + i * D, (const TX*)x + order[i] / K * (int64_t)D, sizeof(TX) * D);
    });
  });
}

void scatter_pairs(void* dx, const void* dy, const int32_t* places, int32_t T, int32_t K, int32_t D, int32_t gdtype) {
  WITH_DTYPE(gdtype, TG, parallel(ceil_div(T, 8), [&](int64_t block) {
    for (int64_t t = block * 8; t < smaller(T, block * 8 + 8); t++)
      for (int64_t d = 0; d < D; d += W) {
        const int n = (int)smaller(W, D - d);
        V sum = zero();
        for (int64_t k = 0; k < K; k++) sum = add(sum, load_upto((const TG*)dy + (int64_t)places[t * K + k] * D + d, n));
        store_upto((TG*)dx + t * D + d, sum, n);
      }
  }););
}

void combine_forward(float* x, const void* y, const int32_t* places, const float* weights, int32_t T, int32_t K,
                     int32_t D, int32_t dtype) {
  WITH_DTYPE(dtype, TY, {
    parallel(ceil_div(T, 8), [&](int64_t block) {
      for (int64_t t = block * 8; t < smaller(T, block * 8 + 8); t++)
        for (int64_t d = 0; d < D; d += W) {
          const int n = (int)smaller(W, D - d);
          V sum = zero();
          for (int64_t k = 0; k < K; k++)
            sum = fma(set1(weights[t * K + k]), load_upto((const TY*)y + (int64_t)places[t * K + k] * D + d, n), sum);
          store_upto(x + t * D + d, add(load_upto(x + t * D + d, n), sum), n);
        }
    });
  });
}

void combine_backward(void* dy, float* dweights, const float* dx, const void* y, const int32_t* places,
                      const float* weights, int32_t T, int32_t K, int32_t D, int32_t dtype, int32_t gdtype) {
  WITH_DTYPE(dtype, TY, WITH_DTYPE(gdtype, TG, {
    parallel(ceil_div(T, 8), [&](int64_t block) {
      for (int64_t i = block * 8 * K; i < smaller(T, block * 8 + 8) * (int64_t)K; i++) {
        const int64_t t = i / K, place = places[i];
        const V weight = set1(weights[i]);
        V dot = zero();
        for (int64_t d = 0; d < D; d += W) {
          const int n = (int)smaller(W, D - d);
          const V grad = load_upto(dx + t * D + d, n);
          dot = fma(grad, load_upto((const TY*)y + place * D + d, n), dot);
          store_upto((TG*)dy + place * D + d, mul(grad, weight), n);
        }
        dweights[i] = sum_lanes(dot);
      }
    });
  }));
}

}  // namespace KERNEL_PATH
