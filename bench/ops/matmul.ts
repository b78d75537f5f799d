/** Products with a weight at the shapes of a layer's projections and of the head, both directions; and bias gradients. */
import { bytesPerElement, type ComputeDType } from "../../src/tensor/dtype.ts";
import {
  type Benches,
  computeDTypes,
  near,
  type OpBench,
  picks,
  sizesText,
  slack,
  sumOfProducts,
  type Use,
} from "./case.ts";
import { gradientType, gradientTypes, packedTokens, type Shapes } from "./shapes.ts";
import { coldCopies, constant } from "./workspace.ts";

interface Product {
  readonly use: Use;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly dtype: ComputeDType;
  /** Of dx and dy. */
  readonly grad: ComputeDType;
  /** y is float32 and added to: the residual stream. */
  readonly residual?: boolean;
  /** y is float32: logits. */
  readonly logits?: boolean;
}

/** What a gradient that accumulates starts from. */
const START = 0.5;

function forward({ use, M, N, K, dtype, residual = false, logits = false }: Product): OpBench {
  const size = bytesPerElement(dtype);
  const ydtype = residual || logits ? "float32" : dtype;
  return {
    op: "matmulForward",
    use,
    dtype,
    sizes: sizesText({ M, N, K, residual }),
    flops: 2 * M * N * K,
    bytes: (M * K + N * K) * size + M * N * bytesPerElement(ydtype) * (residual ? 2 : 1),
    open(w) {
      const x = w.input("x", dtype, [M, K]);
      const weight = w.weight("w", dtype, [N, K], use === "decode" ? coldCopies(N * K * size) : 1);
      const y = residual ? w.input("y", "float32", [M, N], constant(START)) : w.output("y", ydtype, [M, N]);
      return {
        run: () => w.device.ops.matmulForward(y, x, weight.next(), null, residual),
        verify() {
          for (const m of picks(M, 4)) {
            const row = w.values(y, m);
            for (const n of picks(N, 9)) {
              const { sum, magnitude } = sumOfProducts(
                K,
                (k) => x.at(m * K + k),
                (k) => weight.at(n * K + k),
              );
              const want = sum + (residual ? START : 0);
              near(`y[${m}, ${n}]`, row[n], want, slack(magnitude, want, ydtype));
            }
          }
        },
      };
    },
  };
}

function backwardInput({ use, M, N, K, dtype, grad }: Product): OpBench {
  return {
    op: "matmulBackwardInput",
    use,
    dtype,
    sizes: sizesText({ M, N, K }),
    flops: 2 * M * N * K,
    bytes: bytesPerElement(grad) * M * (N + K) + N * K * bytesPerElement(dtype),
    open(w) {
      const dy = w.input("dy", grad, [M, N]);
      const weight = w.weight("w", dtype, [N, K]);
      const dx = w.output("dx", grad, [M, K]);
      return {
        run: () => w.device.ops.matmulBackwardInput(dx, dy, weight),
        verify() {
          for (const m of picks(M, 4)) {
            const row = w.values(dx, m);
            for (const k of picks(K, 9)) {
              const { sum, magnitude } = sumOfProducts(
                N,
                (n) => dy.at(m * N + n),
                (n) => weight.at(n * K + k),
              );
              near(`dx[${m}, ${k}]`, row[k], sum, slack(magnitude, sum, grad));
            }
          }
        },
      };
    },
  };
}

function backwardWeight({ use, M, N, K, dtype, grad }: Product): OpBench {
  return {
    op: "matmulBackwardWeight",
    use,
    dtype,
    sizes: sizesText({ M, N, K }),
    flops: 2 * M * N * K,
    bytes: M * (bytesPerElement(grad) * N + bytesPerElement(dtype) * K) + 2 * 4 * N * K,
    open(w) {
      const dy = w.input("dy", grad, [M, N]);
      const x = w.input("x", dtype, [M, K]);
      const weight = w.weight("w", dtype, [N, K]);
      const dw = w.input("dw", "float32", [weight.elements], constant(START));
      return {
        run: () => w.device.ops.matmulBackwardWeight(dw, dy, x, weight),
        verify() {
          for (const n of picks(N, 4)) {
            const row = w.parameterRow(dw, weight, n);
            for (const k of picks(K, 9)) {
              const { sum, magnitude } = sumOfProducts(
                M,
                (m) => dy.at(m * N + n),
                (m) => x.at(m * K + k),
              );
              near(`dw[${n}, ${k}]`, row[k], START + sum, slack(START + magnitude, sum));
            }
          }
        },
      };
    },
  };
}

function biasGradient(T: number, N: number, grad: ComputeDType): OpBench {
  return {
    op: "biasBackward",
    use: "training",
    dtype: grad,
    sizes: sizesText({ T, N }),
    flops: T * N,
    bytes: bytesPerElement(grad) * T * N,
    open(w) {
      const dy = w.input("dy", grad, [T, N]);
      const dbias = w.input("dbias", "float32", [N], constant(START));
      return {
        run: () => w.device.ops.biasBackward(dbias, dy),
        verify() {
          const got = w.values(dbias);
          for (const n of picks(N, 9)) {
            const { sum, magnitude } = sumOfProducts(
              T,
              (t) => dy.at(t * N + n),
              () => 1,
            );
            near(`dbias[${n}]`, got[n], START + sum, slack(START + magnitude, sum));
          }
        },
      };
    },
  };
}

export function matmulBenches(
  s: Shapes,
): Benches<"matmulForward" | "matmulBackwardInput" | "matmulBackwardWeight" | "biasBackward"> {
  const M = packedTokens(s);
  const attention = s.H * s.Dh;
  const projections = [
    { N: s.Hkv * s.Dh, K: s.D }, // k, v
    { N: attention, K: s.D }, // q
    { N: s.F, K: s.D }, // gate, up
    { N: s.D, K: s.F, residual: true }, // down; o is as q
  ];
  const training = (dtype: ComputeDType): Product[] => [
    ...projections.map((p) => ({ use: "training" as const, M, dtype, grad: gradientType(s, dtype), ...p })),
    { use: "large", dtype, grad: gradientType(s, dtype), ...s.large },
  ];
  const decode = (dtype: ComputeDType): Product[] =>
    s.batches.flatMap((M) => {
      const of = { use: "decode", M, dtype, grad: gradientType(s, dtype) } as const;
      return [
        { ...of, N: s.F, K: s.D },
        { ...of, N: s.D, K: s.F, residual: true },
        { ...of, N: s.V, K: s.D, logits: true },
      ];
    });
  return {
    matmulForward: computeDTypes.flatMap((dtype) => [...training(dtype), ...decode(dtype)].map(forward)),
    matmulBackwardInput: computeDTypes.flatMap(training).map(backwardInput),
    matmulBackwardWeight: computeDTypes.flatMap(training).map(backwardWeight),
    biasBackward: gradientTypes(s).map((grad) => biasGradient(M, attention + 2 * s.Hkv * s.Dh, grad)),
  };
}
