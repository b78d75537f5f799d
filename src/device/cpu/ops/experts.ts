/** Calls of ffi/cpu/experts.cpp: a mixture of experts. */
import type { Kernels } from "../../../../ffi/bindings/cpu.ts";
import type { ExpertOp, ExpertWeights, Ops } from "../../device.ts";
import { dim } from "../../operands.ts";
import { typeCode } from "../operands.ts";

/** E, elements from one weight to the next, N, K. */
const sizesOf = ({ first, count }: ExpertWeights) => [count, first.elements, dim(first, 0), dim(first, 1)];

export function expertOps(kernels: Kernels): Pick<Ops, ExpertOp> {
  return {
    routeForward({ weights, experts, probabilities }, logits, normalized, given = false) {
      const buffers = [weights, experts, probabilities, logits].map((t) => t.address);
      const sizes = [dim(logits, 0), dim(logits, 1), dim(experts, 1)];
      kernels.route_forward(...buffers, ...sizes, normalized ? 1 : 0, given ? 1 : 0);
    },
    routeBackward(dlogits, dweights, { weights, experts, probabilities }, normalized) {
      const buffers = [dlogits, dweights, weights, experts, probabilities].map((t) => t.address);
      kernels.route_backward(...buffers, dim(dlogits, 0), dim(dlogits, 1), dim(experts, 1), normalized ? 1 : 0);
    },
    balanceForward(load, probabilities, rowWeights) {
      const buffers = [load, probabilities, rowWeights].map((t) => t.address);
      kernels.balance_forward(...buffers, dim(probabilities, 0), dim(probabilities, 1));
    },
    balanceBackward(dlogits, probabilities, slopes, rowWeights) {
      const buffers = [dlogits, probabilities, slopes, rowWeights].map((t) => t.address);
      kernels.balance_backward(...buffers, dim(dlogits, 0), dim(dlogits, 1));
    },
    dispatch({ offsets, order, places }, experts) {
      const buffers = [offsets, order, places, experts].map((t) => t.address);
      kernels.dispatch(...buffers, dim(experts, 0), dim(offsets, 0) - 1, dim(experts, 1));
    },
    gatherPairs(y, x, { order, places }) {
      const sizes = [dim(y, 0), dim(places, 1), dim(x, 1)];
      kernels.gather_pairs(y.address, x.address, order.address, ...sizes, typeCode(x));
    },
    scatterPairs(dx, dy, { places }) {
      kernels.scatter_pairs(
        dx.address,
        dy.address,
        places.address,
        dim(dx, 0),
        dim(places, 1),
        dim(dx, 1),
        typeCode(dx),
      );
    },
    combineForward(x, y, { places }, weights) {
      const buffers = [x, y, places, weights].map((t) => t.address);
      kernels.combine_forward(...buffers, dim(x, 0), dim(places, 1), dim(x, 1), typeCode(y));
    },
    combineBackward(dy, dweights, dx, y, { places }, weights) {
      const buffers = [dy, dweights, dx, y, places, weights].map((t) => t.address);
      kernels.combine_backward(...buffers, dim(dx, 0), dim(places, 1), dim(dx, 1), typeCode(y), typeCode(dy));
    },
    expertsForward(y, x, w, { offsets }) {
      const buffers = [y.address, x.address, w.first.address, offsets.address];
      const types = [typeCode(y), typeCode(x), typeCode(w.first)];
      kernels.experts_forward(...buffers, ...sizesOf(w), y.rowStride, x.rowStride, ...types);
    },
    expertsBackwardInput(dx, dy, w, { offsets }, accumulate = false) {
      const buffers = [dx.address, dy.address, w.first.address, offsets.address];
      const types = [typeCode(dx), typeCode(dy), typeCode(w.first)];
      const strides = [dx.rowStride, dy.rowStride];
      kernels.experts_backward_input(...buffers, ...sizesOf(w), ...strides, ...types, accumulate ? 1 : 0);
    },
    expertsBackwardWeight(dw, dy, x, w, { offsets }) {
      const buffers = [dw.address, dy.address, x.address, offsets.address];
      const types = [typeCode(dy), typeCode(x)];
      kernels.experts_backward_weight(...buffers, ...sizesOf(w), dy.rowStride, x.rowStride, ...types);
    },
  };
}
