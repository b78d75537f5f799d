/** Gated linear units, SiLU and tanh-approximated GELU, forward and backward. */
import {
  bfloat16Gradients,
  dtypes,
  type OpCase,
  opCase,
  rounded,
  type ShortDType,
  type Tolerance,
} from "../harness.ts";
import { dot, glu, gluGradient } from "../reference.ts";

/**
 * An exponent z is rounded to 2⁻²⁴ |z|, which is what its exponential is off by, relative; GELU's outputs are above
 * 1e-7 up to |z| = 17. A sigmoid of −88 and below is 4e-39 instead of less.
 */
const gate: Tolerance = { relative: 2 ** -18, absolute: 1e-12 };
/** The slope of the activation is a sum of two terms that may cancel. */
const gradient: Tolerance = { relative: 2 ** -18, absolute: 4e-6 };
const slope: Tolerance = { relative: 1e-4, absolute: 1e-4 };

interface Settings {
  readonly T: number;
  readonly F: number;
  readonly x: ShortDType;
  readonly gelu: boolean;
  /** Gates far out, where the exponential ends. */
  readonly wide?: boolean;
  /** Type of dy and dx. */
  readonly grad?: ShortDType;
}

const far = [0, -0, 20, -20, 60, -60, 87, -87, 89, -89, 100, -100, 1e4, -1e4, 1e-20, -1e-20];

function inputs(run: { random: { normal(n: number, deviation?: number): Float64Array } }, s: Settings): Float64Array {
  const x = run.random.normal(s.T * 2 * s.F, 2);
  if (s.wide) for (let t = 0; t < s.T; t++) for (let f = 0; f < s.F; f++) x[t * 2 * s.F + f] = far[f % far.length]!;
  return x;
}

function forward(settings: Settings): OpCase {
  const { T, F, gelu } = settings;
  const dtype = dtypes[settings.x];
  return opCase("gluForward", { ...settings }, (run) => {
    const x = run.slot("x", dtype, [T, 2 * F], inputs(run, settings));
    const y = run.slot("y", dtype, [T, F], null, { output: true });
    run.run(({ ops }) => ops.gluForward(y, x, gelu));
    run.check(y, glu(x.values, F, gelu), rounded(gate, dtype));
  });
}

function backward(settings: Settings): OpCase {
  const { T, F, gelu, wide = false, grad = "f32" } = settings;
  return opCase("gluBackward", { ...settings }, (run) => {
    const x = run.slot("x", dtypes[settings.x], [T, 2 * F], inputs(run, settings));
    const dy = run.slot("dy", dtypes[grad], [T, F], run.random.normal(T * F));
    const dx = run.slot("dx", dtypes[grad], [T, 2 * F], null, { output: true });
    run.run(({ ops }) => {
      ops.gluBackward(dx, dy, x, gelu);
      ops.gluBackward(dx, dy, x, gelu);
    });
    run.check(dx, gluGradient(dy.values, x.values, F, gelu), rounded(gradient, dtypes[grad]));
    if (!wide && grad === "f32") run.differences(dx, x.values, (moved) => dot(glu(moved, F, gelu), dy.values), slope);
  });
}

const nan: OpCase = opCase("gluForward", { values: "nan" }, (run) => {
  const x = run.slot(
    "x",
    "float32",
    [1, 22],
    Float64Array.from({ length: 22 }, (_, i) => (i === 3 ? Number.NaN : i / 9)),
  );
  const y = run.slot("y", "float32", [1, 11], null, { output: true });
  run.run(({ ops }) => ops.gluForward(y, x, false));
  run.check(y, glu(x.values, 11, false), gate);
});

const sizes = [
  { T: 1, F: 1 },
  { T: 3, F: 31 },
  { T: 5, F: 33 },
  { T: 13, F: 100 },
  { T: 2, F: 2100 },
] as const;

export const gluCases: readonly OpCase[] = [
  ...[false, true].flatMap((gelu) => [
    ...sizes.map((size) => forward({ ...size, x: "f32", gelu })),
    forward({ T: 7, F: 33, x: "bf16", gelu }),
    forward({ T: 2, F: 35, x: "f32", gelu, wide: true }),
    ...sizes.map((size) => backward({ ...size, x: "f32", gelu })),
    backward({ T: 7, F: 33, x: "bf16", gelu }),
    bfloat16Gradients(backward({ T: 7, F: 33, x: "bf16", gelu, grad: "bf16" })),
    bfloat16Gradients(backward({ T: 5, F: 64, x: "bf16", gelu, grad: "bf16", wide: true })),
    backward({ T: 2, F: 35, x: "f32", gelu, wide: true }),
  ]),
  nan,
];
