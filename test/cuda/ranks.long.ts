/**
 * Ranks with an emulated GPU each, which exchange by the emulated NCCL: the same bytes for 1, 2 and 4 of them, masters and
 * moments on every rank or divided, eager and lazy streams; a rank that is killed ends the others; without NCCL, and with ranks
 * that share a GPU, they exchange by way of the host, with the same bytes.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { checkpointBytes, childrenOf, leftIn, ranksBytes, untilStep } from "../e2e/rank-runs.ts";
import { argvOf, type Flags, problems, reward, root, workFolder } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";
import { checked, succeeds } from "./emulated.ts";

// The emulator may have to be compiled first.
setDefaultTimeout(900_000);

const work = workFolder();
afterAll(work.remove);

const training: Flags = {
  ...{ device: "cuda", dataset: problems, reward_funcs: reward("by_tokens"), num_generations: 4, temperature: 1.5 },
  ...{ max_completion_length: 12, learning_rate: 1e-3, max_steps: 2, save_steps: 1 },
};

/** 16 completions a step. */
async function trained(name: string, ranks: number, flags: Flags = {}, env: Record<string, string> = {}) {
  const folder = work.at(name);
  const size = { ranks, per_device_train_batch_size: 16 / ranks, output_dir: folder };
  const { out } = await succeeds("train", { ...training, ...size, ...flags }, { env, always: true });
  return { out, bytes: ranksBytes(folder), checkpoint: checkpointBytes(join(folder, "checkpoint-2")) };
}

describe.each<[string, Flags]>([
  ["float32", {}],
  ["bfloat16", { dtype: "bfloat16" }],
  ["8 bits", { dtype: "bfloat16", optim: "adamw_8bit", master_dtype: "bfloat16" }],
])("%s", (dtype, flags) => {
  test("1, 2 and 4 ranks have the same bytes, with the optimizer whole or divided, and resumed on another number", async () => {
    const one = await trained(`${dtype} 1`, 1, flags, checked);
    for (const [ranks, shard_optimizer, env] of [
      [2, true, checked],
      [2, false, {}],
      [4, true, { EMULATOR_STREAMS: "lazy" }],
      [4, false, {}],
    ] as const) {
      const several = await trained(`${dtype} ${ranks} ${shard_optimizer}`, ranks, { ...flags, shard_optimizer }, env);
      expect(several.out).toMatch(/^ranks exchange by NCCL \d/m);
      expect(several.bytes).toEqual(one.bytes);
      expect(several.checkpoint).toEqual(one.checkpoint);
    }
    const from = join(work.at(`${dtype} 4 true`), "checkpoint-1");
    const resumed = await trained(`${dtype} resumed`, 2, { ...flags, resume_from_checkpoint: from });
    expect(resumed.checkpoint).toEqual(one.checkpoint);
  });
});

test("ranks that cannot reach each other's GPUs exchange by way of the host, and say why", async () => {
  const one = await trained("host 1", 1);
  const two = await trained("host 2", 2, {}, { EMULATOR_GPU: "the same for all" });
  expect(two.out).toMatch(/^ranks exchange by way of the host: 2 of them share 1 GPU$/m);
  expect(two.bytes).toEqual(one.bytes);
  expect(two.checkpoint).toEqual(one.checkpoint);
});

test("a rank that is killed ends the others, and one line names it", async () => {
  const { folder: libraries } = await buildEmulator();
  const folder = work.at("killed");
  const flags = { ...training, ranks: 3, per_device_train_batch_size: 8, max_steps: 1000, output_dir: folder };
  const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), "train", ...argvOf(flags)], {
    env: { ...process.env, NO_COLOR: "1", EMULATOR_CHECK: "0", EMULATOR_THREADS: "1", LD_LIBRARY_PATH: libraries },
    stdio: ["ignore", "ignore", "pipe"],
  });
  await untilStep(folder, 2);
  const ranks = childrenOf(child.pid);
  process.kill(ranks[1]!, "SIGKILL");
  const since = performance.now();
  const [err] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  expect(child.exitCode).toBe(1);
  expect(performance.now() - since).toBeLessThan(30_000);
  expect(err.trim().split("\n")).toEqual([
    expect.stringMatching(new RegExp(`^grpo train: rank 1 \\(.+\\): its process ${ranks[1]} has ended`)),
  ]);
  for (const pid of ranks) expect(() => process.kill(pid, 0)).toThrow();
  expect(leftIn(folder)).toEqual([]);
});
