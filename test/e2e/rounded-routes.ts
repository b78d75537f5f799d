/**
 * A mixture of experts in bfloat16 against float32. Rounding moves a router's logits, so a token may go to another one of two
 * experts that are about as probable, and its logprob then moves by what these experts differ in. How far that reaches is not
 * allowed for but computed: float32 repeats the pass with the experts that bfloat16 chose. Every token is then held to the
 * ordinary limit, and every choice to the logits that float32 has after the same choices in earlier layers.
 */
import { join } from "node:path";
import type { Device, Ops } from "../../src/device/device.ts";
import { isExperts } from "../../src/families/layer.ts";
import { layersOf } from "../../src/families/parameters.ts";
import { scoreGroups } from "../../src/grpo/learner/policy-update.ts";
import { readRollouts } from "../../src/grpo/rollout-file.ts";
import { findRoutes, withRoutes } from "../../src/model/expert-load.ts";
import { cutMicroBatches, type MicroBatch, type PackedGroup } from "../../src/model/micro-batches.ts";
import { type RouteShape, routeShape, type TokenRoutes } from "../../src/model/routes.ts";
import { planPolicy, planScoring } from "../../src/session/policy.ts";
import { planSession, withSession } from "../../src/session/session.ts";
import type { ComputeDType } from "../../src/tensor/dtype.ts";
import { folderOf } from "./golden.ts";

/** More than the golden rollouts have, so that a pass takes them all. */
const BUDGET = 2048;

/** bfloat16 has 8 significant bits: rounding to the nearest changes a number by at most this part of it. */
const UNIT_ROUNDOFF = 2 ** -8;

/**
 * How far rounding may move the difference between two logits of a row, in unit roundoffs of the layer's largest logit. Weights
 * and activations are rounded some 15 times a layer, at most 60 times before a router of the golden models; independent errors
 * add up in squares, √60 < 8. The farthest that one moves is 7.0 on the emulated GPU, 5.7 on AMX (docs/log.md).
 */
const UNITS = 8;

export interface RoutedPass {
  readonly groups: readonly PackedGroup[];
  readonly batch: MicroBatch;
  readonly shape: RouteShape;
  /** For each completion. */
  readonly routes: readonly TokenRoutes[];
  readonly logprobs: readonly Float32Array[];
  /** Of each layer with experts. (T, experts) */
  readonly logits: readonly Float32Array[];
  /** Whether a layer with experts is followed by another one's attention. */
  readonly attended: readonly boolean[];
}

/** Scores a golden model's rollouts in one pass. @param given experts that the tokens go to; null: those the router chooses */
export async function routedPass(
  device: Device,
  model: string,
  dtype: ComputeDType,
  given: readonly TokenRoutes[] | null = null,
): Promise<RoutedPass> {
  const logits: Float32Array[] = [];
  const routeForward: Ops["routeForward"] = (routes, z, ...options) => {
    device.ops.routeForward(routes, z, ...options);
    logits.push((device.download(z) as Float32Array).slice());
  };
  const ops: Ops = Object.create(device.ops, { routeForward: { value: routeForward } });
  const watched: Device = Object.create(device, { ops: { value: ops } });
  const planned = planSession(watched, (plan) => {
    const policy = planPolicy(plan, plan.folder(folderOf(model)), { dtype, positions: 128 });
    return { scorer: planScoring(plan, policy, { tokens: BUDGET, longestPrompt: 64 }) };
  });
  return withSession(planned, async ({ scorer: { model: opened, activations } }) => {
    const { config } = opened;
    const options = { vocabSize: config.vocabSize, requireReward: false };
    const recorded = await readRollouts(join(folderOf(model), "rollouts.jsonl"), options);
    const routes = given ?? (await findRoutes(opened, activations, recorded, BUDGET));
    const groups = withRoutes(recorded, routes);
    logits.length = 0;
    const settings = { temperature: 1, microBatchTokens: BUDGET };
    const scores = await scoreGroups(opened, activations, given ? groups : recorded, settings);
    const [batch, ...others] = cutMicroBatches(groups, BUDGET);
    const shape = routeShape(config)!;
    if (others.length > 0 || logits.length !== shape.layers) throw new Error("the rollouts take more than one pass");
    const layers = layersOf(config);
    const attended = layers.flatMap(({ mlp }, l) => (isExperts(mlp) ? [l + 1 < layers.length] : []));
    return { groups, batch: batch!, shape, routes, logprobs: scores.map((s) => s.logprobs), logits, attended };
  });
}

