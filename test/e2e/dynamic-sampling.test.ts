/** Dynamic sampling from prompts to weights: full groups with signal at every update, and always the same bytes. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Flags, metricsOf, outcome, reward, train, workFolder } from "./runs.ts";

setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const dynamic: Flags = { dynamic_sampling: true, reward_funcs: reward("half_flat"), max_steps: 6, save_steps: 2 };

/** Rewards of each recorded group, per step. */
async function recordedGroups(folder: string, step: number): Promise<number[][]> {
  const path = join(folder, "completions", `step-${String(step).padStart(6, "0")}.jsonl`);
  const groups = new Map<number, number[]>();
  for (const line of (await Bun.file(path).text()).trim().split("\n")) {
    const { group, reward } = JSON.parse(line) as { group: number; reward: number };
    groups.set(group, [...(groups.get(group) ?? []), reward]);
  }
  return [...groups.values()];
}

beforeAll(async () => {
  await train(work.at("straight"), dynamic);
});

describe("half of the prompts give groups without signal", () => {
  test("every update sees full groups with signal, and logs how many were discarded", async () => {
    const metrics = metricsOf(work.at("straight")).filter((r) => r.loss !== undefined);
    expect(metrics.map((r) => r.step)).toEqual([1, 2, 3, 4, 5, 6]);
    for (const { step, ...values } of metrics) {
      const groups = await recordedGroups(work.at("straight"), step);
      expect(groups.map((g) => g.length)).toEqual([4, 4]);
      for (const rewards of groups) expect(new Set(rewards).size).toBeGreaterThan(1);
      expect(values.frac_reward_zero_std).toBe(0);
      expect(values["dynamic_sampling/groups_without_signal"]).toBe(0);
    }
    const thrown = metrics.reduce((sum, r) => sum + (r["dynamic_sampling/discarded_groups"] as number), 0);
    expect(thrown).toBeGreaterThan(2);
  });

  test("plain sampling does use groups without signal here", async () => {
    await train(work.at("plain"), { ...dynamic, dynamic_sampling: false });
    const flat = metricsOf(work.at("plain")).filter((r) => (r.frac_reward_zero_std as number) > 0);
    expect(flat.length).toBeGreaterThan(0);
  });

  test("stopped after two steps and resumed: the same bytes", async () => {
    const folder = work.at("resumed");
    const stopped = await train(folder, dynamic, { stopAfter: 2 });
    expect(stopped.code).toBe(130);
    expect(existsSync(join(folder, "checkpoint-2"))).toBe(true);
    const { code } = await train(folder, { ...dynamic, resume_from_checkpoint: true });
    expect(code).toBe(0);
    expect(outcome(folder)).toEqual(outcome(work.at("straight")));
  });

  test.each<Flags>([
    { max_concurrent_sequences: 3 },
    { max_concurrent_sequences: 5, threads: 1 },
    { dynamic_sampling_ahead: 3 },
  ])("%j changes nothing in the weights", async (flags) => {
    const folder = work.at(JSON.stringify(flags).replace(/\W+/g, "-"));
    await train(folder, { ...dynamic, ...flags });
    const { files } = outcome(folder);
    expect(files["model.safetensors"]).toBe(outcome(work.at("straight")).files["model.safetensors"]!);
  });

  test("a probe gives the same groups and numbers for any number of concurrent sequences", async () => {
    const flags: Flags = { ...dynamic, dynamic_sampling_probe: 2 };
    await train(work.at("probe-1"), flags);
    await train(work.at("probe-2"), { ...flags, max_concurrent_sequences: 3 });
    const [first, second] = [outcome(work.at("probe-1")), outcome(work.at("probe-2"))];
    expect(second.metrics).toEqual(first.metrics);
  });
});

test.each<Flags>([{}, { dynamic_sampling_probe: 2 }])(
  "at the bound, groups without signal fill the step, with a remark: %j",
  async (more) => {
    const bound = { ...dynamic, reward_funcs: reward("constant"), max_steps: 1, dynamic_sampling_max_batches: 2 };
    const folder = work.at(`bound-${Object.keys(more).length}`);
    const { code, notes } = await train(folder, { ...bound, ...more });
    expect(code).toBe(0);
    expect((await recordedGroups(folder, 1)).map((rewards) => rewards.length)).toEqual([4, 4]);
    const { ...values } = metricsOf(folder).find((r) => r.loss !== undefined)!;
    expect(values["dynamic_sampling/groups_without_signal"]).toBe(2);
    expect(values["dynamic_sampling/discarded_groups"]).toBe(2);
    expect(notes.join("\n")).toContain("dynamic_sampling_max_batches");
  },
);

test.each<[Flags, string]>([
  [{ dynamic_sampling_probe: 4 }, "dynamic_sampling_probe"],
  [{ dynamic_sampling_reward: "nobody" }, "dynamic_sampling_reward"],
])("%j is refused", async (flags, key) => {
  expect(train(work.at("refused"), { ...dynamic, ...flags })).rejects.toThrow(key);
});
