/**
 * Real tiny runs killed (SIGKILL) at random moments: new runs, runs over an earlier one with --overwrite, resumed runs. After
 * each kill the folder must hold either the earlier run or the new one complete, and resuming must give the bytes of a run that
 * was never killed. Run by hand, as it takes minutes: bun test/e2e/kills.ts [--seed N] [--kills N]. Exit status 1 if one
 * failed.
 */
import { cpSync, existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { argvOf, type Flags, fingerprint, grpo, metricsOf, start, tinyTraining, untimed, workFolder } from "./runs.ts";
import { generator } from "./shuffled-rewards.ts";

const { values } = parseArgs({ options: { seed: { type: "string" }, kills: { type: "string" } } });
const seed = Number(values.seed ?? 1);
const kills = Number(values.kills ?? 50);

/** The same moments for the same seed, as far as the machine's speed is constant. */
const random = generator(seed);

const work = workFolder();
const steps = 6;
const base: Flags = { ...tinyTraining, max_steps: steps, save_steps: 1, save_total_limit: 3 };
/** The two runs that replace each other differ in their seed, so that every file shows which one it belongs to. */
const argv = (folder: string, of: number, flags: Flags = {}) => [
  "train",
  ...argvOf({ ...base, seed: of, output_dir: folder, ...flags }),
];

const whole = (folder: string) => ({
  weights: fingerprint(folder, "model.safetensors"),
  checkpoint: fingerprint(folder, `checkpoint-${steps}`, "optimizer.safetensors"),
  metrics: untimed(metricsOf(folder)),
});
type Whole = ReturnType<typeof whole>;

const straight: Record<number, { folder: string; whole: Whole; seconds: number }> = {};
for (const of of [1, 2]) {
  const folder = work.at(`straight ${of}`);
  const since = performance.now();
  const { code, err } = await grpo(argv(folder, of));
  if (code !== 0) throw new Error(err);
  straight[of] = { folder, whole: whole(folder), seconds: (performance.now() - since) / 1000 };
}

/** Which run a folder's newest checkpoint belongs to, determined by resuming it to the end. */
async function finish(folder: string, expected: readonly number[]): Promise<string | null> {
  for (const of of expected) {
    const copy = work.at("copy");
    rmSync(copy, { recursive: true, force: true });
    cpSync(folder, copy, { recursive: true });
    const { code, err } = await grpo(argv(copy, of, { resume_from_checkpoint: true }));
    if (code !== 0) return `resuming failed: ${err}`;
    if (Bun.deepEquals(whole(copy), straight[of]!.whole)) return null;
  }
  return `is neither: ${readdirSync(folder).join(" ")}`;
}

const kinds = ["new", "over", "resumed"] as const;
let failed = 0;
for (let i = 0; i < kills; i++) {
  const kind = kinds[i % kinds.length]!;
  const folder = work.at("now");
  rmSync(folder, { recursive: true, force: true });
  if (kind !== "new") cpSync(straight[1]!.folder, folder, { recursive: true });
  if (kind === "resumed") rmSync(join(folder, `checkpoint-${steps}`), { recursive: true });
  const flags: Flags =
    kind === "over" ? { overwrite: true } : kind === "resumed" ? { resume_from_checkpoint: true } : {};
  const of = kind === "resumed" ? 1 : 2;
  const { process: child, finished } = start(argv(folder, of, flags));
  const after = random() * straight[of]!.seconds;
  await Bun.sleep(after * 1000);
  child.kill("SIGKILL");
  await finished;
  const hadNothing = kind === "new" && !existsSync(join(folder, "metrics.jsonl"));
  const wrong = hadNothing ? null : await finish(folder, kind === "over" ? [2, 1] : [of]);
  if (wrong !== null) failed++;
  console.log(`${i + 1}/${kills} ${kind}, killed after ${after.toFixed(2)} s: ${wrong ?? "whole"}`);
}
work.remove();
console.log(`${kills - failed} of ${kills} whole (seed ${seed})`);
process.exit(failed === 0 ? 0 : 1);
