/**
 * `grpo update --advantage_estimator …`: the same update as with advantages in the file, computed here from the papers'
 * formulas; estimators that need a critic are refused; the adaptive entropy bonus continues over updates.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { folderOf } from "./golden.ts";
import { argvOf, type Flags, fingerprint, grpo, metricsOf, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

interface Line {
  group: number;
  completion_ids: number[];
  reward: number | null;
  mask?: number[];
  old_logprobs?: number[];
  ref_logprobs: number[];
  advantages?: number | number[];
}

const folder = folderOf("qwen2-bias");
const lines = readFileSync(join(folder, "rollouts.jsonl"), "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line) as Line);
/** Every completion has a reward, all different within a group. */
const scored = lines.map((line, i): Line => ({ ...line, reward: Math.sin(3 * i) }));

function rollouts(name: string, of: readonly Line[]): string {
  const path = work.at(`${name}.jsonl`);
  writeFileSync(path, of.map((line) => JSON.stringify(line)).join("\n"));
  return path;
}

async function update(name: string, of: readonly Line[], flags: Flags) {
  const output = work.at(name);
  const common: Flags = { model: folder, rollouts: rollouts(name, of), output_dir: output, learning_rate: 1e-3 };
  const { code, err } = await grpo(["update", ...argvOf({ ...common, loss_type: "dapo", ...flags })]);
  return { code, err, output };
}

