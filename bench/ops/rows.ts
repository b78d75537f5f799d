/** Ops that move or turn rows one by one: embedding, rope, gated linear units, picking rows. */
import { bytesPerElement, type ComputeDType } from "../../src/tensor/dtype.ts";
import { columns } from "../../src/tensor/tensor.ts";
import {
  type Benches,
  computeDTypes,
  EXPONENTIAL,
  near,
  type OpBench,
  picks,
  sizesText,
  slack,
  type Use,
} from "./case.ts";
import { gradientType, gradientTypes, packedTokens, type Shapes } from "./shapes.ts";
import { constant, type Input } from "./workspace.ts";

const START = 0.5;

/** T numbers below V, some of them the same. */
function tokenIds(T: number, V: number): number[] {
  return Array.from({ length: T }, (_, t) => (t * 7919) % Math.min(V, Math.ceil(T / 2) * 3));
}

function embeddingForward(use: Use, T: number, { V, D }: Shapes, dtype: ComputeDType): OpBench {
  return {
    op: "embeddingForward",
    use,
    dtype,
    sizes: sizesText({ T, V, D }),
    flops: 0,
    bytes: T * D * (4 + bytesPerElement(dtype)),
    open(w) {
      const ids = tokenIds(T, V);
      const index = w.integers("ids", [T], ids);
      const weight = w.weight("w", dtype, [V, D]);
      const x = w.output("x", "float32", [T, D]);
      return {
        run: () => w.device.ops.embeddingForward(x, index, weight),
        verify() {
          for (const t of picks(T, 9)) {
            const row = w.values(x, t);
            for (const d of picks(D, 9)) near(`x[${t}, ${d}]`, row[d], weight.at(ids[t]! * D + d), 0);
          }
        },
      };
    },
  };
}

function embeddingBackward(T: number, { V, D }: Shapes): OpBench {
  return {
    op: "embeddingBackward",
    use: "training",
    dtype: "float32",
    sizes: sizesText({ T, V, D }),
    flops: T * D,
    bytes: 4 * T * D * 3,
    open(w) {
      const ids = tokenIds(T, V);
      const index = w.integers("ids", [T], ids);
      const weight = w.weight("w", "float32", [V, D]);
      const dx = w.input("dx", "float32", [T, D]);
      const dw = w.input("dw", "float32", [weight.elements], constant(START));
      return {
        run: () => w.device.ops.embeddingBackward(dw, dx, index, weight),
        verify() {
          for (const n of picks(T, 9).map((t) => ids[t]!)) {
            const row = w.parameterRow(dw, weight, n);
            const tokens = ids.flatMap((id, t) => (id === n ? [t] : []));
            for (const d of picks(D, 9)) {
              const want = tokens.reduce((sum, t) => sum + dx.at(t * D + d), START);
              near(`dw[${n}, ${d}]`, row[d], want, slack(tokens.length + 1, want));
            }
          }
        },
      };
    },
  };
}

function rope(op: "ropeForward" | "ropeBackward", use: Use, T: number, s: Shapes, dtype: ComputeDType): OpBench {
  const { H, Hkv, Dh } = s;
  const [width, turned, half] = [(H + 2 * Hkv) * Dh, (H + Hkv) * Dh, Dh / 2];
  const back = op === "ropeBackward";
  return {
    op,
    use,
    dtype,
    sizes: sizesText({ T, H: H + Hkv, Dh }),
    flops: 3 * T * turned,
    bytes: 2 * T * turned * bytesPerElement(dtype),
    open(w) {
      const qkv = w.input("qkv", dtype, [T, width]);
      const places = Math.max(T, 8);
      const place = (t: number) => (t * 5 + 3) % places;
      const positions = w.integers(
        "positions",
        [T],
        Array.from({ length: T }, (_, t) => place(t)),
      );
      const angle = (i: number) => Math.floor(i / half) * 10000 ** (-(i % half) / half);
      const cos = w.input("cos", "float32", [places, half], (i) => Math.fround(Math.cos(angle(i))));
      const sin = w.input("sin", "float32", [places, half], (i) => Math.fround(Math.sin(angle(i))));
      const part = columns(qkv, 0, turned);
      return {
        run: () => w.device.ops[op](part, positions, cos, sin, Dh),
        verify() {
          for (const t of picks(T, 9)) {
            const row = w.values(qkv, t);
            for (const d of picks(turned / 2, 9)) {
              const first = Math.floor(d / half) * Dh + (d % half);
              const [a, b] = [qkv.at(t * width + first), qkv.at(t * width + first + half)];
              const turn = place(t) * half + (d % half);
              const [c, s] = [cos.at(turn), back ? -sin.at(turn) : sin.at(turn)];
              const [low, high] = [a * c - b * s, b * c + a * s];
              near(`x[${t}, ${first}]`, row[first], low, slack(2, low, dtype));
              near(`x[${t}, ${first + half}]`, row[first + half], high, slack(2, high, dtype));
            }
            near(`v[${t}]`, row[turned], qkv.at(t * width + turned), 0);
          }
        },
      };
    },
  };
}

/** The activation and its slope at g. */
function activation(g: number, gelu: boolean): readonly [value: number, slope: number] {
  if (!gelu) {
    const s = 1 / (1 + Math.exp(-g));
    return [g * s, s + g * s * (1 - s)];
  }
  const root = Math.sqrt(2 / Math.PI);
  const tanh = Math.tanh(root * (g + 0.044715 * g ** 3));
  const inner = root * (1 + 3 * 0.044715 * g * g);
  return [0.5 * g * (1 + tanh), 0.5 * (1 + tanh) + 0.5 * g * (1 - tanh * tanh) * inner];
}

