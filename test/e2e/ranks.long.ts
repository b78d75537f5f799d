/**
 * Several processes as one run, in all that is divided: dynamic sampling, PPO with a reward model, adapters, supervised
 * fine-tuning, evaluation; and all the ways in which a rank can fail. A minute or two.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeRewardModel, writeTinyModel } from "../fixtures/scalar-model.ts";
import {
  allFinished,
  anonymousBytesOf,
  checkpointBytes,
  childrenOf,
  freePort,
  leftIn,
  onRanks,
  ranksBytes,
  rankTraining,
  startRank,
  startRanks,
  untilStep,
} from "./rank-runs.ts";
import { argvOf, bundledModel, type Flags, fingerprint, grpo, problems, reward, start, workFolder } from "./runs.ts";

setDefaultTimeout(300_000);
const work = workFolder();
afterAll(work.remove);

const judge = await writeRewardModel(work.at("judge"), bundledModel);

/** What differs most in how it is divided. */
const trainings: Readonly<Record<string, Flags>> = {
  "dynamic sampling": {
    ...{ dynamic_sampling: true, dynamic_sampling_ahead: 1, dynamic_sampling_probe: 2 },
    reward_funcs: reward("half_flat"),
  },
  "PPO and a reward model": {
    ...{ advantage_estimator: "gae", use_kl_in_reward: true, num_iterations: 2, loss_type: "dapo", beta: 0.1 },
    reward_funcs: `${reward("by_tokens")},${judge}`,
  },
  "two steps a generation, a moving reference, an entropy target": {
    ...{ per_device_train_batch_size: 12, steps_per_generation: 2, num_iterations: 2, beta: 0.1 },
    ...{ sync_ref_model: true, ref_model_sync_steps: 2, ref_model_mixup_alpha: 0.5 },
    ...{ use_adaptive_entropy: true, entropy_target: 3, entropy_coef_delta: 0.01 },
  },
  "two objectives in bfloat16": {
    ...{ multi_objective_aggregation: "normalize_then_sum", reward_funcs: `${reward("by_tokens")},length` },
    ...{ top_p: 0.9, top_k: 50, repetition_penalty: 1.1, dtype: "bfloat16" },
  },
  "a threshold of entropy, whole completions": { top_entropy_quantile: 0.5, loss_type: "luspo" },
  adapters: { use_peft: true, beta: 0.1, learning_rate: 1e-2 },
};

describe("the same bytes with 1, 2 and 3 ranks", () => {
  test.each(Object.entries(trainings))("%s", async (name, flags) => {
    const bytes = new Map<number, unknown>();
    for (const ranks of [1, 2, 3]) {
      const folder = work.at(`${name} ${ranks}`);
      await onRanks(ranks, folder, { ...rankTraining, ...flags });
      bytes.set(ranks, ranksBytes(folder));
    }
    expect(bytes.get(2)).toEqual(bytes.get(1));
    expect(bytes.get(3)).toEqual(bytes.get(1));
  });

  test("supervised fine-tuning, resumed on another number", async () => {
    const flags = {
      ...{ model: bundledModel, dataset: problems, eval_dataset: problems, eval_samples: 7, eval_steps: 2 },
      ...{ max_completion_length: 16, per_device_train_batch_size: 12, learning_rate: 1e-4, max_steps: 4 },
      ...{ save_steps: 2, threads: 1, device: "cpu" },
    };
    const [one, several] = [work.at("sft 1"), work.at("sft 3, then 2")];
    await onRanks(1, one, flags, "sft");
    await onRanks(3, several, { ...flags, max_steps: 2 }, "sft");
    await onRanks(2, several, { ...flags, resume_from_checkpoint: join(several, "checkpoint-2") }, "sft");
    expect(ranksBytes(several)).toEqual(ranksBytes(one));
  });

  test("an evaluation, rewards and several answers included", async () => {
    const files = ["answers.jsonl", "results.json"];
    const flags = {
      ...{ model: bundledModel, dataset: problems, eval_samples: 7, num_generations: 4, temperature: 1 },
      ...{ max_completion_length: 16, reward_funcs: `gsm8k,${reward("by_tokens")}`, threads: 1, device: "cpu" },
    };
    const of = async (ranks: number) => {
      const folder = work.at(`eval ${ranks}`);
      await onRanks(ranks, folder, flags, "eval");
      return files.map((file) => fingerprint(folder, file));
    };
    const one = await of(1);
    expect(await of(2)).toEqual(one);
    expect(await of(3)).toEqual(one);
  });

  test("blocks of a batch per device, where the number of blocks is the same", async () => {
    const flags = { ...rankTraining, loss_type: "bnpo", per_device_train_batch_size: 8 };
    const [one, three] = [work.at("blocks 1"), work.at("blocks 3")];
    await onRanks(1, one, { ...flags, gradient_accumulation_steps: 3 });
    await onRanks(3, three, { ...flags, per_device_train_batch_size: 24 });
    expect(ranksBytes(three)).toEqual(ranksBytes(one));
  });
});

