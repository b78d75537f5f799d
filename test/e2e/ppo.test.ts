/**
 * PPO from the command line, checked with its own records: a critic that starts as a language model values everything 0, so the
 * first step's returns and value loss follow by hand from the recorded rewards and lengths.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { metricsOf, train, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

interface Line {
  completion_ids: number[];
  reward: number;
  old_logprobs: number[];
}

function recorded(folder: string, step: number): Line[] {
  const path = join(folder, `completions/step-${String(step).padStart(6, "0")}.jsonl`);
  return readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
}

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

test.each([
  [1, 0.95],
  [0.9, 0.5],
])("the first step's returns and value loss, gamma %d and lambda %d", async (gamma, lam) => {
  const folder = work.at(`first ${gamma}`);
  await train(folder, {
    ...{ advantage_estimator: "gae", loss_type: "dapo", gamma, lam, beta: 0, max_steps: 1 },
    ...{ cliprange_value: 1e6, critic_learning_rate: 1e-2 },
  });
  // V = 0 throughout: A_t = (γλ)^(T−1−t)·r, and R_t = A_t.
  const returns = recorded(folder, 1).flatMap(({ completion_ids: { length }, reward }) =>
    Array.from({ length }, (_, t) => (gamma * lam) ** (length - 1 - t) * reward),
  );
  const record = metricsOf(folder).find(({ step }) => step === 1)!;
  expect(Number(record["returns/mean"])).toBeCloseTo(mean(returns), 9);
  expect(Number(record["value/mean"])).toBe(0);
  expect(Number(record["value/loss"])).toBeCloseTo(mean(returns.map((r) => r ** 2 / 2)), 6);
  expect(Number(record["value/explained_variance"])).toBeCloseTo(0, 9);
  // On-policy, every ratio is 1, and whitened advantages have mean 0.
  expect(Number(record.loss)).toBeCloseTo(0, 6);
  expect(Number(record.grad_norm)).toBeGreaterThan(0);
});

test("KL in the reward: the loss has none, and with the start model as reference it is 0 at first", async () => {
  const folder = work.at("kl");
  await train(folder, {
    ...{ advantage_estimator: "gae", loss_type: "dapo", use_kl_in_reward: true, beta: 0.5, max_steps: 3 },
    ...{ learning_rate: 5e-3, gamma: 1, lam: 1, cliprange_value: 1e6 },
  });
  const records = metricsOf(folder).filter(({ step }) => step > 0);
  expect(Number(records[0]!.kl)).toBe(0);
  expect(Number(records[0]!.kl_penalty)).toBe(0);
  expect(Number(records[2]!.kl)).not.toBe(0);
  const lines = recorded(folder, 3);
  const tokens = lines.reduce((sum, { completion_ids }) => sum + completion_ids.length, 0);
  // kl is a mean over tokens, kl_penalty over completions
  expect(Number(records[2]!.kl_penalty)).toBeCloseTo((0.5 * Number(records[2]!.kl) * tokens) / lines.length, 9);
});
