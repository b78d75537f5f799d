/** A mixture of experts: the router, the pairs of tokens and experts, and the products of each expert's pairs. */
import type { ExpertOp, ExpertWeights, PairPlaces } from "../../../src/device/device.ts";
import { elementCount } from "../../../src/tensor/tensor.ts";
import {
  bfloat16Gradients,
  computeDTypes,
  dtypes,
  memo,
  type OpTable,
  opCase,
  type Run,
  type ShortDType,
  shortOf,
  timed,
  type Values,
  type WeightSlot,
} from "../case.ts";
import { bytesOf, type Cost, memory, rowsOf, weightBytes } from "../cost.ts";
import { dot, grown, logSoftmax, sumOfProducts } from "../reference.ts";
import { gradientType, packedTokens, type Shapes } from "../shapes.ts";
import { exactly, rounded, roundedOperands, type Tolerance } from "../tolerance.ts";

/** A probability: an exponential, and a sum of E. */
const probability: Tolerance = { relative: 4e-6, absolute: 1e-9 };
/** Differences of a few products of probabilities. */
const slopes: Tolerance = { absolute: 3e-6, relative: 1e-5 };
const slope: Tolerance = { absolute: 2e-4, relative: 1e-3 };
/** A sum of few products of any sign. */
const few: Tolerance = { magnitude: 2 ** -22 };
/** As the products of one weight (matmul.ts), for sums of up to a few hundred terms. */
const chain: Tolerance = { magnitude: 2 ** -21, operands: roundedOperands, truncating: { magnitude: 2 ** -21 } };

interface Routing {
  readonly T: number;
  readonly E: number;
  readonly K: number;
}

/** Experts (T, K) in a fixed, uneven order: the first ones get most tokens, the last none. */
const chosen =
  ({ E, K }: Routing): Values =>
  (i) => {
    const [t, k] = [Math.floor(i / K), i % K];
    const few = Math.max(K, E - 1);
    return ((t * t + 3 * t) % few) + k < few ? ((t * t + 3 * t) % few) + k : ((t * t + 3 * t) % few) + k - few;
  };

/** Where `dispatch` puts pairs. */
function dispatched(experts: Values, { T, E, K }: Routing) {
  const order = Array.from({ length: T * K }, (_, i) => i).sort((a, b) => experts(a) - experts(b) || a - b);
  const places = new Int32Array(T * K);
  for (const [place, i] of order.entries()) places[i] = place;
  const offsets = Array.from({ length: E + 1 }, (_, e) => order.filter((i) => experts(i) < e).length);
  return { order, places, offsets };
}

function placesOf(run: Run, routing: Routing, output = false): PairPlaces & ReturnType<typeof wantedOf> {
  const { T, E, K } = routing;
  const want = wantedOf(routing);
  const part = (name: string, shape: readonly number[], values: ArrayLike<number>) =>
    output ? run.output(name, "int32", shape) : run.filled(name, "int32", shape, (i) => values[i]!);
  return {
    offsets: part("offsets", [E + 1], want.wanted.offsets),
    order: part("order", [T * K], want.wanted.order),
    places: part("places", [T, K], want.wanted.places),
    ...want,
  };
}

const wantedOf = (routing: Routing) => ({ wanted: dispatched(chosen(routing), routing) });

interface RouteSettings extends Routing {
  readonly normalized: boolean;
  /** Experts are given rather than chosen. */
  readonly given?: boolean;
  /** Many logits are equal. */
  readonly ties?: boolean;
}