/** A row's experts in a layer, whatever their order. */
function chosen({ batch, shape: { perToken } }: RoutedPass, layer: number, row: number): Set<number> {
  const at = (layer * batch.tokens.length + row) * perToken;
  return new Set(batch.routes!.subarray(at, at + perToken));
}

/** How much more probable the best expert left out is than the worst one chosen, as a difference of logits; negative: less. */
function regret(own: ReadonlySet<number>, logits: Float32Array): number {
  let [left, taken] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  for (const [e, z] of logits.entries())
    if (own.has(e)) taken = Math.min(taken, z);
    else left = Math.max(left, z);
  return left - taken;
}

export interface LayerRounding {
  /** What rounding may explain: the limit of the other two. All are differences of logits. */
  readonly bound: number;
  /** The largest change of a difference between two logits of a row. */
  readonly moved: number;
  /** Of the rows whose experts are not float32's: by how much float32 prefers its own, the largest of them; 0 without any. */
  readonly margin: number;
  /** Their number. */
  readonly rerouted: number;
}

/** @param exact the float32 pass with the experts of `rounded` */
export function roundingOf(rounded: RoutedPass, exact: RoutedPass): LayerRounding[] {
  const { experts: E } = exact.shape;
  return exact.logits.map((all, layer) => {
    const largest = all.reduce((most, z) => Math.max(most, Math.abs(z)), 0);
    let [moved, margin, rerouted] = [0, 0, 0];
    for (let row = 0; row < all.length / E; row++) {
      const z = all.subarray(row * E, (row + 1) * E);
      const errors = z.map((want, e) => rounded.logits[layer]![row * E + e]! - want);
      moved = Math.max(moved, Math.max(...errors) - Math.min(...errors));
      const preferred = regret(chosen(rounded, layer, row), z);
      if (preferred <= 0) continue;
      rerouted++;
      margin = Math.max(margin, preferred);
    }
    return { bound: UNITS * UNIT_ROUNDOFF * largest, moved, margin, rerouted };
  });
}

/**
 * Of each completion token: whether other experts in one of two passes may affect its logprob. They do in the row that predicts
 * it, and in those that this row attends to, unless no attention follows.
 */
export function affected(a: RoutedPass, b: RoutedPass): boolean[][] {
  const { segments, headRows, entryRows, entryStarts, tokens } = a.batch;
  const differs = (layer: number, row: number) =>
    chosen(a, layer, row).symmetricDifference(chosen(b, layer, row)).size > 0;
  const layers = a.attended.map((attended, layer) => ({ attended, layer }));
  const itself = Array.from(tokens, (_, row) => layers.some(({ layer }) => differs(layer, row)));
  const attending = Array.from(tokens, (_, row) => layers.some((of) => of.attended && differs(of.layer, row)));
  const rows = [...itself];
  for (let s = 0; s < segments.length; s += 4) {
    const [start, length, prefix, prefixLength] = segments.subarray(s, s + 4) as unknown as [
      number,
      number,
      number,
      number,
    ];
    let before = attending.slice(prefix, prefix + prefixLength).includes(true);
    for (let row = start; row < start + length; row++) {
      before ||= attending[row]!;
      rows[row] ||= before;
    }
  }
  return Array.from({ length: entryStarts.length - 1 }, (_, c) =>
    Array.from(entryRows.subarray(entryStarts[c], entryStarts[c + 1]), (entry) => rows[headRows[entry]!]!),
  );
}

/** The values of the tokens for which `keep` says so. */
export function only(values: readonly ArrayLike<number>[], keep: readonly (readonly boolean[])[]): number[][] {
  return values.map((own, c) => Array.from(own).filter((_, t) => keep[c]![t]));
}