/** float32's exponential and division, a few roundings each. */
const ACTIVATION_ERROR = 2 ** -18;

function gate(x: Input, t: number, f: number, F: number): readonly [gate: number, up: number] {
  return [x.at(t * 2 * F + f), x.at(t * 2 * F + F + f)];
}

function gluForward(use: Use, T: number, F: number, dtype: ComputeDType, gelu: boolean): OpBench {
  return {
    op: "gluForward",
    use,
    dtype,
    sizes: sizesText({ T, F, gelu }),
    flops: T * F * (EXPONENTIAL + 4 + (gelu ? 8 : 0)),
    bytes: 3 * T * F * bytesPerElement(dtype),
    open(w) {
      const x = w.input("x", dtype, [T, 2 * F]);
      const y = w.output("y", dtype, [T, F]);
      return {
        run: () => w.device.ops.gluForward(y, x, gelu),
        verify() {
          for (const t of picks(T, 9)) {
            const row = w.values(y, t);
            for (const f of picks(F, 9)) {
              const [g, up] = gate(x, t, f, F);
              const want = activation(g, gelu)[0] * up;
              near(`y[${t}, ${f}]`, row[f], want, ACTIVATION_ERROR + slack(1, want, dtype));
            }
          }
        },
      };
    },
  };
}

function gluBackward(s: Shapes, dtype: ComputeDType, gelu: boolean): OpBench {
  const { F } = s;
  const [T, grad] = [packedTokens(s), gradientType(s, dtype)];
  return {
    op: "gluBackward",
    use: "training",
    dtype,
    sizes: sizesText({ T, F, gelu }),
    flops: T * F * (EXPONENTIAL + 10 + (gelu ? 10 : 0)),
    bytes: T * F * (2 * bytesPerElement(dtype) + 3 * bytesPerElement(grad)),
    open(w) {
      const x = w.input("x", dtype, [T, 2 * F]);
      const dy = w.input("dy", grad, [T, F]);
      const dx = w.output("dx", grad, [T, 2 * F]);
      return {
        run: () => w.device.ops.gluBackward(dx, dy, x, gelu),
        verify() {
          for (const t of picks(T, 9)) {
            const row = w.values(dx, t);
            for (const f of picks(F, 9)) {
              const [g, up] = gate(x, t, f, F);
              const [value, slope] = activation(g, gelu);
              const above = dy.at(t * F + f);
              const [dgate, dup] = [above * up * slope, above * value];
              near(`dgate[${t}, ${f}]`, row[f], dgate, ACTIVATION_ERROR + slack(0, dgate, grad));
              near(`dup[${t}, ${f}]`, row[F + f], dup, ACTIVATION_ERROR + slack(0, dup, grad));
            }
          }
        },
      };
    },
  };
}

function picked(op: "gatherRows" | "scatterRows", T: number, N: number, D: number): OpBench {
  const gather = op === "gatherRows";
  // a step that shares no factor with T meets every row once
  const index = Array.from({ length: N }, (_, i) => (i * 5 + 3) % T);
  return {
    op,
    use: "training",
    dtype: "float32",
    sizes: sizesText({ T, N, D }),
    flops: 0,
    bytes: 4 * D * (gather ? 2 * N : N + T),
    open(w) {
      const source = w.input("x", "float32", [gather ? T : N, D]);
      const target = w.output("y", "float32", [gather ? N : T, D]);
      const at = w.integers("index", [N], index);
      return {
        run: () => w.device.ops[op](target, source, at),
        verify() {
          for (const i of picks(N, 9)) {
            const [from, to] = gather ? [index[i]!, i] : [i, index[i]!];
            const row = w.values(target, to);
            for (const d of picks(D, 9)) near(`y[${to}, ${d}]`, row[d], source.at(from * D + d), 0);
          }
          const untouched = gather ? -1 : Array.from({ length: T }, (_, t) => t).findIndex((t) => !index.includes(t));
          if (untouched >= 0) near(`dx[${untouched}, 0]`, w.values(target, untouched)[0], 0, 0);
        },
      };
    },
  };
}

export function rowBenches(
  s: Shapes,
): Benches<
  | "embeddingForward"
  | "embeddingBackward"
  | "ropeForward"
  | "ropeBackward"
  | "gluForward"
  | "gluBackward"
  | "gatherRows"
  | "scatterRows"
> {
  const T = packedTokens(s);
  const uses: readonly (readonly [Use, number])[] = [
    ["training", T],
    ...s.batches.map((B): readonly [Use, number] => ["decode", B]),
  ];
  const everywhere = (make: (use: Use, T: number, dtype: ComputeDType) => OpBench) =>
    computeDTypes.flatMap((dtype) => uses.map(([use, tokens]) => make(use, tokens, dtype)));
  const rowsOfHead = s.samples * s.completion;
  return {
    embeddingForward: everywhere((use, tokens, dtype) => embeddingForward(use, tokens, s, dtype)),
    embeddingBackward: [embeddingBackward(T, s)],
    ropeForward: everywhere((use, tokens, dtype) => rope("ropeForward", use, tokens, s, dtype)),
    ropeBackward: gradientTypes(s).map((grad) => rope("ropeBackward", "training", T, s, grad)),
    gluForward: [
      ...everywhere((use, tokens, dtype) => gluForward(use, tokens, s.F, dtype, false)),
      ...computeDTypes.map((dtype) => gluForward("training", T, s.F, dtype, true)),
    ],
    gluBackward: computeDTypes.flatMap((dtype) => [false, true].map((gelu) => gluBackward(s, dtype, gelu))),
    gatherRows: [picked("gatherRows", T, rowsOfHead, s.D)],
    scatterRows: [picked("scatterRows", T, rowsOfHead, s.D)],
  };
}