function route(settings: RouteSettings) {
  const { T, E, K, normalized, given = false, ties = false } = settings;
  return opCase("routeForward", { ...settings }, (run: Run) => {
    const logits = ties
      ? run.filled("logits", "float32", [T, E], (i) => (i * 7 + Math.floor(i / E)) % 3)
      : run.input("logits", "float32", [T, E], { deviation: 2 });
    const experts = given
      ? run.filled("experts", "int32", [T, K], chosen(settings), { output: true })
      : run.output("experts", "int32", [T, K]);
    const [weights, probabilities] = [
      run.output("weights", "float32", [T, K]),
      run.output("probabilities", "float32", [T, E]),
    ];
    run.run(({ ops }) => ops.routeForward({ weights, experts, probabilities }, logits, normalized, given));
    const row = memo((t) => {
      const { logp } = logSoftmax(
        Float64Array.from({ length: E }, (_, e) => logits.at(t * E + e)),
        1,
      );
      const best = [...logp.keys()].sort((a, b) => logp[b]! - logp[a]! || a - b).slice(0, K);
      const own = given ? best.map((_, k) => chosen(settings)(t * K + k)) : best;
      const all = normalized ? own.reduce((sum, e) => sum + Math.exp(logp[e]!), 0) : 1;
      return { logp, own, weights: own.map((e) => Math.exp(logp[e]!) / all) };
    });
    run.check(experts, (i) => row(Math.floor(i / K)).own[i % K]!, exactly);
    run.check(probabilities, (i) => Math.exp(row(Math.floor(i / E)).logp[i % E]!), probability);
    run.check(weights, (i) => row(Math.floor(i / K)).weights[i % K]!, probability);
  });
}

function routeBackward(settings: RouteSettings) {
  const { T, E, K, normalized } = settings;
  return opCase("routeBackward", { ...settings }, (run: Run) => {
    const logits = run.input("logits", "float32", [T, E], { deviation: 2 });
    const own = chosen(settings);
    /** Weights (T, K) of given experts. */
    const weighed = (at: Values) => {
      const row = memo((t) => {
        const { logp } = logSoftmax(
          Float64Array.from({ length: E }, (_, e) => at(t * E + e)),
          1,
        );
        const p = Array.from({ length: K }, (_, k) => Math.exp(logp[own(t * K + k)]!));
        const all = normalized ? p.reduce((a, b) => a + b, 0) : 1;
        return { logp, weights: p.map((value) => value / all) };
      });
      return {
        weight: (i: number) => row(Math.floor(i / K)).weights[i % K]!,
        probability: (i: number) => Math.exp(row(Math.floor(i / E)).logp[i % E]!),
      };
    };
    const now = weighed(logits.at);
    const weights = run.filled("weights", "float32", [T, K], now.weight);
    const experts = run.filled("experts", "int32", [T, K], own);
    const probabilities = run.filled("probabilities", "float32", [T, E], now.probability);
    const dweights = run.input("dweights", "float32", [T, K]);
    const dlogits = run.output("dlogits", "float32", [T, E]);
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--)
        ops.routeBackward(dlogits, dweights, { weights, experts, probabilities }, normalized);
    });
    const want = (i: number): number => {
      const [t, e] = [Math.floor(i / E), i % E];
      const of = (k: number) => ({ dw: dweights.at(t * K + k), p: now.probability(t * E + own(t * K + k)) });
      const pairs = Array.from({ length: K }, (_, k) => of(k));
      const all = normalized ? pairs.reduce((sum, { p }) => sum + p, 0) : 1;
      const shared = normalized ? pairs.reduce((sum, { dw, p }) => sum + (dw * p) / all, 0) : 0;
      const slopes = pairs.map(({ dw }) => (dw - shared) / all);
      const mean = pairs.reduce((sum, { p }, k) => sum + p * slopes[k]!, 0);
      const direct = slopes.reduce((sum, s, k) => sum + (own(t * K + k) === e ? s : 0), 0);
      return now.probability(t * E + e) * (direct - mean);
    };
    run.check(dlogits, want, slopes);
    const loss = (moved: Values) => dot(T * K, weighed(moved).weight, dweights.at);
    run.differences(dlogits, logits.at, loss, slope);
  });
}

