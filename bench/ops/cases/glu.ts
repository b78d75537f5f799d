/** Gated linear units, SiLU and tanh-approximated GELU, forward and backward. */
import { elementCount } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
  computeDTypes,
  dtypes,
  type OpTable,
  opCase,
  type Run,
  type ShortDType,
  type SuiteRun,
  shortOf,
  timed,
} from "../case.ts";
import { bytesOf, memory } from "../cost.ts";
import { dot, glu, gluGradient } from "../reference.ts";
import { gradientType, packedTokens, usesOf } from "../shapes.ts";
import { rounded, type Tolerance } from "../tolerance.ts";

/**
 * An exponent z is rounded to 2⁻²⁴ |z|, which is the relative error of its exponential; GELU's outputs are above
 * 1e-7 up to |z| = 17. A sigmoid at −88 and below is 4e-39, where the exact value is smaller.
 */
const gate: Tolerance = { relative: 2 ** -18, absolute: 1e-12 };
/** The slope of the activation is a sum of two terms that may cancel. */
const gradient: Tolerance = { relative: 2 ** -19, absolute: 2 ** -19 };
const slope: Tolerance = { relative: 1e-4, absolute: 1e-4 };

interface Settings {
  readonly T: number;
  readonly F: number;
  readonly x: ShortDType;
  readonly gelu: boolean;
  /** Gates so large that the exponential saturates. */
  readonly wide?: boolean;
  /** Type of dy and dx. */
  readonly grad?: ShortDType;
  /** The backward pass writes y too. */
  readonly restores?: boolean;
}

const far = [0, -0, 20, -20, 60, -60, 87, -87, 89, -89, 100, -100, 1e4, -1e4, 1e-20, -1e-20];

function inputOf(run: Run, { T, F, x, wide }: Settings) {
  const drawn = run.input(wide ? "up" : "x", dtypes[x], [T, 2 * F], { deviation: 2 });
  if (!wide) return drawn;
  const at = (i: number) => (i % (2 * F) < F ? far[(i % (2 * F)) % far.length]! : drawn.at(i));
  return run.filled("x", dtypes[x], [T, 2 * F], at);
}

function forward(settings: Settings) {
  const { T, F, gelu } = settings;
  const dtype = dtypes[settings.x];
  return opCase("gluForward", { ...settings }, (run: Run) => {
    const x = inputOf(run, settings);
    const y = run.output("y", dtype, [T, F]);
    run.run(({ ops }) => ops.gluForward(y, x, gelu));
    run.check(y, glu(x.at, F, gelu), rounded(gate, dtype));
  });
}

function backward(settings: Settings) {
  const { T, F, gelu, wide = false, grad = "f32", restores = false } = settings;
  return opCase("gluBackward", { ...settings }, (run: Run) => {
    const x = inputOf(run, settings);
    const dy = run.input("dy", dtypes[grad], [T, F]);
    const dx = run.output("dx", dtypes[grad], [T, 2 * F]);
    const y = restores ? run.output("y", dtypes[settings.x], [T, F]) : null;
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.gluBackward(dx, dy, x, gelu, y);
    });
    if (y) run.check(y, glu(x.at, F, gelu), rounded(gate, dtypes[settings.x]));
    run.check(dx, gluGradient(dy.at, x.at, F, gelu), rounded(gradient, dtypes[grad]), { columns: 18 });
    if (!wide && grad === "f32") run.differences(dx, x.at, (moved) => dot(T * F, glu(moved, F, gelu), dy.at), slope);
  });
}

/** y has the bits that the forward pass gives. */
function restored(dtype: ShortDType, gelu: boolean) {
  const [T, F] = [5, 67];
  const one = opCase("gluBackward", { T, F, x: dtype, gelu, y: "as-forward" }, (run: SuiteRun) => {
    const x = run.input("x", dtypes[dtype], [T, 2 * F], { deviation: 2 });
    const dy = run.input("dy", dtypes[dtype], [T, F]);
    const dx = run.output("dx", dtypes[dtype], [T, 2 * F]);
    const [y, forward] = [run.output("y", dtypes[dtype], [T, F]), run.output("forward's y", dtypes[dtype], [T, F])];
    run.run(({ ops }) => {
      ops.gluForward(forward, x, gelu);
      ops.gluBackward(dx, dy, x, gelu, y);
    });
    run.check(dx, gluGradient(dy.at, x.at, F, gelu), rounded(gradient, dtypes[dtype]));
    run.same(y, 0, forward, 0, T);
  });
  return dtype === "bf16" ? bfloat16Gradients(one) : one;
}

