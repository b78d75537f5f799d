/** A killed or interrupted run resumes from its checkpoint to the same bytes as one that never stopped. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import {
  argvOf,
  type Flags,
  fingerprint,
  fingerprints,
  grpo,
  metricsOf,
  problems,
  reward,
  root,
  start,
  tinyTraining,
  train,
  until,
  untimed,
  workFolder,
} from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const slow: Flags = { reward_funcs: reward("slow_by_tokens") };
const evaluated: Flags = { eval_dataset: problems, eval_samples: 8, eval_steps: 2 };

/** Weights and optimizer of a finished run with a checkpoint at its last step, and its records. */
function outcome(folder: string, last = 5) {
  const files = fingerprints(folder);
  const completions = Object.entries(files).filter(([name]) => name.startsWith("completions/"));
  return {
    weights: fingerprint(folder, "model.safetensors"),
    optimizer: fingerprint(folder, `checkpoint-${last}/optimizer.safetensors`),
    completions: Object.fromEntries(completions),
    metrics: untimed(metricsOf(folder)),
  };
}

/** Metrics named after the reward's module, which differs between the slow and the fast one. */
function renamed(result: ReturnType<typeof outcome>) {
  const text = JSON.stringify(result).replaceAll("rewards/slow_by_tokens/", "rewards/by_tokens/");
  return JSON.parse(text) as ReturnType<typeof outcome>;
}

const stepsOf = (folder: string) =>
  metricsOf(folder)
    .filter((r) => r.loss !== undefined)
    .map((r) => r.step);
const evaluationsOf = (folder: string) =>
  metricsOf(folder)
    .filter((r) => r.eval_accuracy !== undefined)
    .map((r) => r.step);

describe.each<Flags>([{}, { dtype: "bfloat16" }])("killed in its third step, %j", (dtype) => {
  const flags: Flags = { ...evaluated, ...dtype, save_steps: 1 };
  const name = String(dtype.dtype ?? "float32");
  let straight: ReturnType<typeof outcome>;
  beforeAll(async () => {
    await train(work.at(`straight-${name}`), flags);
    straight = outcome(work.at(`straight-${name}`));
  });

  test("resumes to the bytes of an uninterrupted run", async () => {
    const folder = work.at(`killed-${name}`);
    const argv = argvOf({ ...tinyTraining, ...flags, ...slow, save_steps: 2, output_dir: folder });
    const { process, finished } = start(["train", ...argv]);
    await until("the second checkpoint and the third step", () => stepsOf(folder).includes(3));
    process.kill("SIGKILL");
    expect((await finished).signal).toBe("SIGKILL");
    expect(readdirSync(folder).filter((entry) => entry.startsWith("checkpoint-"))).toEqual(["checkpoint-2"]);
    expect(existsSync(join(folder, "model.safetensors"))).toBe(false);

    const { code, notes } = await train(folder, { ...flags, resume_from_checkpoint: true });
    expect(code).toBe(0);
    expect(notes).toContain(`going on after step 2 from ${join(folder, "checkpoint-2")}`);
    expect(stepsOf(folder)).toEqual([1, 2, 3, 4, 5]);
    expect(evaluationsOf(folder)).toEqual([0, 2, 4, 5]);
    expect(renamed(outcome(folder))).toEqual(straight);
  });
});