/** Probabilities (T, E) of random logits, and weights of rows. */
function balanced(run: Run, { T, E }: Pick<Routing, "T" | "E">) {
  const logits = run.input("logits", "float32", [T, E], { deviation: 2 });
  const probabilityOf = (at: Values) => {
    const row = memo((t) => {
      const { logp } = logSoftmax(
        Float64Array.from({ length: E }, (_, e) => at(t * E + e)),
        1,
      );
      return logp;
    });
    return (i: number) => Math.exp(row(Math.floor(i / E))[i % E]!);
  };
  const probabilities = run.filled("probabilities", "float32", [T, E], probabilityOf(logits.at));
  const rowWeights = run.filled("row weights", "float32", [T], (t) => 1 + (t % 4));
  return { logits, probabilityOf, probabilities, rowWeights };
}

function balance(settings: Pick<Routing, "T" | "E">) {
  const { T, E } = settings;
  return opCase("balanceForward", { ...settings }, (run: Run) => {
    const { probabilities, rowWeights } = balanced(run, settings);
    const load = run.input("load", "float32", [E], { output: true });
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.balanceForward(load, probabilities, rowWeights);
    });
    const want = (e: number) =>
      grown(
        load.at(e),
        sumOfProducts(T, rowWeights.at, (t) => probabilities.at(t * E + e)),
        run.times,
      );
    run.check(load, want, chain);
  });
}

function balanceBackward(settings: Pick<Routing, "T" | "E">) {
  const { T, E } = settings;
  return opCase("balanceBackward", { ...settings }, (run: Run) => {
    const { logits, probabilityOf, probabilities, rowWeights } = balanced(run, settings);
    const slopes = run.input("slopes", "float32", [E]);
    const dlogits = run.input("dlogits", "float32", [T, E], { output: true });
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.balanceBackward(dlogits, probabilities, slopes, rowWeights);
    });
    const want = (i: number) => {
      const [t, e] = [Math.floor(i / E), i % E];
      const mean = dot(E, (j) => probabilities.at(t * E + j), slopes.at);
      const slope = rowWeights.at(t) * probabilities.at(i) * (slopes.at(e) - mean);
      return dlogits.at(i) + run.times * slope;
    };
    run.check(dlogits, want, { absolute: 1e-5, relative: 1e-5 });
    const loss = (moved: Values) => {
      const p = probabilityOf(moved);
      return dot(T * E, p, (i) => rowWeights.at(Math.floor(i / E)) * slopes.at(i % E));
    };
    run.differences(dlogits, logits.at, loss, slope, run.times);
  });
}

function dispatch(settings: Routing) {
  return opCase("dispatch", { ...settings }, (run: Run) => {
    const experts = run.filled("experts", "int32", [settings.T, settings.K], chosen(settings));
    const { offsets, order, places, wanted } = placesOf(run, settings, true) as PairPlaces & {
      readonly [Part in keyof PairPlaces]: ReturnType<Run["output"]>;
    } & ReturnType<typeof wantedOf>;
    run.run(({ ops }) => ops.dispatch({ offsets, order, places }, experts));
    run.check(offsets, wanted.offsets, exactly);
    run.check(order, wanted.order, exactly);
    run.check(places, wanted.places, exactly);
  });
}

interface RowSettings extends Routing {
  readonly D: number;
  readonly x: ShortDType;
}

function gather(settings: RowSettings) {
  const { T, K, D, x: dtype } = settings;
  return opCase("gatherPairs", { ...settings }, (run: Run) => {
    const places = placesOf(run, settings);
    const x = run.input("x", dtypes[dtype], [T, D]);
    const y = run.output("y", dtypes[dtype], [T * K, D]);
    run.run(({ ops }) => ops.gatherPairs(y, x, places));
    const tokenOf = (p: number) => Math.floor(places.wanted.order[p]! / K);
    run.check(y, (i) => x.at(tokenOf(Math.floor(i / D)) * D + (i % D)), exactly);
  });
}