/** dx takes the place of x, and y that of dy. */
function inPlace(dtype: ShortDType, gelu: boolean) {
  const [T, F] = [5, 35];
  const one = opCase("gluBackward", { T, F, x: dtype, gelu, place: "of-x" }, (run: SuiteRun) => {
    const x = run.input("x", dtypes[dtype], [T, 2 * F], { output: true });
    const dy = run.input("dy", dtypes[dtype], [T, F], { output: true });
    run.run(({ ops }) => ops.gluBackward(x, dy, x, gelu, dy));
    run.check(x, gluGradient(dy.at, x.at, F, gelu), rounded(gradient, dtypes[dtype]));
    run.check(dy, glu(x.at, F, gelu), rounded(gate, dtypes[dtype]));
  });
  return dtype === "bf16" ? bfloat16Gradients(one) : one;
}

const nan = opCase("gluForward", { values: "nan" }, (run: SuiteRun) => {
  const x = run.filled("x", "float32", [1, 22], (i) => (i === 3 ? Number.NaN : i / 9));
  const y = run.output("y", "float32", [1, 11]);
  run.run(({ ops }) => ops.gluForward(y, x, false));
  run.check(y, glu(x.at, 11, false), gate);
});

const sizes = [
  { T: 1, F: 1 },
  { T: 3, F: 31 },
  { T: 5, F: 33 },
  { T: 13, F: 100 },
  { T: 2, F: 2100 },
] as const;

export const gluOps: OpTable<"gluForward" | "gluBackward"> = {
  gluForward: {
    cost: (_, y, x, gelu) => {
      const outputs = elementCount(y.shape);
      return memory(bytesOf(y) + bytesOf(x), outputs * (gelu ? 12 : 4), outputs);
    },
    cases: [
      ...[false, true].flatMap((gelu) => [
        ...sizes.map((size) => forward({ ...size, x: "f32", gelu })),
        forward({ T: 7, F: 33, x: "bf16", gelu }),
        forward({ T: 2, F: 35, x: "f32", gelu, wide: true }),
      ]),
      nan,
    ],
    real: (s) => {
      const make =
        (gelu: boolean) =>
        (dtype: (typeof computeDTypes)[number], [use, T]: ReturnType<typeof usesOf>[number]) =>
          timed(use, dtype, { T, F: s.F, gelu }, forward({ T, F: s.F, x: shortOf(dtype), gelu }));
      const [training] = usesOf(s);
      return [
        ...computeDTypes.flatMap((dtype) => usesOf(s).map((use) => make(false)(dtype, use))),
        ...computeDTypes.map((dtype) => make(true)(dtype, training!)),
      ];
    },
  },
  gluBackward: {
    cost: (_, dx, dy, x, gelu, y) => {
      const outputs = elementCount(dy.shape);
      return memory(bytesOf(dx) + bytesOf(dy) + bytesOf(x) + (y ? bytesOf(y) : 0), outputs * (gelu ? 20 : 10), outputs);
    },
    cases: [false, true].flatMap((gelu) => [
      ...sizes.map((size) => backward({ ...size, x: "f32", gelu })),
      ...sizes.map((size) => backward({ ...size, x: "f32", gelu, restores: true })),
      bfloat16Gradients(backward({ T: 5, F: 64, x: "bf16", gelu, grad: "bf16", restores: true })),
      backward({ T: 7, F: 33, x: "bf16", gelu }),
      bfloat16Gradients(backward({ T: 7, F: 33, x: "bf16", gelu, grad: "bf16" })),
      bfloat16Gradients(backward({ T: 5, F: 64, x: "bf16", gelu, grad: "bf16", wide: true })),
      backward({ T: 2, F: 35, x: "f32", gelu, wide: true }),
      restored("f32", gelu),
      restored("bf16", gelu),
      inPlace("f32", gelu),
      inPlace("bf16", gelu),
    ]),
    real: (s) =>
      computeDTypes.flatMap((dtype) =>
        [false, true].map((gelu) => {
          const size = { T: packedTokens(s), F: s.F, gelu };
          const grad = shortOf(gradientType(s, dtype));
          return timed("training", dtype, size, backward({ ...size, x: shortOf(dtype), grad, restores: true }));
        }),
      ),
  },
};
