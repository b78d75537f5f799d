/** Elementwise ops on something as large as the embedding's gradient: the optimizer, clipping, casts. */
import type { AdamWSettings, Ops } from "../../src/device/device.ts";
import { bytesPerElement, type ComputeDType } from "../../src/tensor/dtype.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { type Benches, computeDTypes, near, type OpBench, picks, sizesText } from "./case.ts";
import type { Shapes } from "./shapes.ts";
import { periodic, scattered, type Workspace } from "./workspace.ts";

/** A handful of float32 roundings of numbers of size 1. */
const TOLERANCE = 2 ** -20;

const settings: AdamWSettings = {
  learningRate: 1e-2,
  beta1: 0.9,
  beta2: 0.99,
  epsilon: 1e-8,
  weightDecay: 0.1,
  step: 3,
  gradientScale: 0.5,
};

function adamw({ V, D }: Shapes, dtype: ComputeDType): OpBench {
  return {
    op: "adamw",
    use: "training",
    dtype,
    sizes: sizesText({ N: V, K: D }),
    flops: 14 * V * D,
    // reads and writes master, m, v; reads g; in bfloat16 writes w, too
    bytes: V * D * (28 + (dtype === "bfloat16" ? 2 : 0)),
    open(w) {
      const weight = w.weight("w", dtype, [V, D]);
      const n = weight.elements;
      const flat = [n] as const;
      const start = scattered(99);
      // Elementwise, so the order inside the layout is of no interest: every buffer is filled by its own order.
      const master = w.input("master", "float32", flat, start);
      const [m, g] = [w.input("m", "float32", flat), w.input("g", "float32", flat)];
      const roots = scattered(7);
      const v = w.input(
        "v",
        "float32",
        flat,
        periodic((i) => Math.abs(roots(i))),
      );
      const own = dtype === "float32" ? { ...weight, address: master.address } : weight;
      return {
        run: () => w.device.ops.adamw(own, master, m, v, g, settings),
        verify() {
          const { learningRate, beta1, beta2, epsilon, weightDecay, step, gradientScale } = settings;
          const parameter = tensor("w", own.address, dtype, flat);
          for (const i of picks(n, 33)) {
            const grad = g.at(i) * gradientScale;
            const first = beta1 * m.at(i) + (1 - beta1) * grad;
            const second = beta2 * v.at(i) + (1 - beta2) * grad * grad;
            const move = first / (1 - beta1 ** step) / (Math.sqrt(second / (1 - beta2 ** step)) + epsilon);
            const want = start(i) * (1 - learningRate * weightDecay) - learningRate * move;
            near(`m[${i}]`, at(w, m, i), first, TOLERANCE);
            near(`v[${i}]`, at(w, v, i), second, TOLERANCE);
            near(`master[${i}]`, at(w, master, i), want, TOLERANCE * (1 + Math.abs(move)));
            near(
              `w[${i}]`,
              at(w, parameter, i),
              want,
              TOLERANCE * (1 + Math.abs(move)) + (dtype === "bfloat16" ? 2 ** -8 : 0),
            );
          }
        },
      };
    },
  };
}

function at(w: Workspace, t: Tensor, index: number): number | undefined {
  return w.values(t, index)[0];
}

interface OnOne {
  readonly run: (ops: Ops, x: Tensor) => void;
  readonly want: (x: number) => number;
  /** Bytes moved per element. */
  readonly bytes: number;
}

/** Ops on x (n) in place, and what they make of it. */
const onOne: Readonly<Record<"scale" | "fill", OnOne>> = {
  // Its own inverse: any number of runs stays finite.
  scale: { run: (ops, x) => ops.scale(x, -1), want: (x) => -x, bytes: 8 },
  fill: { run: (ops, x) => ops.fill(x, 0.25), want: () => 0.25, bytes: 4 },
};

function one(op: "scale" | "fill", n: number): OpBench {
  const { run, want, bytes } = onOne[op];
  return {
    op,
    use: "training",
    dtype: "float32",
    sizes: sizesText({ n }),
    flops: op === "scale" ? n : 0,
    bytes: bytes * n,
    open(w) {
      const x = w.input("x", "float32", [n]);
      return {
        run: () => run(w.device.ops, x),
        verify() {
          for (const i of picks(n, 33)) near(`x[${i}]`, at(w, x, i), want(x.at(i)), 0);
        },
      };
    },
  };
}

function addition(n: number): OpBench {
  return {
    op: "add",
    use: "training",
    dtype: "float32",
    sizes: sizesText({ n }),
    flops: n,
    bytes: 12 * n,
    open(w) {
      const [y, x] = [w.input("y", "float32", [n]), w.input("x", "float32", [n])];
      return {
        run: () => w.device.ops.add(y, x),
        verify() {
          for (const i of picks(n, 33)) near(`y[${i}]`, at(w, y, i), y.at(i) + x.at(i), TOLERANCE);
        },
      };
    },
  };
}

function squares(n: number): OpBench {
  return {
    op: "sumSquares",
    use: "training",
    dtype: "float32",
    sizes: sizesText({ n }),
    flops: 2 * n,
    bytes: 4 * n,
    open(w) {
      const x = w.input("x", "float32", [n]);
      const sum = w.output("sum", "float64", [1]);
      return {
        run: () => w.device.ops.sumSquares(sum, x),
        verify() {
          let want = 0;
          for (let i = 0; i < n; i++) want += x.at(i) ** 2;
          near("sum", w.values(sum)[0], want, 1e-12 * want);
        },
      };
    },
  };
}

function cast(n: number, from: ComputeDType, to: ComputeDType): OpBench {
  return {
    op: "cast",
    use: "training",
    dtype: to,
    sizes: sizesText({ n, from }),
    flops: 0,
    bytes: n * (bytesPerElement(from) + bytesPerElement(to)),
    open(w) {
      const x = w.input("x", from, [n]);
      const y = w.output("y", to, [n]);
      return {
        run: () => w.device.ops.cast(y, x),
        verify() {
          for (const i of picks(n, 33)) near(`y[${i}]`, at(w, y, i), x.at(i), 0);
        },
      };
    },
  };
}

export function flatBenches(s: Shapes): Benches<"adamw" | "sumSquares" | "scale" | "add" | "fill" | "cast"> {
  const n = s.V * s.D;
  return {
    adamw: computeDTypes.map((dtype) => adamw(s, dtype)),
    sumSquares: [squares(n)],
    scale: [one("scale", n)],
    add: [addition(n)],
    fill: [one("fill", n)],
    cast: [cast(n, "bfloat16", "float32"), cast(n, "float32", "bfloat16")],
  };
}