describe("Ctrl-C", () => {
  beforeAll(async () => {
    await train(work.at("uninterrupted"), { ...evaluated, save_steps: 5 });
  });

  test("saves a checkpoint, ends with 130, and the run resumes to the same bytes", async () => {
    const flags: Flags = { ...evaluated, save_steps: 5 };
    const folder = work.at("interrupted");
    const argv = argvOf({ ...tinyTraining, ...flags, ...slow, output_dir: folder });
    const { process, finished } = start(["train", ...argv]);
    await until("the second step", () => stepsOf(folder).includes(2));
    // Another run in the same folder ends at once, and this one continues undisturbed.
    const other = await grpo(["train", ...argv]);
    expect(other.code).toBe(2);
    expect(other.err).toMatch(
      new RegExp(`^grpo train: \\S+: grpo train \\(process ${process.pid} on .* is writing there`),
    );
    process.kill("SIGUSR1");
    const { code, out, err } = await finished;
    expect(code).toBe(130);
    expect(err).toBe("SIGUSR1: stopping after this step and saving a checkpoint; a second signal ends at once\n");
    expect(out).toContain("--resume_from_checkpoint true");
    const saved = readdirSync(folder).filter((entry) => entry.startsWith("checkpoint-"));
    expect(saved.length).toBe(1);
    expect(stepsOf(folder).at(-1)).toBe(Number(saved[0]!.slice("checkpoint-".length)));

    await train(folder, { ...flags, resume_from_checkpoint: true });
    expect(evaluationsOf(folder)).toEqual([0, 2, 4, 5]);
    expect(renamed(outcome(folder))).toEqual(outcome(work.at("uninterrupted")));
  });

  test.each(["rollout", "rewards", "reference", "update"])("during %s of the third step", async (phase) => {
    const folder = work.at(`during ${phase}`);
    const flags: Flags = { ...evaluated, save_steps: 5 };
    const { code, steps } = await train(folder, flags, { stopDuring: { phase, step: 3 } });
    expect(code).toBe(130);
    // Samples in progress are dropped; complete ones are learned from.
    expect(steps.length).toBe(phase === "rollout" ? 2 : 3);
    expect((await train(folder, { ...flags, resume_from_checkpoint: true })).code).toBe(0);
    expect(outcome(folder)).toEqual(outcome(work.at("uninterrupted")));
  });

  test("a second time ends the process at once", async () => {
    const output_dir = work.at("twice");
    const flags: Flags = { reward_funcs: reward("hangs"), reward_timeout: 60, output_dir };
    const { process, finished } = start(["train", ...argvOf({ ...tinyTraining, ...flags })]);
    await until("the run", () => existsSync(join(output_dir, "metrics.jsonl")));
    await Bun.sleep(1000);
    process.kill("SIGINT");
    // Later than what counts as the same Ctrl-C, but before it gives up waiting for the rewards.
    await Bun.sleep(400);
    process.kill("SIGTERM");
    const { code, err } = await finished;
    expect(code).toBe(130);
    expect(err).toContain("SIGTERM: ended at once");
    expect(readdirSync(output_dir).filter((name) => /checkpoint|lock/.test(name))).toEqual([]);
  });

  test("while a reward is pending does not wait for its deadline", async () => {
    const folder = work.at("pending");
    const since = performance.now();
    const flags: Flags = { reward_funcs: reward("hangs"), reward_timeout: 60 };
    expect((await train(folder, flags, { stopDuring: { phase: "rewards", step: 1 } })).code).toBe(130);
    expect(performance.now() - since).toBeLessThan(10_000);
    expect(readdirSync(folder)).toContain("checkpoint-0");
  });

  test("to the launcher that started it, without a signal to the run itself, saves a checkpoint too", async () => {
    const folder = work.at("orphan");
    const command = [process.execPath, join(root, "src/cli/main.ts"), "train"];
    const argv = [...command, ...argvOf({ ...tinyTraining, ...slow, max_steps: 1000, output_dir: folder })];
    const launcher = Bun.spawn(
      [
        process.execPath,
        "-e",
        `await Bun.spawn(${JSON.stringify(argv)}, { stdio: ["ignore", "ignore", "ignore"] }).exited`,
      ],
      { env: { ...process.env, npm_lifecycle_event: "npx" }, stdio: ["ignore", "ignore", "ignore"] },
    );
    await until("the first step", () => stepsOf(folder).includes(1));
    launcher.kill("SIGKILL");
    await until("a checkpoint", () => readdirSync(folder).some((name) => /^checkpoint-\d+$/.test(name)));
    await until("the end", () => !existsSync(join(folder, ".grpo.lock")));
  });

  test("during the first evaluation loses neither the evaluation nor anything else", async () => {
    const flags: Flags = { ...evaluated, save_steps: 5 };
    const folder = work.at("before-the-first");
    // Stopped before anything was done: like a run stopped during the evaluation at step 0.
    expect((await train(folder, flags, { stopAfter: 0 })).code).toBe(130);
    expect(readdirSync(folder)).toContain("checkpoint-0");
    await train(folder, { ...flags, resume_from_checkpoint: true });
    expect(evaluationsOf(folder)).toEqual([0, 2, 4, 5]);
    expect(outcome(folder)).toEqual(outcome(work.at("uninterrupted")));
  });
});

