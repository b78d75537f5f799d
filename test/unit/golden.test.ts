/**
 * `grpo score` and `grpo update` against numbers from outside: transformers' models, TRL's own loss code and
 * torch.optim.AdamW (test/golden/make_reference.py), on three tiny random models with every kind of attention bias,
 * tied head and q/k norm. Tolerances are those of the project's numerics, in float32.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import { score } from "../../src/cli/score.ts";
import { configFor } from "../../src/config/load.ts";
import type { UpdateConfig } from "../../src/config/schema.ts";
import { openCpuDevice } from "../../src/device/cpu.ts";
import { packedSizes } from "../../src/engine/inputs.ts";
import { planSession } from "../../src/engine/session.ts";
import { computeAdvantages } from "../../src/grpo/advantages.ts";
import { type ScoredGroup, updateSettings, updateStep } from "../../src/grpo/policy-update.ts";
import { runRecordedUpdate } from "../../src/grpo/recorded-update.ts";
import { readRollouts } from "../../src/grpo/rollout-file.ts";
import type { MetricsRecord } from "../../src/metrics/metrics-file.ts";
import { differences, downloadTensors, norm, readTensors, type Tensors, worstRelative } from "../e2e/tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

type Flags = Readonly<Record<string, string | number | boolean>>;

interface Expected {
  readonly settings: Flags;
  readonly logprobs: readonly (readonly number[])[];
  readonly entropies: readonly (readonly number[])[];
  readonly cases: Readonly<Record<string, ExpectedCase>>;
}

interface ExpectedCase {
  readonly config: Flags;
  readonly advantages: readonly number[];
  readonly loss: readonly number[];
  readonly grad_norm: readonly number[];
  readonly metrics_first_iteration: Readonly<Record<string, number>>;
  /** Σ|w| of every tensor after the third step. */
  readonly updated_abs_sum: Readonly<Record<string, number>>;
}

const models = ["llama-tied", "qwen2-bias", "qwen3-qknorm"];
const folderOf = (model: string) => join(import.meta.dir, "../golden", model);
const expectedOf = (model: string): Expected =>
  JSON.parse(readFileSync(join(folderOf(model), "expected.json"), "utf8")) as Expected;

