/**
 * Runs whose bytes are recorded in test/golden/bytes.json, to verify changes that must not change any: the learned weights
 * (model.safetensors, a critic's), the logs (metrics.jsonl: names, order and values, except times) and the samples
 * (completions/). On each recorded x86-64 instruction path that this processor has, and on the emulated GPU.
 *
 * `bun test/e2e/recorded-bytes.ts [RUN…]` compares; with `--record` first it rewrites the file, which is right only if a change
 * of bits is intended and explained in its commit. A test makes the short runs (recorded-bytes.test.ts).
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeRewardModel } from "../fixtures/scalar-model.ts";
import {
  argvOf,
  bundledModel,
  type Flags,
  grpo,
  metricsOf,
  problems,
  reward,
  root,
  timed,
  tinyTraining,
  workFolder,
} from "./runs.ts";

const recording = join(root, "test/golden/bytes.json");

/** Instruction paths with recorded bits: any recent x86-64 processor has both. */
const paths = ["portable", "avx2"] as const;

/** A run's hashes (SHA-256), by file. */
export type Bytes = Readonly<Record<string, string>>;

type Work = ReturnType<typeof workFolder>;

interface Recorded {
  /** Makes the run. @returns its folder */
  readonly run: (work: Work, path: string) => Promise<string>;
  /** Runs on the emulated GPU, so on no instruction path. */
  readonly emulated?: true;
}

/** `grpo …` on an instruction path. @throws unless it ends as it should */
async function command(argv: readonly string[], path: string, expected = 0): Promise<void> {
  const { code, err } = await grpo(argv, { env: { BUN_GRPO_CPU_PATH: path }, seconds: 600 });
  if (code !== expected) throw new Error(`grpo ${argv.join(" ")} ended with ${code}:\n${err}`);
}

/** `grpo train` on the bundled model with a reward of token ids; `folder` in the work folder. */
async function tiny(work: Work, path: string, name: string, flags: Flags): Promise<string> {
  const folder = work.at(`${name} ${path}`);
  await command(["train", ...argvOf({ ...tinyTraining, output_dir: folder, ...flags })], path);
  return folder;
}

/** The settings of dynamic sampling, of PPO and its four models, and of the variants that differ most from GRPO. */
const trainings: Readonly<Record<string, Flags>> = {
  dynamic: {
    dynamic_sampling: true,
    dynamic_sampling_ahead: 1,
    dynamic_sampling_probe: 2,
    reward_funcs: reward("half_flat"),
  },
  ppo: {
    ...{ advantage_estimator: "gae", use_kl_in_reward: true, num_iterations: 2, loss_type: "dapo" },
    reward_funcs: `${reward("by_tokens")},JUDGE`,
  },
  "split steps": {
    ...{ per_device_train_batch_size: 4, steps_per_generation: 2, num_iterations: 2, loss_type: "bnpo", beta: 0.1 },
    ...{ sync_ref_model: true, ref_model_sync_steps: 2, ref_model_mixup_alpha: 0.5 },
    ...{ use_adaptive_entropy: true, entropy_target: 3, entropy_coef_delta: 0.01 },
  },
  "two objectives": {
    ...{ multi_objective_aggregation: "normalize_then_sum", reward_funcs: `${reward("by_tokens")},length` },
    ...{ top_p: 0.9, top_k: 50, repetition_penalty: 1.1, dtype: "bfloat16" },
  },
};

const trained = Object.entries(trainings).map(([name, flags]): [string, Recorded] => [
  name,
  {
    run: async (work, path) => {
      const judged = String(flags.reward_funcs ?? tinyTraining.reward_funcs).replace(
        "JUDGE",
        await writeRewardModel(work.at(join(path, "judge")), bundledModel),
      );
      return tiny(work, path, name, { ...flags, reward_funcs: judged, max_steps: 4 });
    },
  },
]);