function scatter(settings: RowSettings) {
  const { T, K, D, x: dtype } = settings;
  return opCase("scatterPairs", { ...settings }, (run: Run) => {
    const places = placesOf(run, settings);
    const dy = run.input("dy", dtypes[dtype], [T * K, D]);
    const dx = run.output("dx", dtypes[dtype], [T, D]);
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.scatterPairs(dx, dy, places);
    });
    const want = (i: number) => {
      const t = Math.floor(i / D);
      const at = (k: number) => dy.at(places.wanted.places[t * K + k]! * D + (i % D));
      return sumOfProducts(K, at, () => 1);
    };
    run.check(dx, want, rounded(few, dtypes[dtype]));
  });
}

function combine(settings: RowSettings) {
  const { T, K, D, x: dtype } = settings;
  return opCase("combineForward", { ...settings }, (run: Run) => {
    const places = placesOf(run, settings);
    const y = run.input("y", dtypes[dtype], [T * K, D]);
    const weights = run.input("weights", "float32", [T, K]);
    const x = run.input("x", "float32", [T, D], { output: true });
    run.run(({ ops }) => ops.combineForward(x, y, places, weights));
    const want = (i: number) => {
      const t = Math.floor(i / D);
      return sumOfProducts(
        K,
        (k) => weights.at(t * K + k),
        (k) => y.at(places.wanted.places[t * K + k]! * D + (i % D)),
        x.at(i),
      );
    };
    run.check(x, want, few);
  });
}

function combineBackward(settings: RowSettings & { readonly grad?: ShortDType }) {
  const { T, K, D, x: dtype, grad = "f32" } = settings;
  return opCase("combineBackward", { ...settings }, (run: Run) => {
    const places = placesOf(run, settings);
    const y = run.input("y", dtypes[dtype], [T * K, D]);
    const weights = run.input("weights", "float32", [T, K]);
    const dx = run.input("dx", "float32", [T, D]);
    const dy = run.output("dy", dtypes[grad], [T * K, D]);
    const dweights = run.output("dweights", "float32", [T, K]);
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.combineBackward(dy, dweights, dx, y, places, weights);
    });
    const { order, places: place } = places.wanted;
    const wantedRow = (i: number) => {
      const pair = order[Math.floor(i / D)]!;
      return weights.at(pair) * dx.at(Math.floor(pair / K) * D + (i % D));
    };
    run.check(dy, wantedRow, rounded({ relative: 2 ** -22 }, dtypes[grad]));
    const wantedWeight = (i: number) =>
      sumOfProducts(
        D,
        (d) => dx.at(Math.floor(i / K) * D + d),
        (d) => y.at(place[i]! * D + d),
      );
    run.check(dweights, wantedWeight, { magnitude: 2 ** -21 });
  });
}

interface ProductSettings extends Routing {
  /** Rows and columns of an expert's weight; N is a multiple of 16. */
  readonly N: number;
  readonly D: number;
  readonly x: ShortDType;
  readonly grad?: ShortDType;
  readonly gap?: number;
  readonly accumulate?: boolean;
}

/** The weights of all experts as the rows of one, which whole blocks of every layout make the same. */
function experts(run: Run, { E, N, D, x }: ProductSettings) {
  const all = run.weight("w", dtypes[x], [E * N, D], { deviation: 1 / Math.sqrt(D) });
  const one: WeightSlot = { ...all, shape: [N, D], elements: all.elements / E };
  const each: ExpertWeights = { first: one, count: E };
  return { all, each };
}

/** The expert of each row of pairs. */
function expertOf({ wanted: { offsets } }: ReturnType<typeof wantedOf>) {
  return (p: number) => offsets.findLastIndex((from) => from <= p);
}

