/**
 * A run of four ranks of which one, or what started them, is killed (SIGKILL) at random moments: all others end by themselves, and
 * the run, resumed on any number of ranks, has the bytes of one that was never killed. Five kills; more by hand:
 * BUN_GRPO_KILLS=50 BUN_GRPO_SEED=7 bun test ./test/e2e/rank-kills.long.ts
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { checkpointBytes, childrenOf, leftIn, ranksBytes } from "./rank-runs.ts";
import { argvOf, type Flags, grpo, metricsOf, start, tinyTraining, until, untimed, workFolder } from "./runs.ts";
import { generator } from "./shuffled-rewards.ts";

const kills = Number(process.env.BUN_GRPO_KILLS ?? 5);
const seed = Number(process.env.BUN_GRPO_SEED ?? 1);
setDefaultTimeout((kills + 2) * 120_000);

const work = workFolder();
afterAll(work.remove);

const steps = 6;
const completions = 48;
const base: Flags = { ...tinyTraining, threads: 1, max_steps: steps, save_steps: 1, save_total_limit: 3 };
const argv = (folder: string, ranks: number, flags: Flags = {}) => [
  "train",
  ...argvOf({ ...base, ranks, per_device_train_batch_size: completions / ranks, output_dir: folder, ...flags }),
];
const isAlive = (pid: number): boolean => existsSync(`/proc/${pid}`);
const hasCheckpoint = (folder: string): boolean => [...checkpoints(folder)].length > 0;
const checkpoints = (folder: string) =>
  existsSync(folder) ? new Bun.Glob("checkpoint-*").scanSync({ cwd: folder, onlyFiles: false }) : [];

const whole = (folder: string) => ({
  ...ranksBytes(folder),
  checkpoint: checkpointBytes(join(folder, `checkpoint-${steps}`)),
  steps: untimed(metricsOf(folder)).length,
});

async function toTheEnd(folder: string, ranks: number, flags: Flags): Promise<void> {
  const { code, err } = await grpo(argv(folder, ranks, flags), { seconds: 120 });
  if (code !== 0) throw new Error(`${ranks} ranks ended with ${code}: ${err}`);
}

test(`${kills} kills of a rank, or of all ranks' parent, at random moments (seed ${seed})`, async () => {
  const random = generator(seed);
  const straight = work.at("straight");
  const since = performance.now();
  await toTheEnd(straight, 4, {});
  const wholeMs = performance.now() - since;
  const expected = whole(straight);

  const folder = work.at("killed");
  let resumedFrom = 0;
  // At least once a run is killed that has been killed before.
  for (let i = 0; i < kills || (kills >= 5 && resumedFrom === 0); ) {
    // The run goes on from kill to kill; it begins anew once it has come to its end.
    if (existsSync(join(folder, "model.safetensors"))) rmSync(folder, { recursive: true });
    const goesOn = hasCheckpoint(folder);
    const again: Flags = goesOn ? { resume_from_checkpoint: true } : existsSync(folder) ? { overwrite: true } : {};
    const { process: parent, finished } = start(argv(folder, 4, again), { seconds: 120 });
    // A moment after a step that is still to come: as likely on a machine that is slower by now.
    const made = metricsOf(folder).at(-1)?.step ?? 0;
    const step = goesOn ? made + Math.floor(random() * (steps - made)) : Math.floor(random() * steps);
    const after = (random() * 2 * wholeMs) / steps;
    const victim = Math.floor(random() * 5);
    while (parent.exitCode === null && (metricsOf(folder).at(-1)?.step ?? 0) < step) await Bun.sleep(5);
    await Promise.race([finished, Bun.sleep(after)]);
    const ranks = childrenOf(parent.pid);
    const pid = victim === 4 ? parent.pid : ranks[victim];
    if (parent.exitCode !== null || pid === undefined) {
      await finished;
      continue; // it was over, or had not begun
    }
    process.kill(pid, "SIGKILL");
    await finished;
    await until("the end of all ranks", () => !ranks.some(isAlive));
    i++;
    if (!hasCheckpoint(folder)) continue;
    if (goesOn) resumedFrom++;
    const copy = work.at("resumed");
    rmSync(copy, { recursive: true, force: true });
    cpSync(folder, copy, { recursive: true });
    const on = [1, 2, 3, 4][Math.floor(random() * 4)]!;
    await toTheEnd(copy, on, { resume_from_checkpoint: true, shard_optimizer: random() < 0.5 });
    const who = victim === 4 ? "the parent" : `rank ${victim}`;
    const what = `kill ${i} of ${who}, ${after.toFixed(0)} ms after step ${step}, resumed on ${on}`;
    expect(whole(copy), what).toEqual(expected);
    expect(leftIn(copy), what).toEqual([]);
  }
});
