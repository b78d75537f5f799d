/**
 * What a browser that draws the page costs the run beside it, within one run: the browser is stopped and goes on again, period by
 * period, and the steps of both kinds of periods are compared. Two runs differ by more than what is looked for; two periods of one run
 * hardly do.
 *
 *   bun test/page/measure-within.ts --seconds 80 --period 10
 *
 * The first periods after opening the page are left out. Linux only.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { openBrowser, openPage, withoutChromium } from "./chromium.ts";
import { descendants } from "./cpu-time.ts";

const root = join(import.meta.dir, "../..");
/** The page is opened, the browser has settled and the trainer is compiled, in ms. */
const SETTLED_MS = 8000;
/** Left out at the beginning of each period, in ms: a browser that goes on draws what it has missed. */
const RESUMED_MS = 1500;

const flag = (name: string, fallback: number): number => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
};
const mean = (all: readonly number[]): number => all.reduce((sum, each) => sum + each, 0) / all.length;
const median = (all: readonly number[]): number => {
  const sorted = all.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
};

async function measure(seconds: number, period: number): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), "grpo-page-"));
  const folder = join(work, "run");
  const browser = await openBrowser();
  const inBrowser = descendants(process.pid);
  const child = Bun.spawn(
    [
      ...[process.execPath, "src/cli/main.ts", "train", "--device", "cpu", "--max_steps", "1000000"],
      ...["--eval_samples", "1", "--eval_steps", "1000000", "--output_dir", folder, "--dashboard", "0"],
    ],
    { cwd: root, stdout: "pipe" },
  );
  try {
    let text = "";
    for await (const bytes of child.stdout.values({ preventCancel: true })) {
      text += new TextDecoder().decode(bytes);
      if (/^page: \S+$/m.test(text)) break;
    }
    void child.stdout.pipeTo(new WritableStream()).catch(() => {});
    const { page } = await openPage(browser);
    await page.goto(/^page: (\S+)$/m.exec(text)![1]!);
    await Bun.sleep(SETTLED_MS);
    const trainer = new Set([child.pid, ...descendants(child.pid)]);
    const ofBrowser = new Set([...inBrowser, ...descendants(process.pid)].filter((pid) => !trainer.has(pid)));
    const signal = (name: "SIGSTOP" | "SIGCONT") => {
      for (const pid of ofBrowser) {
        try {
          process.kill(pid, name);
        } catch {
          // One that has ended.
        }
      }
    };
    const times = (): number[] =>
      readFileSync(join(folder, "metrics.jsonl"), "utf8")
        .split("\n")
        .flatMap((line) => (line === "" ? [] : (JSON.parse(line).step_time ?? [])));
    const found: { readonly isOn: boolean; readonly steps: readonly number[] }[] = [];
    for (let i = 0; i < Math.floor(seconds / period); i++) {
      // On, off, off, on: a trainer that becomes faster as it is compiled gains both the same.
      const isOn = i % 4 === 0 || i % 4 === 3;
      signal(isOn ? "SIGCONT" : "SIGSTOP");
      await Bun.sleep(RESUMED_MS);
      const from = times().length;
      await Bun.sleep(1000 * period - RESUMED_MS);
      // The first step began before.
      found.push({ isOn, steps: times().slice(from + 1) });
    }
    signal("SIGCONT");
    const of = (isOn: boolean) => found.filter((each) => each.isOn === isOn).map(({ steps }) => mean(steps));
    const [on, off] = [of(true), of(false)];
    const pairs = off.map((time, i) => on[i]! / time);
    console.log(`${cpus()[0]?.model}, ${cpus().length} cores; periods of ${period} s, ${found[0]?.steps.length} steps`);
    console.log(`a step with the browser: ${on.map((each) => (1000 * each).toFixed(1)).join(", ")} ms`);
    console.log(`while it is stopped: ${off.map((each) => (1000 * each).toFixed(1)).join(", ")} ms`);
    console.log(`ratios: ${pairs.map((each) => each.toFixed(3)).join(", ")}; median ${median(pairs).toFixed(3)}`);
  } finally {
    child.kill("SIGKILL");
    await child.exited;
    await browser.close();
    rmSync(work, { recursive: true, force: true });
  }
}

if (withoutChromium !== null) {
  console.error(withoutChromium);
  process.exit(1);
}
await measure(flag("seconds", 80), flag("period", 10));
process.exit(0);