let work = "";
beforeAll(() => {
  work = mkdtempSync(join(tmpdir(), "bun-grpo-golden-"));
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

const argvOf = (flags: Flags): string[] => Object.entries(flags).flatMap(([key, value]) => [`--${key}`, String(value)]);

function updateConfig(model: string, flags: Flags, outputDir: string): UpdateConfig {
  const rollouts = join(folderOf(model), "rollouts.jsonl");
  return configFor("update", argvOf({ model: folderOf(model), rollouts, output_dir: outputDir, ...flags })).config;
}

/** |got − want| within `relative` of want plus `absolute`. */
function expectClose(got: number, want: number, relative: number, absolute: number, what: string): void {
  const allowed = relative * Math.abs(want) + absolute;
  const verdict = Math.abs(got - want) <= allowed ? "close" : `${got}, expected ${want} ± ${allowed}`;
  expect(`${what}: ${verdict}`).toBe(`${what}: close`);
}

describe.each(models)("score on %s", (model) => {
  test.each([2048, 16])("logprobs and entropies, micro-batches of %i tokens", async (budget) => {
    const output = join(work, `${model}-${budget}.jsonl`);
    const input = join(folderOf(model), "rollouts.jsonl");
    await score.run(argvOf({ model: folderOf(model), input, output, micro_batch_tokens: budget }));
    const lines = readFileSync(output, "utf8").trimEnd().split("\n");
    const { logprobs, entropies } = expectedOf(model);
    expect(lines.length).toBe(logprobs.length);
    let [worstLogprob, worstEntropy] = [0, 0];
    for (const [i, line] of lines.entries()) {
      const got = JSON.parse(line) as { logprobs: number[]; entropies: number[] };
      expect([got.logprobs.length, got.entropies.length]).toEqual([logprobs[i]!.length, entropies[i]!.length]);
      for (const [t, want] of logprobs[i]!.entries()) {
        worstLogprob = Math.max(worstLogprob, Math.abs(got.logprobs[t]! - want));
        worstEntropy = Math.max(worstEntropy, Math.abs(got.entropies[t]! - entropies[i]![t]!));
      }
    }
    expect(worstLogprob).toBeLessThanOrEqual(2e-5);
    expect(worstEntropy).toBeLessThanOrEqual(1e-4);
  });
});

/** Runs `update` with a case's flags; what it logged, and its weights before and after. */
async function runCase(model: string, name: string) {
  const { settings, cases } = expectedOf(model);
  const expected = cases[name]!;
  const outputDir = join(work, `${model}-${name}`);
  const config = updateConfig(model, { ...settings, ...expected.config }, outputDir);
  const records: MetricsRecord[] = await runRecordedUpdate({
    config,
    folder: folderOf(model),
    resume: null,
    note: () => {},
    onStep: () => {},
  });
  const before = readTensors(join(folderOf(model), "model.safetensors"));
  const after = readTensors(join(outputDir, "model.safetensors"));
  return { expected, records, before, after };
}

/** What a tensor moved by bounds how far its Σ|w| can be off where every weight is within the tolerance. */
function expectAbsoluteSums(expected: ExpectedCase, before: Tensors, after: Tensors): void {
  for (const [name, moved] of differences(after, before)) {
    const sum = after.get(name)!.reduce((total, x) => total + Math.abs(x), 0);
    const allowed = 2e-2 * norm(moved) * Math.sqrt(moved.length) + 1e-6 * sum;
    expectClose(sum, expected.updated_abs_sum[name]!, 0, allowed, `Σ|${name}|`);
  }
}

describe.each(models)("update on %s", (model) => {
  test("the reference has all the cases", () => {
    expect(Object.keys(expectedOf(model).cases).length).toBe(16);
  });

  test.each(Object.keys(expectedOf(model).cases))("%s: losses, gradient norms, metrics, weights", async (name) => {
    const { expected, records, before, after } = await runCase(model, name);
    expect(records.map((record) => record.step)).toEqual([1, 2, 3]);
    for (const [i, record] of records.entries()) {
      const [relative, lossSlack, normSlack] = i === 0 ? [1e-4, 1e-5, 1e-5] : [5e-3, 2e-4, 2e-3];
      expectClose(Number(record.loss), expected.loss[i]!, relative, lossSlack, `loss of step ${i + 1}`);
      expectClose(Number(record.grad_norm), expected.grad_norm[i]!, relative, normSlack, `norm of step ${i + 1}`);
    }
    for (const [metric, want] of Object.entries(expected.metrics_first_iteration))
      expectClose(Number(records[0]![metric]), want, 0, 1e-3, metric);
    expectAbsoluteSums(expected, before, after);
    if (name !== "grpo" && name !== "dapo") return;
    const reference = readTensors(join(folderOf(model), `updated-${name}.safetensors`));
    const worst = worstRelative(differences(after, before), differences(reference, before));
    expectClose(worst.error, 0, 0, 2e-2, `movement of ${worst.name}`);
  });

  test.each(["grpo", "dapo"])(
    "%s: every tensor's gradient, on each instruction path, whole and cut into micro-batches",
    async (name) => {
      const reference = readTensors(join(folderOf(model), `grads-${name}.safetensors`));
      const { library, path: chosen } = await openCpuDevice();
      const paths = library.paths.flatMap((path) => (path.supported ? path.name : []));
      const runs = [...paths.map((path) => [path, 2048] as const), [chosen, 24] as const];
      for (const [path, budget] of runs) {
        const { gradients, advantages } = await firstGradients(model, name, path, budget);
        const expected = expectedOf(model).cases[name]!;
        for (const [i, want] of expected.advantages.entries())
          expectClose(advantages[i]!, want, 1e-6, 1e-6, `A of ${i}`);
        const worst = worstRelative(gradients, reference);
        expectClose(worst.error, 0, 0, 1e-4, `gradient of ${worst.name}, ${path}, budget ${budget}`);
      }
    },
  );
});

/** The first step's gradients before clipping, and the advantages they come from. */
async function firstGradients(model: string, name: string, path: string, budget: number) {
  const { settings, cases } = expectedOf(model);
  const flags = { ...settings, ...cases[name]!.config, micro_batch_tokens: budget };
  const config = updateConfig(model, flags, join(work, "unused"));
  const device = await openCpuDevice({ path });
  const session = await planSession({
    device,
    folder: folderOf(model),
    dtype: config.dtype,
    packed: packedSizes(device, readModelConfig(folderOf(model)), 2048, 64),
    training: true,
    reference: null,
    rollout: null,
    positions: 64,
  }).open();
  try {
    const recorded = await readRollouts(config.rollouts, { vocabSize: session.config.vocabSize });
    const completions = recorded.flatMap((group) => group.completions);
    const { advantages } = computeAdvantages({
      rewards: completions.map((c) => c.reward),
      groups: recorded.flatMap((group) => group.completions.map(() => group.group)),
      scaleRewards: config.scaleRewards,
    });
    let at = 0;
    const groups = recorded.map(
      ({ promptIds, completions: of }): ScoredGroup => ({
        promptIds,
        completions: of.map((c) => ({
          completionIds: c.completionIds,
          finished: c.finished,
          advantage: advantages[at++]!,
          oldLogprobs: c.oldLogprobs ?? null,
          refLogprobs: c.refLogprobs ?? null,
          samplingLogprobs: c.samplingLogprobs ?? null,
        })),
      }),
    );
    const optimizer = session.optimizer!;
    await updateStep(
      { model: session.policy, activations: session.activations!, optimizer },
      groups,
      updateSettings(config),
      0,
    );
    const gradients = downloadTensors(
      device,
      optimizer.parameters.map(({ weight, gradient }) => ({
        name: weight.name,
        weight: { ...weight, address: gradient.address, dtype: "float32" as const },
      })),
    );
    return { gradients, advantages };
  } finally {
    session.close();
  }
}
