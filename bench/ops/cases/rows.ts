/** Rows gathered from a matrix, and scattered among zeros: exact. */
import { bfloat16Gradients, dtypes, type OpTable, opCase, picks, type Run, type ShortDType, timed } from "../case.ts";
import { bytesOf, memory } from "../cost.ts";
import { packedTokens, type Shapes } from "../shapes.ts";
import { exactly } from "../tolerance.ts";

interface Settings {
  readonly T: number;
  readonly N: number;
  readonly D: number;
  readonly dy?: ShortDType;
}

function gather(settings: Settings) {
  const { T, N, D } = settings;
  return opCase("gatherRows", { ...settings }, (run: Run) => {
    const x = run.input("x", "float32", [T, D]);
    const picked = Array.from({ length: N }, (_, i) => (i === 0 ? T - 1 : run.random.integer(T)));
    const index = run.filled("index", "int32", [N], (i) => picked[i]!);
    const y = run.output("y", "float32", [N, D]);
    run.run(({ ops }) => ops.gatherRows(y, x, index));
    run.check(y, (i) => x.at(picked[Math.floor(i / D)]! * D + (i % D)), exactly);
  });
}

function scatter(settings: Settings) {
  const { T, N, D, dy: dtype = "f32" } = settings;
  return opCase("scatterRows", { ...settings }, (run: Run) => {
    const dy = run.input("dy", dtypes[dtype], [N, D]);
    const order = run.random.permutation(T);
    const picked = order.slice(0, N);
    const index = run.filled("index", "int32", [N], (i) => picked[i]!);
    const dx = run.input("dx", "float32", [T, D], { output: true });
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.scatterRows(dx, dy, index);
    });
    const from = new Map(picked.map((row, i) => [row, i]));
    const want = (i: number) => {
      const row = from.get(Math.floor(i / D));
      return row === undefined ? 0 : dy.at(row * D + (i % D));
    };
    run.check(dx, want, exactly, { rows: picks(T, 15).map((i) => order[i]!) });
  });
}

/** The rows of the head among all rows. */
const rowsOfHead = (s: Shapes) => ({ T: packedTokens(s), N: s.samples * s.completion, D: s.D });

export const rowOps: OpTable<"gatherRows" | "scatterRows"> = {
  gatherRows: {
    cost: (_, y, _x, index) => memory(2 * bytesOf(y) + bytesOf(index)),
    cases: [gather({ T: 1, N: 1, D: 1 }), gather({ T: 33, N: 50, D: 31 })],
    real: (s) => [timed("training", "float32", { ...rowsOfHead(s) }, gather(rowsOfHead(s)))],
  },
  scatterRows: {
    // All rows are first set to zero, then those of dy are written.
    cost: (_, dx, dy, index) => ({ ...memory(bytesOf(dx) + bytesOf(dy) + bytesOf(index)), between: bytesOf(dy) }),
    cases: [
      scatter({ T: 1, N: 1, D: 1 }),
      scatter({ T: 50, N: 33, D: 31 }),
      scatter({ T: 20, N: 0, D: 5 }),
      bfloat16Gradients(scatter({ T: 50, N: 33, D: 31, dy: "bf16" })),
    ],
    real: (s) => [timed("training", "float32", { ...rowsOfHead(s) }, scatter(rowsOfHead(s)))],
  },
};
