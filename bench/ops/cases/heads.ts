/**
 * Heads of q and k normalized and rotated at once, beside v: compared with the reference, and bit for bit with the two ops one
 * after the other.
 */
import { columns } from "../../../src/tensor/tensor.ts";
import {
  computeDTypes,
  dtypes,
  mapped,
  type OpTable,
  offsetBy,
  opCase,
  type Run,
  type ShortDType,
  type SuiteRun,
  shortOf,
  timed,
  type Values,
} from "../case.ts";
import { bytesOf, memory, optional, rowsOf, weightBytes } from "../cost.ts";
import { rmsnorm } from "../reference.ts";
import { widthOf } from "../reference-attention.ts";
import { packedTokens, type Shapes } from "../shapes.ts";
import { bfloat16Rounding, rounded, roundedOperands, type Sum, type Tolerance } from "../tolerance.ts";
import { type Heads, shapeOf } from "./attention.ts";
import { tables } from "./rope.ts";

const EPSILON = 1e-6;
/** The norm's relative error in both products, which may cancel; a device may round what the norm gives to bfloat16. */
const turned = (x: ShortDType): Tolerance =>
  rounded({ magnitude: 2 ** -20, ...(x === "bf16" ? roundedOperands : {}) }, dtypes[x]);
const norm: Tolerance = { relative: 2 ** -20 };

interface Settings extends Heads {
  readonly T: number;
  readonly x: ShortDType;
  readonly w: ShortDType;
  readonly gap?: number;
  readonly offset?: number;
}

/** The elements of q and k normalized by head, if there are norms, then rotated, as sums of two products; those of v as they are. */
export function transformedHeads(
  raw: Values,
  norms: { readonly q: Values; readonly k: Values; readonly epsilon: number } | null,
  at: ReturnType<typeof tables>["at"],
  { H, Hkv, Dh }: Heads,
): (i: number) => number | Sum {
  const [width, half] = [(H + 2 * Hkv) * Dh, Dh / 2];
  const normed = (weight: Values | undefined): Values =>
    norms && weight ? rmsnorm(raw, weight, Dh, norms.epsilon).y : raw;
  const [q, k] = [normed(norms?.q), normed(norms?.k)];
  return (i) => {
    const [t, column] = [Math.floor(i / width), i % width];
    if (column >= (H + Hkv) * Dh) return raw(i);
    const y = column < H * Dh ? q : k;
    const d = column % Dh;
    const angle = at.positions(t) * half + (d % half);
    const terms = [y(i) * at.cos(angle), d < half ? -y(i + half) * at.sin(angle) : y(i - half) * at.sin(angle)];
    const over = (f: (term: number) => number) => terms.reduce((sum, term) => sum + f(term), 0);
    return { value: over((term) => term), magnitude: over(Math.abs), squares: over((term) => term * term) };
  };
}

function expected(
  raw: Values,
  weights: { readonly q: Values; readonly k: Values },
  at: ReturnType<typeof tables>["at"],
  settings: Settings,
) {
  const { H, Hkv, Dh } = settings;
  const rstd = (weight: Values, from: number, count: number): Values => {
    const { rstd } = rmsnorm(raw, weight, Dh, EPSILON);
    return (i) => rstd(Math.floor(i / count) * (H + 2 * Hkv) + from + (i % count));
  };
  const element = transformedHeads(raw, { ...weights, epsilon: EPSILON }, at, settings);
  return { element, rstdQ: rstd(weights.q, 0, H), rstdK: rstd(weights.k, H, Hkv) };
}

function buffers<R extends Run>(run: R, settings: Settings, positions: number) {
  const { T, H, Hkv, Dh, gap = 0, offset = 0 } = settings;
  const [dtype, shape] = [dtypes[settings.x], shapeOf(settings)];
  const weight = (name: string) => offsetBy(run.weight(name, dtypes[settings.w], [Dh]), offset);
  const t = tables(run, settings, positions);
  const raw = run.input("raw", dtype, [T, widthOf(shape)], { deviation: 3, gap });
  const norms = { q: weight("weight of q"), k: weight("weight of k"), epsilon: EPSILON };
  return {
    ...{ shape, dtype, raw, norms, t },
    qkv: run.output("qkv", dtype, [T, widthOf(shape)], { gap }),
    rstdQ: run.output("rstd of q", "float32", [T, H]),
    rstdK: run.output("rstd of k", "float32", [T, Hkv]),
    want: expected(raw.at, { q: norms.q.at, k: norms.k.at }, t.at, settings),
  };
}

