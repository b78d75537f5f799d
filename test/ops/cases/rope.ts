/** Rotary embedding in place, on packed rows and on some columns of a fused one, there and back. */
import { columns } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
  bfloat16Rounding,
  type CaseRun,
  dtypes,
  type OpCase,
  opCase,
  rounded,
  type ShortDType,
  type Tolerance,
} from "../harness.ts";
import { dot, rope } from "../reference.ts";

/** Two products and a sum, each rounded once; they may cancel. Inputs are within ±3.5. */
const turn: Tolerance = { relative: 2 ** -22, absolute: 2e-6 };
const slope: Tolerance = { relative: 1e-5, absolute: 1e-5 };

const POSITIONS = 200;

function angles(half: number) {
  const angle = (i: number) => Math.floor(i / half) * 10000 ** (-(i % half) / half);
  const table = (f: (x: number) => number) => Float64Array.from({ length: POSITIONS * half }, (_, i) => f(angle(i)));
  return { cos: table(Math.cos), sin: table(Math.sin) };
}

interface Settings {
  readonly T: number;
  readonly H: number;
  readonly Dh: number;
  readonly x: ShortDType;
  readonly gap?: number;
}

/** Tables, and positions in no order, with repeats. */
function tables(run: CaseRun, T: number, Dh: number) {
  const { cos, sin } = angles(Dh / 2);
  return {
    cos: run.slot("cos", "float32", [POSITIONS, Dh / 2], cos),
    sin: run.slot("sin", "float32", [POSITIONS, Dh / 2], sin),
    positions: run.slot(
      "positions",
      "int32",
      [T],
      Array.from({ length: T }, (_, t) => (t === 1 ? POSITIONS - 1 : run.random.integer(POSITIONS))),
    ),
  };
}

function forward(settings: Settings): OpCase {
  const { T, H, Dh, gap = 0 } = settings;
  const dtype = dtypes[settings.x];
  return opCase("ropeForward", { ...settings }, (run) => {
    const { cos, sin, positions } = tables(run, T, Dh);
    const x = run.slot("x", dtype, [T, H * Dh], run.random.normal(T * H * Dh), { output: true, gap });
    run.run(({ ops }) => ops.ropeForward(x, positions, cos, sin, Dh));
    run.check(x, rope(x.values, cos.values, sin.values, positions.values, Dh), rounded(turn, dtype));
  });
}

/** q and k of a fused row are turned together; v beside them is not touched. */
function fused(settings: Settings): OpCase {
  const { T, H, Dh } = settings;
  const dtype = dtypes[settings.x];
  return opCase("ropeForward", { fused: true, ...settings }, (run) => {
    const { cos, sin, positions } = tables(run, T, Dh);
    const width = (H + 1) * Dh;
    const x = run.slot("qkv", dtype, [T, width], run.random.normal(T * width), { output: true });
    run.run(({ ops }) => ops.ropeForward(columns(x, 0, H * Dh), positions, cos, sin, Dh));
    const turned = rope(x.values, cos.values, sin.values, positions.values, Dh);
    run.check(
      x,
      x.values.map((value, i) => (i % width < H * Dh ? turned[i]! : value)),
      rounded(turn, dtype),
    );
  });
}

function backward(settings: Settings): OpCase {
  const { T, H, Dh, gap = 0 } = settings;
  const dtype = dtypes[settings.x];
  return opCase("ropeBackward", { ...settings }, (run) => {
    const { cos, sin, positions } = tables(run, T, Dh);
    const dx = run.slot("dx", dtype, [T, H * Dh], run.random.normal(T * H * Dh), { output: true, gap });
    const back = run.slot("x", dtype, [T, H * Dh], dx.values, { output: true, gap });
    run.run(({ ops }) => {
      ops.ropeBackward(dx, positions, cos, sin, Dh);
      ops.ropeForward(back, positions, cos, sin, Dh);
      ops.ropeBackward(back, positions, cos, sin, Dh);
    });
    run.check(dx, rope(dx.values, cos.values, sin.values, positions.values, Dh, true), rounded(turn, dtype));
    // there and back is rounded twice, the first time where cos and sin have mixed the two halves
    run.check(back, back.values, dtype === "bfloat16" ? { absolute: 4 * 2 * bfloat16Rounding } : turn);
    if (dtype === "bfloat16") return;
    // dx is written over dy: what it holds now, seen as growth from dy, is the slope less dy
    const x = run.random.normal(dx.values.length);
    const loss = (moved: Float64Array) =>
      dot(rope(moved, cos.values, sin.values, positions.values, Dh), dx.values) - dot(moved, dx.values);
    run.differences(dx, x, loss, slope);
  });
}

const sizes = [
  { T: 1, H: 1, Dh: 2 },
  { T: 5, H: 3, Dh: 24 },
  { T: 33, H: 1, Dh: 16 },
  { T: 7, H: 4, Dh: 64 },
  { T: 31, H: 2, Dh: 128 },
] as const;

export const ropeCases: readonly OpCase[] = [
  ...sizes.map((size) => forward({ ...size, x: "f32" })),
  ...sizes.map((size) => forward({ ...size, x: "bf16" })),
  forward({ T: 13, H: 3, Dh: 24, x: "bf16", gap: 7 }),
  fused({ T: 33, H: 3, Dh: 24, x: "f32" }),
  fused({ T: 33, H: 3, Dh: 24, x: "bf16" }),
  ...sizes.map((size) => backward({ ...size, x: "f32" })),
  backward({ T: 13, H: 3, Dh: 24, x: "f32", gap: 7 }),
  bfloat16Gradients(backward({ T: 33, H: 1, Dh: 16, x: "bf16" })),
  bfloat16Gradients(backward({ T: 13, H: 3, Dh: 24, x: "bf16", gap: 7 })),
];