describe("a generation that serves several steps", () => {
  test.each<Flags>([
    { num_iterations: 2 },
    { gradient_accumulation_steps: 2, per_device_train_batch_size: 4 },
    { per_device_train_batch_size: 4, steps_per_generation: 2 },
    {
      per_device_train_batch_size: 4,
      steps_per_generation: 2,
      num_iterations: 2,
      lr_scheduler_type: "cosine",
      warmup_steps: 2,
    },
  ])("%j", async (shape) => {
    const name = JSON.stringify(shape).replace(/\W+/g, "_");
    const [straight, stopped] = [work.at(`straight-${name}`), work.at(`stopped-${name}`)];
    const flags: Flags = { ...shape, max_steps: 8, save_steps: 8 };
    await train(straight, flags);
    // Asked to stop after the third step, it stops where the generation of that step ends.
    expect((await train(stopped, flags, { stopAfter: 3 })).code).toBe(130);
    const before = stepsOf(stopped).length;
    expect(before).toBeGreaterThanOrEqual(3);
    expect(before).toBeLessThan(8);
    const { notes } = await train(stopped, { ...flags, resume_from_checkpoint: true });
    expect(notes).toContain(`going on after step ${before} from ${join(stopped, `checkpoint-${before}`)}`);
    expect(stepsOf(stopped)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(outcome(stopped, 8)).toEqual(outcome(straight, 8));
  });
});

describe("resuming", () => {
  let straight = "";
  beforeAll(async () => {
    straight = work.at("every-step");
    await train(straight, { save_steps: 1 });
  });

  test("from a checkpoint named by its path, in another output_dir", async () => {
    const folder = work.at("elsewhere");
    await train(folder, { save_steps: 5, resume_from_checkpoint: join(straight, "checkpoint-3") });
    expect(stepsOf(folder)).toEqual([4, 5]);
    expect(fingerprint(folder, "model.safetensors")).toBe(fingerprint(straight, "model.safetensors"));
  });

  test("with other slots and threads changes nothing and reports nothing; a different learning rate is reported", async () => {
    const folder = work.at("other-settings");
    cpSync(straight, folder, { recursive: true });
    const from = join(folder, "checkpoint-3");
    const same = await train(folder, { resume_from_checkpoint: from, threads: 1, max_concurrent_sequences: 3 });
    expect(same.notes.filter((note) => / was .* and is now /.test(note))).toEqual([]);
    expect(fingerprint(folder, "model.safetensors")).toBe(fingerprint(straight, "model.safetensors"));
    const other = await train(folder, { resume_from_checkpoint: from, learning_rate: 1e-4 });
    expect(other.notes).toContain("note: learning_rate was 0.001 and is now 0.0001");
    expect(fingerprint(folder, "model.safetensors")).not.toBe(fingerprint(straight, "model.safetensors"));
  });

  test("true starts from scratch if there is no checkpoint", async () => {
    const folder = work.at("nothing-there");
    expect((await train(folder, { resume_from_checkpoint: true })).code).toBe(0);
    expect(fingerprint(folder, "model.safetensors")).toBe(fingerprint(straight, "model.safetensors"));
  });

  test("from the last step of a finished run adds no line and changes no weight", async () => {
    const folder = work.at("finished");
    await train(folder, { ...evaluated, save_steps: 5 });
    const before = { metrics: metricsOf(folder), weights: fingerprint(folder, "model.safetensors") };
    await train(folder, { ...evaluated, save_steps: 5, resume_from_checkpoint: true });
    expect({ metrics: metricsOf(folder), weights: fingerprint(folder, "model.safetensors") }).toEqual(before);
  });

  test("from an older checkpoint leaves nothing of later steps", async () => {
    const folder = work.at("older");
    cpSync(straight, folder, { recursive: true });
    await train(folder, { resume_from_checkpoint: join(folder, "checkpoint-2"), seed: 9 }, { stopAfter: 3 });
    const left = readdirSync(folder).filter((entry) => entry.startsWith("checkpoint-"));
    expect(left.sort()).toEqual(["checkpoint-1", "checkpoint-2", "checkpoint-3"]);
    expect(readdirSync(join(folder, "completions")).sort().at(-1)).toBe("step-000003.jsonl");
  });

  test("applies save_total_limit to earlier checkpoints", async () => {
    const folder = work.at("limited");
    const flags: Flags = { save_steps: 1, save_total_limit: 2 };
    await train(folder, flags, { stopAfter: 3 });
    await train(folder, { ...flags, resume_from_checkpoint: true });
    const left = readdirSync(folder).filter((entry) => entry.startsWith("checkpoint-"));
    expect(left.sort()).toEqual(["checkpoint-4", "checkpoint-5"]);
  });
});

describe("an output_dir with an earlier run", () => {
  test("is left unchanged by default, and --overwrite leaves nothing of it", async () => {
    const folder = work.at("earlier");
    await train(folder, { save_steps: 2 });
    const before = fingerprints(folder);
    await expect(train(folder, { max_steps: 1 })).rejects.toThrow(/--resume_from_checkpoint true.*--overwrite/);
    expect(fingerprints(folder)).toEqual(before);
    await train(folder, { max_steps: 1, overwrite: true });
    expect(readdirSync(folder).filter((entry) => entry.startsWith("checkpoint-"))).toEqual([]);
    expect(stepsOf(folder)).toEqual([1]);
    expect(readdirSync(join(folder, "completions"))).toEqual(["step-000001.jsonl"]);
  });
});
