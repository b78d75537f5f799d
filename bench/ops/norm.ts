/** RMS norm over the hidden state and over the heads of q. */
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
import { gradientType, packedTokens, type Shapes } from "./shapes.ts";
import { constant, type Input, type InputWeight } from "./workspace.ts";

interface Norm {
  readonly use: Use;
  readonly T: number;
  readonly heads: number;
  readonly D: number;
  readonly dtype: ComputeDType;
  /** Of dy, and of a head's dx; the residual stream's is float32. */
  readonly grad: ComputeDType;
}

const EPSILON = 1e-5;
const START = 0.5;

/** The residual stream is float32 in both; heads are activations. */
const inputType = ({ heads, dtype }: Norm): ComputeDType => (heads > 1 ? dtype : "float32");

function rstdOf(x: Input, row: number, D: number): number {
  const { sum } = sumOfProducts(
    D,
    (d) => x.at(row * D + d),
    (d) => x.at(row * D + d),
  );
  return 1 / Math.sqrt(sum / D + EPSILON);
}

function forward(norm: Norm): OpBench {
  const { use, T, heads, D, dtype } = norm;
  const xdtype = inputType(norm);
  return {
    op: "rmsnormForward",
    use,
    dtype,
    sizes: sizesText({ T, ...(heads > 1 ? { H: heads, Dh: D } : { D }) }),
    flops: 4 * T * heads * D,
    bytes: T * heads * (D * (bytesPerElement(xdtype) + bytesPerElement(dtype)) + 4),
    open(w) {
      const x = w.input("x", xdtype, [T, heads * D]);
      const weight = w.weight("weight", dtype, [D]);
      const y = w.output("y", dtype, [T, heads * D]);
      const rstd = w.output("rstd", "float32", [T, heads]);
      return {
        run: () => w.device.ops.rmsnormForward(y, rstd, x, weight, EPSILON, heads),
        verify() {
          const saved = w.values(rstd);
          for (const r of picks(T * heads, 16)) {
            const want = rstdOf(x, r, D);
            near(`rstd[${r}]`, saved[r], want, slack(want, want));
            const row = w.values(y, Math.floor(r / heads));
            for (const d of picks(D, 9)) {
              const value = x.at(r * D + d) * want * weight.at(d);
              near(`y[${r}, ${d}]`, row[(r % heads) * D + d], value, slack(Math.abs(value), value, dtype));
            }
          }
        },
      };
    },
  };
}

/** One row's Σ_d dy · weight · x. */
function projectionOf(dy: Input, x: Input, weight: InputWeight, row: number, D: number) {
  return sumOfProducts(
    D,
    (d) => dy.at(row * D + d) * weight.at(d),
    (d) => x.at(row * D + d),
  );
}

function backward(norm: Norm): OpBench {
  const { use, T, heads, D, dtype, grad } = norm;
  const xdtype = inputType(norm);
  // A head's gradient is written where it was read; that of the residual stream is added to.
  const dxdtype = heads > 1 ? grad : "float32";
  const adds = dxdtype === "float32";
  return {
    op: "rmsnormBackward",
    use,
    dtype,
    sizes: sizesText({ T, ...(heads > 1 ? { H: heads, Dh: D } : { D }) }),
    flops: 12 * T * heads * D,
    bytes:
      T * heads * D * (bytesPerElement(xdtype) + bytesPerElement(grad) + bytesPerElement(dxdtype) + (adds ? 4 : 0)),
    open(w) {
      const x = w.input("x", xdtype, [T, heads * D]);
      const dy = w.input("dy", grad, [T, heads * D]);
      const dresidual = adds ? w.input("dresidual", "float32", [T, heads * D]) : null;
      const weight = w.weight("weight", dtype, [D]);
      const rstd = w.input("rstd", "float32", [T, heads], (r) => Math.fround(rstdOf(x, r, D)));
      const dx = w.output("dx", dxdtype, [T, heads * D]);
      const dweight = w.input("dweight", "float32", [D], constant(START));
      return {
        run: () => w.device.ops.rmsnormBackward(dx, dweight, dy, x, weight, rstd, dresidual, heads),
        verify() {
          for (const r of picks(T * heads, 8)) {
            const scale = rstd.at(r);
            const { sum, magnitude } = projectionOf(dy, x, weight, r, D);
            const row = w.values(dx, Math.floor(r / heads));
            for (const d of picks(D, 9)) {
              const i = r * D + d;
              const back = (factor: number) => (x.at(i) * factor * scale ** 3) / D;
              const before = dresidual?.at(i) ?? 0;
              const want = before + dy.at(i) * weight.at(d) * scale - back(sum);
              const size = Math.abs(before) + Math.abs(dy.at(i) * scale) + Math.abs(back(magnitude));
              near(`dx[${r}, ${d}]`, row[(r % heads) * D + d], want, slack(size, want, dxdtype));
            }
          }
          const got = w.values(dweight);
          for (const d of picks(D, 4)) {
            const { sum, magnitude } = sumOfProducts(
              T * heads,
              (r) => dy.at(r * D + d) * rstd.at(r),
              (r) => x.at(r * D + d),
            );
            near(`dweight[${d}]`, got[d], START + sum, slack(START + magnitude, sum));
          }
        },
      };
    },
  };
}

export function normBenches(s: Shapes): Benches<"rmsnormForward" | "rmsnormBackward"> {
  const T = packedTokens(s);
  const training = computeDTypes.flatMap((dtype): Norm[] => [
    { use: "training", T, heads: 1, D: s.D, dtype, grad: gradientType(s, dtype) },
    { use: "training", T, heads: s.H, D: s.Dh, dtype, grad: gradientType(s, dtype) },
  ]);
  const decode = computeDTypes.flatMap((dtype) =>
    s.batches.map((T): Norm => ({ use: "decode", T, heads: 1, D: s.D, dtype, grad: gradientType(s, dtype) })),
  );
  return { rmsnormForward: [...training, ...decode].map(forward), rmsnormBackward: training.map(backward) };
}