/** The most anonymous memory that each rank of a run has held (or the run itself, where it has no ranks). */
async function usedBy(argv: readonly string[], ranks: number, env: Record<string, string> = {}): Promise<number[]> {
  const run = start(["train", ...argv, "--overwrite"], { env, seconds: 240 });
  const used = Array.from({ length: ranks }, () => 0);
  const look = setInterval(() => {
    const pids = ranks === 1 ? [run.process.pid] : childrenOf(run.process.pid);
    for (const [r, pid] of pids.entries()) used[r] = Math.max(used[r]!, anonymousBytesOf(pid));
  }, 20);
  const { code, err } = await run.finished;
  clearInterval(look);
  expect({ code, err }).toEqual({ code: 0, err: "" });
  return used;
}

async function plannedFor(argv: readonly string[], ranks: number): Promise<number[]> {
  const plan = await grpo(["plan", ...argv], { seconds: 120 });
  expect(plan.code).toBe(0);
  const peaks = ranks === 1 ? /^peak +([\d.]+)$/gm : /^peak of rank \d+ +([\d.]+)$/gm;
  const planned = [...plan.out.matchAll(peaks)].map(([, text]) => Number(text) * 2 ** 20);
  expect(planned).toHaveLength(ranks);
  return planned;
}

/** @param within as a part of the plan */
function expectAsPlanned(used: readonly number[], planned: readonly number[], within: number): void {
  for (const [r, bytes] of used.entries()) {
    expect(bytes / planned[r]!, `rank ${r}`).toBeLessThan(1 + within);
    expect(bytes / planned[r]!, `rank ${r}`).toBeGreaterThan(1 - within);
  }
}

describe("the plan is what is used", () => {
  const exchanges = { "read from memory": "", "sent through sockets": "tcp" } as const;
  const environment = (exchange: keyof typeof exchanges) => ({ BUN_GRPO_RANKS_EXCHANGE: exchanges[exchange] });
  const byExchange = Object.keys(exchanges) as (keyof typeof exchanges)[];

  test("of a hundred million parameters, and less with a rank's share of the optimizer", async () => {
    const model = await writeTinyModel(work.at("large"), {
      ...{ head: "lm", tokenizer: bundledModel, vocabSize: 432, context: 512 },
      config: {
        ...{ hidden_size: 768, intermediate_size: 2048, num_hidden_layers: 10, num_attention_heads: 12 },
        ...{ num_key_value_heads: 4, head_dim: 64 },
      },
    });
    const flags = { ...rankTraining, model, beta: 0, save_steps: 2, max_steps: 2, per_device_train_batch_size: 4 };
    const held = async (shard_optimizer: boolean) => {
      const folder = work.at(`memory ${shard_optimizer}`);
      const argv = argvOf({ ...flags, ranks: 4, shard_optimizer, output_dir: folder });
      const planned = await plannedFor(argv, 4);
      for (const exchange of byExchange) expectAsPlanned(await usedBy(argv, 4, environment(exchange)), planned, 0.05);
      return { planned, checkpoint: checkpointBytes(join(folder, "checkpoint-2")) };
    };
    const [whole, divided] = [await held(false), await held(true)];
    expect(divided.checkpoint).toEqual(whole.checkpoint);
    for (const [r, bytes] of divided.planned.entries()) expect(bytes).toBeLessThan(0.8 * whole.planned[r]!);
    const alone = argvOf({ ...flags, per_device_train_batch_size: 16, output_dir: work.at("alone") });
    expectAsPlanned(await usedBy(alone, 1), await plannedFor(alone, 1), 0.05);
  });

  // Runs of it differ from each other by 5 % (docs/ranks.md), depending on when the heap is collected.
  const bundled = { device: "cpu", threads: 1, output_dir: work.at("bundled memory") };
  test.each(byExchange)("of the bundled run, %s", async (exchange) => {
    const argv = argvOf({ ...bundled, ranks: 2 });
    expectAsPlanned(await usedBy(argv, 2, environment(exchange)), await plannedFor(argv, 2), 0.08);
  });

  test("of the bundled run alone", async () => {
    const argv = argvOf(bundled);
    expectAsPlanned(await usedBy(argv, 1), await plannedFor(argv, 1), 0.08);
  });
});

