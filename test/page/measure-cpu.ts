/**
 * The CPU time of a browser that shows a page while a run trains, process by process: it varies far less than the run's time.
 *
 *   bun test/page/measure-cpu.ts                            # 60 seconds each of an empty page, an ended run, the run that trains
 *   bun test/page/measure-cpu.ts --seconds 20 --page training
 *   bun test/page/measure-cpu.ts --page training --threads  # by thread too
 *
 * Shares are of all cores. Starting the browser and opening the page are counted apart: they are paid once, however long a run
 * takes. Linux only.
 */
import { mkdirSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import type { CDPSession } from "playwright-core";
import { makeRun } from "../fixtures/made-run.ts";
import { openBrowser, openPage, withoutChromium } from "./chromium.ts";
import { type CpuTimes, cpuTimes, descendants, spent } from "./cpu-time.ts";

const root = join(import.meta.dir, "../..");
const pages = ["blank", "ended", "training"] as const;
type PageName = (typeof pages)[number];

/** The page is opened and what the browser does after its start is over, in ms. */
const SETTLED_MS = 5000;
/** Steps of the run that has ended. */
const STEPS = 300;

const titles: Readonly<Record<PageName, string>> = {
  blank: "an empty page",
  ended: `a run of ${STEPS} steps that has ended`,
  training: "the run that trains",
};

const flag = (name: string): string | undefined => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? undefined : process.argv[at + 1];
};

/** A program that serves a page; its address when it has printed it. */
async function serve(args: readonly string[]): Promise<{ child: Bun.Subprocess; url: string }> {
  const child = Bun.spawn([process.execPath, "src/cli/main.ts", ...args], { cwd: root, stdout: "pipe" });
  const address = Promise.withResolvers<string>();
  void (async () => {
    let text = "";
    for await (const bytes of child.stdout) {
      text = (text + new TextDecoder().decode(bytes)).slice(-4096);
      const url = /http:\S+/.exec(text)?.[0];
      if (url !== undefined) address.resolve(url);
    }
    address.reject(new Error(`grpo ${args[0]} ended without an address: ${text}`));
  })();
  return { child, url: await address.promise };
}

const train = (folder: string) =>
  serve([
    ...["train", "--device", "cpu", "--max_steps", "1000000", "--eval_samples", "1"],
    ...["--output_dir", folder, "--dashboard", "0"],
  ]);

function show(folder: string): ReturnType<typeof serve> {
  mkdirSync(folder);
  makeRun(folder, { steps: STEPS, totalSteps: STEPS });
  return serve(["show", folder, "--port", "0"]);
}

const isBrowser = (kind: string): boolean => /^(browser|renderer|zygote|gpu-process|crashpad|.*\.mojom\..*)/.test(kind);
const sum = (all: readonly (readonly [string, number])[]): number =>
  all.reduce((total, [, seconds]) => total + seconds, 0);
const list = (all: readonly (readonly [string, number])[], least: number): string =>
  all.flatMap(([name, seconds]) => (seconds >= least ? [`${name} ${seconds.toFixed(3)}`] : [])).join(", ");

/** What the page itself spent, by Chromium's own clocks; of wall time. */
async function pageMetrics(client: CDPSession): Promise<ReadonlyMap<string, number>> {
  const { metrics } = await client.send("Performance.getMetrics");
  return new Map(metrics.map(({ name, value }) => [name, value]));
}

async function measure(name: PageName, seconds: number): Promise<void> {
  const work = realpathSync(mkdtempSync(join(tmpdir(), "grpo-page-")));
  const nothing: CpuTimes = { processes: new Map(), threads: new Map() };
  const now = () => cpuTimes(descendants(process.pid));
  const servers = [await train(join(work, "run"))];
  if (name === "ended") servers.push(await show(join(work, "ended")));
  const browser = await openBrowser();
  try {
    const { page } = await openPage(browser);
    await Bun.sleep(2000);
    const started = now();
    await page.goto(name === "blank" ? "about:blank" : servers.at(-1)!.url);
    await Bun.sleep(SETTLED_MS);
    const client = await page.context().newCDPSession(page);
    await client.send("Performance.enable");
    const metrics = await pageMetrics(client);
    const [before, since] = [now(), performance.now()];
    await Bun.sleep(1000 * seconds);
    const [after, wall] = [now(), (performance.now() - since) / 1000];
    const later = await pageMetrics(client);
    const { byKind, byThread } = spent(before, after);
    const inBrowser = byKind.filter(([kind]) => isBrowser(kind));
    const others = byKind.filter(([kind]) => !isBrowser(kind));
    const opened = sum(spent(started, before).byKind.filter(([kind]) => isBrowser(kind)));
    const share = (part: number) => `${((100 * part) / wall / cpus().length).toFixed(2)} %`;
    console.log(
      `${titles[name]}: ${sum(inBrowser).toFixed(2)} s of CPU in ${wall.toFixed(0)} s, ${share(sum(inBrowser))}`,
    );
    console.log(`  by process: ${list(inBrowser, 0.005)}`);
    if (others.length > 0) console.log(`  beside it: ${list(others, 0.005)}`);
    const starting = sum(spent(nothing, started).byKind.filter(([kind]) => isBrowser(kind)));
    console.log(`  before that: starting ${starting.toFixed(2)} s, opening the page ${opened.toFixed(2)} s`);
    const metric = (each: string) => `${each} ${((later.get(each) ?? 0) - (metrics.get(each) ?? 0)).toFixed(3)}`;
    console.log(
      `  ${["ScriptDuration", "LayoutDuration", "RecalcStyleDuration", "TaskDuration", "LayoutCount"].map(metric).join(", ")}`,
    );
    if (process.argv.includes("--threads")) console.log(`  by thread: ${list(byThread, 0.005)}`);
  } finally {
    await browser.close();
    for (const { child } of servers) {
      child.kill("SIGKILL");
      await child.exited;
    }
    rmSync(work, { recursive: true, force: true });
  }
}

if (withoutChromium !== null) {
  console.error(withoutChromium);
  process.exit(1);
}
const wanted = pages.filter((page) => (flag("page") ?? page) === page);
console.log(`${cpus()[0]?.model}, ${cpus().length} cores; beside the bundled model's training, 0.2 s a step`);
for (const page of wanted) await measure(page, Number(flag("seconds") ?? 60));
// The address of a killed server is no longer waited for.
process.exit(0);