function products(settings: ProductSettings) {
  const { T, K, N, D, x: dtype, gap = 0 } = settings;
  return opCase("expertsForward", { ...settings }, (run: Run) => {
    const places = placesOf(run, settings);
    const { all, each } = experts(run, settings);
    const x = run.input("x", dtypes[dtype], [T * K, D], { gap });
    const y = run.output("y", dtypes[dtype], [T * K, N], { gap });
    run.run(({ ops }) => ops.expertsForward(y, x, each, places));
    const of = expertOf(places);
    const want = (i: number) => {
      const [p, n] = [Math.floor(i / N), i % N];
      return sumOfProducts(
        D,
        (d) => x.at(p * D + d),
        (d) => all.at((of(p) * N + n) * D + d),
      );
    };
    run.check(y, want, rounded(chain, dtypes[dtype]));
  });
}

function productsInput(settings: ProductSettings) {
  const { T, K, N, D, grad = "f32", gap = 0, accumulate = false } = settings;
  return opCase("expertsBackwardInput", { ...settings }, (run: Run) => {
    const places = placesOf(run, settings);
    const { all, each } = experts(run, settings);
    const dy = run.input("dy", dtypes[grad], [T * K, N], { gap });
    const dx = accumulate
      ? run.input("dx", dtypes[grad], [T * K, D], { gap, output: true })
      : run.output("dx", dtypes[grad], [T * K, D], { gap });
    run.run(({ ops }) => ops.expertsBackwardInput(dx, dy, each, places, accumulate));
    const of = expertOf(places);
    const want = (i: number) => {
      const [p, d] = [Math.floor(i / D), i % D];
      return sumOfProducts(
        N,
        (n) => dy.at(p * N + n),
        (n) => all.at((of(p) * N + n) * D + d),
        accumulate ? dx.at(i) : 0,
      );
    };
    run.check(dx, want, rounded(chain, dtypes[grad]));
  });
}

function productsWeight(settings: ProductSettings) {
  const { T, K, N, D, x: dtype, grad = "f32", gap = 0 } = settings;
  return opCase("expertsBackwardWeight", { ...settings }, (run: Run) => {
    const places = placesOf(run, settings);
    const { all, each } = experts(run, settings);
    const dy = run.input("dy", dtypes[grad], [T * K, N], { gap });
    const x = run.input("x", dtypes[dtype], [T * K, D], { gap });
    const dw = run.parameter("dw", all, { output: true });
    run.run(({ ops }) => {
      for (let times = run.times; times > 0; times--) ops.expertsBackwardWeight(dw, dy, x, each, places);
    });
    const { offsets } = places.wanted;
    const want = (i: number) => {
      const [row, d] = [Math.floor(i / D), i % D];
      const [e, n] = [Math.floor(row / N), row % N];
      const sum = sumOfProducts(
        offsets[e + 1]! - offsets[e]!,
        (m) => dy.at((offsets[e]! + m) * N + n),
        (m) => x.at((offsets[e]! + m) * D + d),
      );
      return grown(dw.at(i), sum, run.times);
    };
    run.check(dw, want, chain);
  });
}

const routings: readonly Routing[] = [
  { T: 1, E: 1, K: 1 },
  { T: 5, E: 4, K: 2 },
  { T: 37, E: 9, K: 3 },
  { T: 19, E: 40, K: 8 },
];
/** More rows than a tile has, and experts without any. */
const sizes: readonly (Routing & { readonly N: number; readonly D: number })[] = [
  { T: 1, E: 3, K: 2, N: 16, D: 5 },
  { T: 40, E: 4, K: 2, N: 32, D: 24 },
  { T: 90, E: 3, K: 2, N: 80, D: 33 },
];

/** A mixture as large as the model: its MLP as 8 experts, of which a token has 2. */
function mixture(s: Shapes): Routing & { readonly N: number; readonly D: number } {
  return { T: packedTokens(s), E: 8, K: 2, N: Math.ceil(s.F / 64) * 16, D: s.D };
}

function productCost(rows: number, w: ExpertWeights, bytes: number): Cost {
  const [n = 1, k = 1] = w.first.shape;
  return { bytes: bytes + w.count * weightBytes(w.first), flops: 2 * rows * n * k, unit: "float32" };
}