describe("masters and moments on every rank or divided: the same bytes, and the same checkpoint", () => {
  const cases: Readonly<Record<string, Flags>> = {
    float32: {},
    adapters: { use_peft: true, learning_rate: 1e-2 },
    "bfloat16 and a moving reference": {
      ...{ dtype: "bfloat16", beta: 0.1, sync_ref_model: true, ref_model_sync_steps: 1, ref_model_mixup_alpha: 0.5 },
    },
    "a critic in bfloat16": { advantage_estimator: "gae", dtype: "bfloat16" },
    "moments in 8 bits": { optim: "adamw_8bit" },
    "moments in 8 bits, masters and a critic's in bfloat16, a moving reference": {
      ...{ optim: "adamw_8bit", master_dtype: "bfloat16", dtype: "bfloat16", advantage_estimator: "gae", beta: 0.1 },
      ...{ sync_ref_model: true, ref_model_sync_steps: 1, ref_model_mixup_alpha: 0.5 },
    },
    "masters in bfloat16": { master_dtype: "bfloat16", dtype: "bfloat16" },
    "adapters with moments in 8 bits": {
      ...{ optim: "adamw_8bit", master_dtype: "bfloat16", dtype: "bfloat16", learning_rate: 1e-2 },
      ...{ use_peft: true, lora_r: 16, lora_target_modules: "all-linear" },
    },
  };
  // Whole groups for each of 1 to 4 ranks.
  const whole: Flags = { per_device_train_batch_size: 48 };
  test.each(Object.entries(cases))("%s", async (name, flags) => {
    const of = async (ranks: number, more: Flags) => {
      const folder = work.at(
        Object.values({
          name,
          ranks,
          shard: more.shard_optimizer,
          from: more.resume_from_checkpoint ? "resumed" : "",
        }).join(" "),
      );
      await onRanks(ranks, folder, { ...rankTraining, ...whole, ...flags, save_steps: 2, ...more });
      return { folder, bytes: ranksBytes(folder), checkpoint: checkpointBytes(join(folder, "checkpoint-4")) };
    };
    const one = await of(1, {});
    const folders = new Map<string, string>();
    for (const [ranks, shard_optimizer] of [
      [2, false],
      [2, true],
      [4, false],
      [4, true],
    ] as const) {
      const { folder, bytes, checkpoint } = await of(ranks, { shard_optimizer });
      expect(bytes).toEqual(one.bytes);
      expect(checkpoint).toEqual(one.checkpoint);
      folders.set(`${ranks} ${shard_optimizer}`, folder);
    }
    for (const [saved, ranks, shard_optimizer] of [
      ["4 true", 3, true],
      ["4 true", 1, false],
      ["2 false", 4, true],
    ] as const) {
      const from = join(folders.get(saved)!, "checkpoint-2");
      const resumed = await of(ranks, { shard_optimizer, resume_from_checkpoint: from });
      expect(resumed.checkpoint).toEqual(one.checkpoint);
    }
  });
});

const meeting = (port: number) => ({ MASTER_ADDR: "127.0.0.1", MASTER_PORT: String(port) });

/** What each launcher sets for a rank of two on one machine. */
const launchers: Readonly<Record<string, (rank: number, port: number) => Record<string, string>>> = {
  torchrun: (rank, port) => ({
    ...{ RANK: String(rank), WORLD_SIZE: "2", LOCAL_RANK: String(rank), LOCAL_WORLD_SIZE: "2" },
    ...meeting(port),
  }),
  // Its port follows from the job; what shows that ranks belong together is a file of the user's.
  Slurm: (rank, port) => ({
    ...{ SLURM_PROCID: String(rank), SLURM_STEP_NUM_TASKS: "2", SLURM_LOCALID: String(rank), SLURM_STEP_ID: "0" },
    ...{ SLURM_STEP_TASKS_PER_NODE: "2", SLURM_STEP_NODELIST: "node[03]", SLURM_STEP_NUM_NODES: "1" },
    SLURM_JOB_ID: String(port),
  }),
  "Open MPI, told where to meet": (rank, port) => ({
    ...{ OMPI_COMM_WORLD_RANK: String(rank), OMPI_COMM_WORLD_SIZE: "2" },
    ...{ OMPI_COMM_WORLD_LOCAL_RANK: String(rank), OMPI_COMM_WORLD_LOCAL_SIZE: "2" },
    ...meeting(port),
  }),
  "PMI, told where to meet": (rank, port) => ({ PMI_RANK: String(rank), PMI_SIZE: "2", ...meeting(port) }),
  "torchrun, by sockets alone": (rank, port) => ({
    ...launchers.torchrun!(rank, port),
    ...{ BUN_GRPO_RANKS_EXCHANGE: "tcp", BUN_GRPO_SECRET: "of the test" },
  }),
};