async function succeeds(name: string, of: readonly Line[], flags: Flags) {
  const { code, err, output } = await update(name, of, flags);
  if (code !== 0) throw new Error(err);
  return metricsOf(output)[0]!;
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const groupOf = (i: number) => scored.flatMap((line, j) => (line.group === scored[i]!.group ? [j] : []));
/** k1 of each token: ℓ_old − ℓ_ref. */
const klOf = ({ old_logprobs: old, ref_logprobs: ref }: Line) => old!.map((l, t) => l - ref[t]!);
const beta = 0.2;

function leaveOneOut(): number[] {
  const net = scored.map((line) => line.reward! - beta * sum(klOf(line)));
  return net.map((reward, i) => {
    const others = groupOf(i).filter((j) => j !== i);
    return reward - sum(others.map((j) => net[j]!)) / others.length;
  });
}

function returnsToGo(rewards: readonly number[]): number[][] {
  const raw = scored.map((line, i) => klOf(line).map((_, t) => rewards[i]! - beta * sum(klOf(line).slice(t))));
  const all = raw.flat();
  const mean = sum(all) / all.length;
  const std = Math.sqrt(sum(all.map((x) => (x - mean) ** 2)) / (all.length - 1) + 1e-8);
  return raw.map((tokens) => tokens.map((x) => (x - mean) / std));
}

const plain = scored.map((line) => line.reward!);
const centred = plain.map((reward, i) => reward - sum(groupOf(i).map((j) => plain[j]!)) / groupOf(i).length);

describe("an estimator with KL in the reward", () => {
  test.each([
    ["rloo", leaveOneOut()],
    ["reinforce_plus_plus", returnsToGo(plain)],
    ["reinforce_plus_plus_baseline", returnsToGo(centred)],
  ] as const)("%s", async (name, advantages) => {
    const flags: Flags = { beta, use_kl_in_reward: true };
    const estimated = await succeeds(name, scored, { ...flags, advantage_estimator: name });
    const own = scored.map((line, i): Line => ({ ...line, advantages: advantages[i]! as number | number[] }));
    const given = await succeeds(`${name}-given`, own, flags);
    for (const metric of ["loss", "grad_norm", "entropy", "reward", "clip_ratio/region_mean", "kl"])
      expect(Number(estimated[metric]), metric).toBeCloseTo(Number(given[metric]), 6);
    const other = await succeeds(`${name}-other`, scored, flags);
    expect(Math.abs(Number(other.grad_norm) - Number(estimated.grad_norm))).toBeGreaterThan(1e-3);
  });

  test("the policy's own logprobs replace old ones that are not recorded", async () => {
    const flags: Flags = { beta, use_kl_in_reward: true, advantage_estimator: "rloo" };
    const without = scored.map(({ old_logprobs: _, ...line }): Line => line);
    const record = await succeeds("no-old", without, flags);
    expect(Number(record.kl)).not.toBe(0);
    expect(Number(record["clip_ratio/region_mean"])).toBe(0);
  });
});

test("gae is refused without advantages in the file, and accepted with them", async () => {
  const { code, err } = await update("gae", scored, { advantage_estimator: "gae" });
  expect(code).toBe(2);
  expect(err).toMatch(/advantage_estimator gae needs a critic, and .*gae\.jsonl has no "advantages"; use grpo train/);
  const own = scored.map((line): Line => ({ ...line, advantages: line.completion_ids.map((_, t) => 0.5 - t / 10) }));
  await succeeds("gae-given", own, { advantage_estimator: "gae" });
});

describe("forced tokens", () => {
  const flags: Flags = { beta, loss_type: "grpo", advantage_estimator: "reinforce_plus_plus", use_kl_in_reward: true };
  const weights = (name: string) => fingerprint(work.at(name), "model.safetensors");

  test("a mask of ones does not change a byte", async () => {
    await succeeds("unmasked", scored, flags);
    await succeeds(
      "ones",
      scored.map((line): Line => ({ ...line, mask: line.completion_ids.map(() => 1) })),
      flags,
    );
    expect(weights("ones")).toBe(weights("unmasked"));
  });

  test("values at masked tokens have no part in the update; the rest is learned from as if they were absent", async () => {
    const masked = scored.map(
      (line, i): Line => ({ ...line, mask: line.completion_ids.map((_, t) => ((t + i) % 3 === 1 ? 0 : 1)) }),
    );
    const change = (values: readonly number[], { mask }: Line) =>
      values.map((value, t) => (mask![t] === 1 ? value : -7));
    const record = await succeeds("masked", masked, flags);
    await succeeds(
      "other",
      masked.map(
        (line): Line => ({
          ...line,
          old_logprobs: change(line.old_logprobs!, line),
          ref_logprobs: change(line.ref_logprobs, line),
        }),
      ),
      flags,
    );
    expect(weights("other")).toBe(weights("masked"));
    expect(weights("masked")).not.toBe(weights("unmasked"));
    const kl = masked.flatMap((line) => klOf(line).filter((_, t) => line.mask![t] === 1));
    expect(Number(record.kl)).toBeCloseTo(sum(kl) / kl.length, 6);
  });
});

test("advantages on only some lines are refused", async () => {
  const own = scored.map((line, i): Line => (i === 3 ? { ...line, advantages: 1 } : line));
  const { code, err } = await update("some", own, {});
  expect([code, err]).toEqual([2, expect.stringContaining('1 of 12 lines have "advantages"')]);
});

test("the adaptive entropy bonus changes by the step, and a resumed update continues it", async () => {
  const flags: Flags = { use_adaptive_entropy: true, entropy_target: 9, entropy_coef_delta: 0.1, beta: 0 };
  const whole = await update("whole", scored, { ...flags, num_iterations: 3 });
  expect(whole.err).not.toContain("rror");
  const coefs = metricsOf(whole.output).map((record) => Number(record.entropy_coef ?? 0));
  // As in TRL: the controller's value after each step.
  for (const [i, coef] of [0.1, 0.2, 0.3].entries()) expect(coefs[i]!).toBeCloseTo(coef, 12);
  const part = await update("part", scored, { ...flags, num_iterations: 1 });
  const rest = await update("part", scored, { ...flags, num_iterations: 2, resume_from_checkpoint: true });
  expect([part.code, rest.code]).toEqual([0, 0]);
  const resumed = metricsOf(rest.output).map((record) => Number(record.entropy_coef ?? 0));
  for (const [i, coef] of [0.1, 0.2, 0.3].entries()) expect(resumed[i]!).toBeCloseTo(coef, 12);
  expect(fingerprint(rest.output, "model.safetensors")).toBe(fingerprint(whole.output, "model.safetensors"));
});