export const expertOps: OpTable<ExpertOp> = {
  routeForward: {
    cost: (_, { weights, experts, probabilities }, logits) => {
      const count = elementCount(logits.shape);
      return memory(
        bytesOf(weights) + bytesOf(experts) + bytesOf(probabilities) + bytesOf(logits),
        (2 + (experts.shape[1] ?? 1)) * count,
        count,
      );
    },
    cases: [
      ...routings.map((r) => route({ ...r, normalized: true })),
      ...routings.slice(1, 3).map((r) => route({ ...r, normalized: false })),
      route({ T: 9, E: 7, K: 3, normalized: true, ties: true }),
      route({ T: 9, E: 7, K: 3, normalized: true, given: true }),
    ],
    real: (s) => {
      const { T, E, K } = mixture(s);
      return [timed("training", "float32", { T, E, K }, route({ T, E, K, normalized: true }))];
    },
  },
  routeBackward: {
    cost: (_, dlogits, dweights, { weights, experts, probabilities }) =>
      memory(
        bytesOf(dlogits) + bytesOf(dweights) + bytesOf(weights) + bytesOf(experts) + bytesOf(probabilities),
        4 * elementCount(dlogits.shape),
      ),
    cases: [
      ...routings.map((r) => routeBackward({ ...r, normalized: true })),
      routeBackward({ T: 5, E: 4, K: 2, normalized: false }),
    ],
    real: (s) => {
      const { T, E, K } = mixture(s);
      return [timed("training", "float32", { T, E, K }, routeBackward({ T, E, K, normalized: true }))];
    },
  },
  balanceForward: {
    cost: (_, load, probabilities, rowWeights) =>
      memory(2 * bytesOf(load) + bytesOf(probabilities) + bytesOf(rowWeights), 2 * elementCount(probabilities.shape)),
    cases: routings.map(({ T, E }) => balance({ T, E })),
    real: (s) => {
      const { T, E } = mixture(s);
      return [timed("training", "float32", { T, E }, balance({ T, E }))];
    },
  },
  balanceBackward: {
    cost: (_, dlogits, probabilities, slopes, rowWeights) =>
      memory(
        2 * bytesOf(dlogits) + bytesOf(probabilities) + bytesOf(slopes) + bytesOf(rowWeights),
        6 * elementCount(dlogits.shape),
      ),
    cases: routings.map(({ T, E }) => balanceBackward({ T, E })),
    real: (s) => {
      const { T, E } = mixture(s);
      return [timed("training", "float32", { T, E }, balanceBackward({ T, E }))];
    },
  },
  dispatch: {
    cost: (_, { offsets, order, places }, experts) =>
      memory(bytesOf(offsets) + bytesOf(order) + bytesOf(places) + bytesOf(experts)),
    cases: [...routings, { T: 300, E: 5, K: 2 }].map(dispatch),
    real: (s) => {
      const { T, E, K } = mixture(s);
      return [timed("training", "float32", { T, E, K }, dispatch({ T, E, K }))];
    },
  },
  gatherPairs: {
    cost: (_, y, x, { order }) => memory(bytesOf(y) + bytesOf(x) + bytesOf(order)),
    cases: (["f32", "bf16"] as const).map((x) => gather({ T: 13, E: 4, K: 2, D: 33, x })),
    real: (s) => {
      const { N, ...size } = mixture(s);
      return computeDTypes.map((dtype) => timed("training", dtype, size, gather({ ...size, x: shortOf(dtype) })));
    },
  },
  scatterPairs: {
    cost: (_, dx, dy, { places }) => memory(bytesOf(dx) + bytesOf(dy) + bytesOf(places), elementCount(dy.shape)),
    cases: [
      scatter({ T: 13, E: 4, K: 2, D: 33, x: "f32" }),
      bfloat16Gradients(scatter({ T: 13, E: 4, K: 2, D: 33, x: "bf16" })),
    ],
    real: (s) => {
      const { N, ...size } = mixture(s);
      return [timed("training", "float32", size, scatter({ ...size, x: "f32" }))];
    },
  },
  combineForward: {
    cost: (_, x, y, { places }, weights) =>
      memory(2 * bytesOf(x) + bytesOf(y) + bytesOf(places) + bytesOf(weights), 2 * elementCount(y.shape)),
    cases: (["f32", "bf16"] as const).map((x) => combine({ T: 13, E: 4, K: 3, D: 33, x })),
    real: (s) => {
      const { N, ...size } = mixture(s);
      return computeDTypes.map((dtype) => timed("training", dtype, size, combine({ ...size, x: shortOf(dtype) })));
    },
  },
  combineBackward: {
    cost: (_, dy, dweights, dx, y, { places }, weights) =>
      memory(
        bytesOf(dy) + bytesOf(dweights) + bytesOf(dx) + bytesOf(y) + bytesOf(places) + bytesOf(weights),
        3 * elementCount(y.shape),
      ),
    cases: [
      combineBackward({ T: 13, E: 4, K: 3, D: 33, x: "f32" }),
      combineBackward({ T: 5, E: 4, K: 2, D: 70, x: "bf16" }),
      bfloat16Gradients(combineBackward({ T: 13, E: 4, K: 3, D: 33, x: "bf16", grad: "bf16" })),
    ],
    real: (s) => {
      const { N, ...size } = mixture(s);
      return [timed("training", "float32", size, combineBackward({ ...size, x: "f32" }))];
    },
  },
  expertsForward: {
    cost: (_, y, x, w) => productCost(rowsOf(x), w, bytesOf(y) + bytesOf(x)),
    cases: [
      ...sizes.map((size) => products({ ...size, x: "f32" })),
      ...sizes.map((size) => products({ ...size, x: "bf16" })),
      products({ T: 13, E: 4, K: 2, N: 16, D: 24, x: "f32", gap: 5 }),
    ],
    real: (s) =>
      computeDTypes.map((dtype) =>
        timed("training", dtype, { ...mixture(s) }, products({ ...mixture(s), x: shortOf(dtype) })),
      ),
  },
  expertsBackwardInput: {
    cost: (_, dx, dy, w) => productCost(rowsOf(dy), w, bytesOf(dx) + bytesOf(dy)),
    cases: [
      ...sizes.map((size) => productsInput({ ...size, x: "f32" })),
      ...sizes.slice(1).map((size) => productsInput({ ...size, x: "bf16" })),
      productsInput({ T: 13, E: 4, K: 2, N: 16, D: 24, x: "f32", gap: 5, accumulate: true }),
      bfloat16Gradients(productsInput({ ...sizes[1]!, x: "bf16", grad: "bf16", accumulate: true })),
    ],
    real: (s) =>
      computeDTypes.map((dtype) => {
        const grad = shortOf(gradientType(s, dtype));
        return timed("training", dtype, { ...mixture(s) }, productsInput({ ...mixture(s), x: shortOf(dtype), grad }));
      }),
  },
  expertsBackwardWeight: {
    cost: (_, _dw, dy, x, w) => productCost(rowsOf(dy), w, w.count * w.first.elements * 4 + bytesOf(dy) + bytesOf(x)),
    cases: [
      ...sizes.map((size) => productsWeight({ ...size, x: "f32" })),
      ...sizes.slice(1).map((size) => productsWeight({ ...size, x: "bf16" })),
      productsWeight({ T: 13, E: 4, K: 2, N: 16, D: 24, x: "f32", gap: 5 }),
      bfloat16Gradients(productsWeight({ ...sizes[1]!, x: "bf16", grad: "bf16" })),
    ],
    real: (s) =>
      computeDTypes.map((dtype) => {
        const grad = shortOf(gradientType(s, dtype));
        return timed("training", dtype, { ...mixture(s) }, productsWeight({ ...mixture(s), x: shortOf(dtype), grad }));
      }),
  },
};