test.each(Object.entries(launchers))("the variables of %s give what --ranks gives", async (name, variables) => {
  const [apart, together] = [work.at(`apart ${name}`), work.at("together")];
  const flags = { ...rankTraining, max_steps: 2, per_device_train_batch_size: 12 };
  const argv = ["train", ...argvOf({ ...flags, output_dir: apart })];
  const port = freePort();
  const ranks = [0, 1].map((rank) => start(argv, { env: variables(rank, port), seconds: 120 }));
  const ends = await allFinished(ranks);
  expect(ends.map(({ code, err }) => [code, err])).toEqual([0, 1].map(() => [0, ""]));
  expect(ends[1]!.out).toBe("");
  if (!existsSync(together)) await onRanks(2, together, { ...rankTraining, max_steps: 2 });
  expect(ranksBytes(apart)).toEqual(ranksBytes(together));
});

test("without ranks, gradient_shards gives the bytes of ranks; without it, those of one process do not change", async () => {
  const [shards, ranks, plain] = ["shards", "ranks", "plain"].map(work.at) as [string, string, string];
  const { per_device_train_batch_size: size } = rankTraining;
  const run = (folder: string, flags: Flags) =>
    grpo(["train", ...argvOf({ ...rankTraining, per_device_train_batch_size: size!, output_dir: folder, ...flags })]);
  await run(shards, { gradient_shards: 8 });
  await onRanks(2, ranks, rankTraining);
  await run(plain, {});
  await run(work.at("one shard"), { gradient_shards: 1, ranks: 1 });
  const weights = (folder: string) => fingerprint(folder, "model.safetensors");
  expect(weights(shards)).toBe(weights(ranks));
  expect(weights(plain)).not.toBe(weights(ranks));
  expect(weights(work.at("one shard"))).toBe(weights(plain));
});

/** The only line on stderr. */
const lineOf = ({ err }: { readonly err: string }): string => {
  const lines = err.trim().split("\n");
  expect(lines).toHaveLength(1);
  return lines[0]!;
};