function forward(settings: Settings, positions = 200) {
  return opCase("headsForward", { ...settings }, (run: Run) => {
    const { shape, raw, norms, t, qkv, rstdQ, rstdK, want } = buffers(run, settings, positions);
    run.run(({ ops }) => ops.headsForward(qkv, rstdQ, rstdK, raw, norms, t.positions, t.cos, t.sin, shape));
    run.check(qkv, want.element, turned(settings.x), { rows: 16, columns: 40 });
    run.check(rstdQ, want.rstdQ, norm, { rows: 16 });
    run.check(rstdK, want.rstdK, norm, { rows: 16 });
  });
}

/** The bits of a norm and a rotation, on a device whose rows have the same bits whatever computes them. */
function asTwoOps(settings: Settings) {
  const { T, H, Hkv, Dh } = settings;
  return opCase("headsForward", { against: "two ops", ...settings }, (run: SuiteRun) => {
    const { shape, dtype, raw, norms, t, qkv, want } = buffers(run, settings, 200);
    const apart = run.filled(
      "apart",
      dtype,
      [T, (H + 2 * Hkv) * Dh],
      mapped(raw.at, (x) => x),
      { output: true },
    );
    const [q, k] = [columns(apart, 0, H * Dh), columns(apart, H * Dh, Hkv * Dh)];
    run.run(({ ops }) => {
      ops.headsForward(qkv, null, null, raw, norms, t.positions, t.cos, t.sin, shape);
      ops.rmsnormForward(q, null, columns(raw, 0, H * Dh), norms.q, EPSILON, H);
      ops.rmsnormForward(k, null, columns(raw, H * Dh, Hkv * Dh), norms.k, EPSILON, Hkv);
      ops.ropeForward(columns(apart, 0, (H + Hkv) * Dh), t.positions, t.cos, t.sin, Dh);
    });
    const allowed = turned(settings.x);
    run.check(qkv, want.element, allowed);
    run.check(apart, want.element, allowed);
    const elsewhere: Tolerance = { relative: 2 * bfloat16Rounding, absolute: 16 * bfloat16Rounding };
    run.agree(qkv, 0, apart, 0, T, elsewhere);
  });
}

const named = ({ H, Hkv, Dh }: Shapes, T: number) => ({ T, H, Hkv, Dh });

export const headsOps: OpTable<"headsForward"> = {
  headsForward: {
    cost: (_, qkv, rstdQ, rstdK, raw, norms, _positions, _cos, _sin, shape) =>
      memory(
        bytesOf(qkv) + bytesOf(raw) + optional(rstdQ) + optional(rstdK) + weightBytes(norms.q) + weightBytes(norms.k),
        // a norm's 4 and a rotation's 3 for each element of q and k
        7 * rowsOf(raw) * (shape.heads + shape.kvHeads) * shape.headDim,
      ),
    cases: [
      forward({ T: 1, H: 1, Hkv: 1, Dh: 2, x: "f32", w: "f32" }),
      forward({ T: 5, H: 3, Hkv: 1, Dh: 24, x: "f32", w: "f32" }),
      forward({ T: 13, H: 3, Hkv: 1, Dh: 24, x: "bf16", w: "bf16", gap: 7 }),
      forward({ T: 9, H: 4, Hkv: 2, Dh: 64, x: "bf16", w: "bf16" }),
      forward({ T: 7, H: 2, Hkv: 1, Dh: 128, x: "f32", w: "f32", gap: 4 }),
      forward({ T: 3, H: 2, Hkv: 2, Dh: 256, x: "bf16", w: "bf16" }),
      forward({ T: 3, H: 1, Hkv: 1, Dh: 256, x: "f32", w: "f32" }),
      forward({ T: 5, H: 3, Hkv: 1, Dh: 24, x: "f32", w: "f32", offset: 1 }),
      asTwoOps({ T: 19, H: 3, Hkv: 1, Dh: 24, x: "f32", w: "f32" }),
      asTwoOps({ T: 9, H: 4, Hkv: 2, Dh: 128, x: "bf16", w: "bf16" }),
    ],
    real: (s) => {
      const T = packedTokens(s);
      return computeDTypes.map((dtype) => {
        const x = shortOf(dtype);
        return timed("training", dtype, named(s, T), forward({ ...named(s, T), x, w: x }, Math.max(T, 8)));
      });
    },
  },
};