export const runs: Readonly<Record<string, Recorded>> = {
  /** The default job, shortened. */
  quick: { run: (work, path) => bundled(work, path, { max_steps: 2, eval_samples: 8 }) },
  ...Object.fromEntries(trained),
  resumed: {
    async run(work, path) {
      const flags = { max_steps: 4, save_steps: 2, save_total_limit: 9 };
      const folder = await tiny(work, path, "resumed", flags);
      return tiny(work, path, "resumed", { ...flags, resume_from_checkpoint: join(folder, "checkpoint-2") });
    },
  },
  update: {
    async run(work, path) {
      const from = await tiny(work, path, "to update", { max_steps: 2, save_steps: 1, num_iterations: 1 });
      const folder = work.at(`update ${path}`);
      const flags = {
        ...{ model: bundledModel, resume_from_checkpoint: join(from, "checkpoint-1") },
        ...{ rollouts: join(from, "completions/step-000002.jsonl"), output_dir: folder },
      };
      await command(["update", ...argvOf(flags)], path);
      return folder;
    },
  },
  sft: {
    async run(work, path) {
      const folder = work.at(`sft ${path}`);
      const flags = {
        ...{ model: bundledModel, dataset: problems, eval_dataset: problems, eval_samples: 4, eval_steps: 2 },
        ...{ max_completion_length: 16, per_device_train_batch_size: 16, learning_rate: 1e-4, max_steps: 4 },
        output_dir: folder,
      };
      await command(["sft", ...argvOf(flags)], path);
      return folder;
    },
  },
  emulated: {
    emulated: true,
    run: (work) =>
      bundled(work, "emulated", { device: "cuda", max_steps: 2, eval_samples: 2, per_device_train_batch_size: 16 }),
  },
  /** The default job with its defaults. */
  bundled: { run: (work, path) => bundled(work, path, {}) },
};

/** `grpo train` without a model: the bundled one. */
async function bundled(work: Work, path: string, flags: Flags): Promise<string> {
  const folder = work.at(`bundled ${path}`);
  const argv = ["train", ...argvOf({ ...flags, output_dir: folder })];
  if (path !== "emulated") await command([...argv, "--overwrite"], path);
  else {
    const child = Bun.spawn([process.execPath, join(root, "test/emulator/run.ts"), ...argv], {
      ...{ cwd: root, stdin: "ignore", stdout: "ignore", stderr: "pipe" },
    });
    const [err, code] = await Promise.all([new Response(child.stderr).text(), child.exited]);
    if (code !== 0) throw new Error(`emulated grpo ${argv.join(" ")} ended with ${code}:\n${err}`);
  }
  return folder;
}

const sha256 = (data: string | Uint8Array) => new Bun.CryptoHasher("sha256").update(data).digest("hex").slice(0, 16);

/** Metrics in their order; for values that depend on the machine's speed, only the names. */
function logged(folder: string): string {
  return JSON.stringify(metricsOf(folder), (key, value) => (timed.test(key) ? null : value));
}

export function bytesOf(folder: string): Bytes {
  const bytes: Record<string, string> = { "metrics.jsonl": sha256(logged(folder)) };
  for (const model of ["model.safetensors", "critic/model.safetensors"])
    if (existsSync(join(folder, model))) bytes[model] = sha256(readFileSync(join(folder, model)));
  const completions = join(folder, "completions");
  if (existsSync(completions)) {
    const files = readdirSync(completions).sort();
    bytes.completions = sha256(
      files.map((file) => `${file}\n${readFileSync(join(completions, file), "utf8")}`).join(""),
    );
  }
  return bytes;
}

/** Path (`emulated` for the GPU) → run → hashes. */
export const recordedBytes = (): Record<string, Record<string, Bytes>> =>
  existsSync(recording) ? JSON.parse(readFileSync(recording, "utf8")) : {};

/** The recorded paths that this processor has. */
export function pathsHere(): string[] {
  if (process.arch !== "x64") return [];
  const flags = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" ") ?? [];
  return paths.filter((path) => path === "portable" || flags.includes(path));
}

if (import.meta.main) {
  const [first, ...rest] = process.argv.slice(2);
  const record = first === "--record";
  const names = [...(record || first === undefined ? [] : [first]), ...rest];
  for (const name of names) if (!Object.hasOwn(runs, name)) throw new Error(`${name}: one of ${Object.keys(runs)}`);
  const all = recordedBytes();
  if (pathsHere().length === 0)
    console.log(
      `note: no bytes are recorded for this processor (${process.arch}): only the emulated GPU's are compared`,
    );
  const work = workFolder();
  let differ = 0;
  try {
    for (const [name, { run, emulated }] of Object.entries(runs)) {
      if (names.length > 0 && !names.includes(name)) continue;
      for (const path of emulated ? ["emulated"] : pathsHere()) {
        const bytes = bytesOf(await run(work, path));
        const before = all[path]?.[name];
        const same = JSON.stringify(before) === JSON.stringify(bytes);
        console.log(`${same ? "same" : before ? "DIFFERS" : "new"}  ${path} ${name}  ${JSON.stringify(bytes)}`);
        if (!same) differ++;
        all[path] = { ...all[path], [name]: bytes };
      }
    }
    if (record) writeFileSync(recording, `${JSON.stringify(all, null, 2)}\n`);
    else if (differ > 0) process.exitCode = 1;
  } finally {
    work.remove();
  }
}