describe("a rank that", () => {
  const endless = { ...rankTraining, per_device_train_batch_size: 8, ranks: 3, max_steps: 1000, save_steps: 1 };
  /** Starts three ranks, does something to one of them once they train, and waits for the end. */
  const during = async (name: string, rank: number, signal: NodeJS.Signals) => {
    const folder = work.at(name);
    const run = start(["train", ...argvOf({ ...endless, output_dir: folder })], { seconds: 120 });
    await untilStep(folder, 2);
    const ranks = childrenOf(run.process.pid);
    process.kill(ranks[rank]!, signal);
    const since = performance.now();
    const ended = await run.finished;
    const seconds = (performance.now() - since) / 1000;
    for (const pid of ranks) expect(() => process.kill(pid, 0)).toThrow();
    return { ...ended, seconds, pid: ranks[rank]!, folder };
  };

  test.each([0, 2])("is killed (%d) ends all at once", async (rank) => {
    const { code, err, seconds, pid, folder } = await during(`killed ${rank}`, rank, "SIGKILL");
    expect(code).toBe(1);
    expect(lineOf({ err })).toMatch(new RegExp(`^grpo train: rank ${rank} \\(.+\\): its process ${pid} has ended`));
    expect(seconds).toBeLessThan(10);
    // What is whole goes on, on fewer ranks.
    const more = { ...endless, resume_from_checkpoint: true, output_dir: folder };
    const step = Number(/checkpoint-(\d+)/.exec(readdirNewest(folder))![1]);
    const resumed = await grpo([
      "train",
      ...argvOf({ ...more, ranks: 2, per_device_train_batch_size: 12, max_steps: step + 1 }),
    ]);
    expect(resumed.code).toBe(0);
    expect(leftIn(folder)).toEqual([]);
  });

  test.each([0, 1])("hangs (%d) ends all within half a minute", async (rank) => {
    const { code, err, seconds, pid } = await during(`stopped ${rank}`, rank, "SIGSTOP");
    expect(code).toBe(1);
    expect(lineOf({ err })).toMatch(
      new RegExp(`^grpo train: rank ${rank} \\(.+\\): its process ${pid} has not answered for 20 s`),
    );
    expect(seconds).toBeLessThan(30);
  });

  test("has a full disk ends all, and says so", async () => {
    const folder = work.at("full");
    const argv = ["train", ...argvOf({ ...endless, output_dir: folder })];
    // Files of more than half a megabyte are refused, as by a full disk.
    const ended = await start(argv, { shell: "ulimit -f 1000", seconds: 120 }).finished;
    expect(ended.code).toBe(1);
    expect(lineOf(ended)).toMatch(/^grpo train: .*(too large|EFBIG|full)/);
    expect(existsSync(join(folder, "checkpoint-1"))).toBe(false);
    expect(leftIn(folder)).toEqual([]);
  });

  test("has another model is named", async () => {
    const other = work.at("other model");
    cpSync(bundledModel, other, { recursive: true });
    // One bit of one weight.
    const path = join(other, "model.safetensors");
    const bytes = readFileSync(path);
    bytes[bytes.length - 2]! ^= 1;
    writeFileSync(path, bytes);
    const flags = { ...rankTraining, output_dir: work.at("two models") };
    const argv = (rank: number) => ["train", ...argvOf({ ...flags, model: rank === 1 ? other : bundledModel })];
    const ends = await allFinished(startRanks(2, freePort(), argv));
    expect(ends.map(({ code }) => code)).toEqual([2, 2]);
    expect(lineOf({ err: ends.map(({ err }) => err).join("") })).toMatch(/rank 1 has another model than rank 0/);
  });

  test("has other settings is named", async () => {
    const flags = { ...rankTraining, output_dir: work.at("two settings") };
    const argv = (rank: number) => ["train", ...argvOf({ ...flags, learning_rate: rank === 1 ? 1e-4 : 1e-3 })];
    const ends = await allFinished(startRanks(2, freePort(), argv));
    expect(ends.map(({ code }) => code)).toEqual([2, 2]);
    expect(lineOf({ err: ends.map(({ err }) => err).join("") })).toMatch(
      /rank 1 has another learning_rate than rank 0 \(0.0001, not 0.001\)/,
    );
  });

  test("has another secret is told so, and the others wait no longer than they were told", async () => {
    const port = freePort();
    const argv = ["train", ...argvOf({ ...rankTraining, output_dir: work.at("secrets") })];
    const wait = { BUN_GRPO_RANKS_WAIT: "5" };
    const ranks = [
      startRank(0, 2, port, argv, wait),
      startRank(1, 2, port, argv, { ...wait, BUN_GRPO_SECRET: "another" }),
    ];
    const [zero, one] = await allFinished(ranks);
    expect([zero!.code, one!.code]).toEqual([1, 2]);
    expect(lineOf(one!)).toMatch(/has another secret, or belongs to another run/);
    expect(lineOf(zero!)).toMatch(/waited 5 s at .* for rank 1; 127.0.0.1 came with another secret/);
  });

  test("finds its port in use says so", async () => {
    const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const argv = ["train", ...argvOf({ ...rankTraining, output_dir: work.at("port") })];
    const ended = await startRank(0, 2, server.port, argv).finished;
    server.stop(true);
    expect(ended.code).toBe(1);
    expect(lineOf(ended)).toMatch(/127.0.0.1:\d+ is in use, perhaps by another run/);
  });

  test("meets another run on its port leaves that one alone", async () => {
    const port = freePort();
    const argv = (name: string) => ["train", ...argvOf({ ...rankTraining, max_steps: 1, output_dir: work.at(name) })];
    // The first run waits for its rank 1 while the second comes.
    const first = startRank(0, 2, port, argv("first"), { BUN_GRPO_SECRET: "first" });
    await Bun.sleep(2000);
    const second = [0, 1].map((r) => startRank(r, 2, port, argv("second"), { BUN_GRPO_SECRET: "second" }));
    const ends = await allFinished(second);
    expect(ends.map(({ code }) => code)).toEqual([1, 2]);
    expect(lineOf(ends[0]!)).toMatch(/is in use, perhaps by another run/);
    expect(lineOf(ends[1]!)).toMatch(/has another secret, or belongs to another run/);
    const last = startRank(1, 2, port, argv("first"), { BUN_GRPO_SECRET: "first" });
    expect((await allFinished([first, last])).map(({ code }) => code)).toEqual([0, 0]);
  });
});

/** The newest checkpoint's name. */
function readdirNewest(folder: string): string {
  const names = [...new Bun.Glob("checkpoint-*").scanSync({ cwd: folder, onlyFiles: false })];
  return names.sort((a, b) => Number(a.slice(11)) - Number(b.slice(11))).at(-1)!;
}
