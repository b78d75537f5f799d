/**
 * How the page bears many steps and many completions, in a real browser, and what it costs the run that it shows:
 *
 *   bun test/page/measure.ts                       # 100,000 steps × 12 charts, 10,000 completions
 *   bun test/page/measure.ts --steps 20000
 *   bun test/page/measure.ts --training 5          # 5 pairs of short runs, with and without a page that is open
 *   bun test/page/measure.ts --training 5 --viewer=nobody,here    # 5 rounds of three: without, and with each viewer
 *
 * First paint is from the start of the navigation until twelve charts are drawn with the values of all steps. While panning, a
 * frame is the time between two pictures of the browser. The run's cost is the median ratio of interleaved pairs.
 */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, statSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { bundlePage } from "../../src/dashboard/bundle.ts";
import { viewRun } from "../../src/dashboard/run-view.ts";
import { startServer } from "../../src/dashboard/server.ts";
import { makeGeneration, makeRun } from "../fixtures/made-run.ts";
import { openBrowser, openPage, withoutChromium } from "./chromium.ts";

const root = join(import.meta.dir, "../..");
const CHARTS = 12;

function flag(name: string, fallback: number): number {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? fallback : Number(process.argv[at + 1]);
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;

/** Resolves in the page with the milliseconds from the navigation's start to the first picture with all charts. */
const painted = `new Promise((resolve) => {
  const look = () => {
    const charts = [...document.querySelectorAll("#chart-grid .card")].slice(0, ${CHARTS});
    const isDrawn = charts.length === ${CHARTS} && charts.every((chart) =>
      chart.querySelector(".plot canvas, .empty:not([hidden])") && [...chart.querySelectorAll(".value")].every((v) => !["", "–"].includes(v.textContent)));
    if (isDrawn) requestAnimationFrame(() => resolve(performance.now()));
    else requestAnimationFrame(look);
  };
  look();
})`;

/** Moves the range of all charts for so many frames; milliseconds of each. */
const panned = (frames: number) => `new Promise((resolve) => {
  const plot = document.querySelector("#chart-reward .plot");
  const times = [];
  let last = performance.now();
  let count = 0;
  const step = () => {
    const now = performance.now();
    if (count > 0) times.push(now - last);
    last = now;
    const over = plot.querySelector(".u-over");
    over.dispatchEvent(new WheelEvent("wheel", { deltaX: count % 40 < 20 ? 9 : -9, bubbles: true, cancelable: true }));
    if (count++ < ${frames}) requestAnimationFrame(step);
    else resolve(times);
  };
  requestAnimationFrame(step);
})`;

/** Full HD shows twelve charts. */
const screen = { width: 1920, height: 1080 } as const;

async function zoomIn(page: Page, times: number): Promise<void> {
  await page.locator("#chart-reward .plot").focus();
  for (let i = 0; i < times; i++) await page.keyboard.press("+");
  await page.waitForTimeout(300);
}

async function measurePage(steps: number, completions: number): Promise<void> {
  const work = realpathSync(mkdtempSync(join(tmpdir(), "grpo-page-")));
  const browser = await openBrowser();
  try {
    const folder = join(work, "run");
    mkdirSync(folder);
    makeRun(folder, { steps });
    makeGeneration(folder, 1, completions / 8, 8);
    const bytes = statSync(join(folder, "metrics.jsonl")).size;
    const view = viewRun(folder, 0);
    const started = performance.now();
    while (view.poll());
    const read = performance.now() - started;
    const server = startServer({
      runs: [view],
      files: await bundlePage(),
      host: "localhost",
      port: 0,
      status: "unknown",
    });
    console.log(`${cpus()[0]?.model}, ${cpus().length} cores; ${browser.version()}`);
    console.log(
      `metrics.jsonl: ${steps} steps, ${(bytes / 1e6).toFixed(0)} MB, read by the server in ${read.toFixed(0)} ms`,
    );
    const paints: number[] = [];
    for (let i = 0; i < 5; i++) {
      const { page, complaints } = await openPage(browser, screen);
      await page.goto(server.url);
      paints.push(await page.evaluate<number>(painted));
      if (complaints.length > 0) throw new Error(complaints.join("\n"));
      await page.close();
    }
    console.log(
      `first paint of ${CHARTS} charts: ${median(paints).toFixed(0)} ms (${paints.map((ms) => ms.toFixed(0)).join(", ")})`,
    );
    const { page } = await openPage(browser, screen);
    await page.goto(server.url);
    await page.evaluate(painted);
    for (const zooms of [1, 6]) {
      await zoomIn(page, zooms);
      const times = await page.evaluate<number[]>(panned(120));
      const rate = 1000 / (times.reduce((a, b) => a + b, 0) / times.length);
      const slowest = times.toSorted((a, b) => a - b)[Math.floor(times.length * 0.95)]!;
      const range = await page.locator("#range").textContent();
      console.log(`pan over ${range}: ${rate.toFixed(0)} frames/s, 95 % of frames within ${slowest.toFixed(0)} ms`);
    }
    const before = performance.now();
    await page.locator("#tab-completions").click();
    await page.locator("#completions-summary").filter({ hasText: "completions of" }).waitFor();
    console.log(`${completions} completions: listed after ${(performance.now() - before).toFixed(0)} ms`);
    await page.locator(".virtual").focus();
    const end = performance.now();
    await page.keyboard.press("End");
    await page
      .locator("#detail h3")
      .filter({ hasText: `prompt ${completions / 8 - 1}` })
      .waitFor();
    console.log(`the last of them: shown after ${(performance.now() - end).toFixed(0)} ms`);
    server.close();
  } finally {
    await browser.close();
    rmSync(work, { recursive: true, force: true });
  }
}

type Viewer = (typeof viewers)[number];

/** Follows a page as a browser on another machine does: the server answers the same requests, nothing is drawn here. */
async function readPage(url: string): Promise<void> {
  const events = (await fetch(`${url}api/events`)).body!;
  let text = "";
  let isBegun = false;
  for await (const bytes of events) {
    text = (text + new TextDecoder().decode(bytes)).slice(-65_536);
    // Later rows come with the events.
    if (isBegun || !/"rows":\{"steps":[1-9]/.test(text)) continue;
    isBegun = true;
    const { names } = (await (await fetch(`${url}api/names?run=0&table=steps`)).json()) as { names: string[] };
    const query = new URLSearchParams({ run: "0", table: "steps", from: "0" });
    for (const name of names) query.append("name", name);
    await (await fetch(`${url}api/columns?${query}`)).arrayBuffer();
  }
}

/** Seconds of the steps of a run, the first few left out: the browser opens the page while they go by. */
async function trainOnce(
  folder: string,
  flags: readonly string[],
  skip: number,
  viewer: Viewer | null,
): Promise<number> {
  const browser = viewer === "here" ? await openBrowser() : null;
  const page = viewer === null ? [] : ["--dashboard", "0"];
  const child = Bun.spawn([process.execPath, "src/cli/main.ts", "train", ...flags, "--output_dir", folder, ...page], {
    cwd: root,
    stdout: "pipe",
  });
  let out = "";
  let reading: Promise<void> | null = null;
  for await (const bytes of child.stdout) {
    out += new TextDecoder().decode(bytes);
    const url = /^page: (\S+)$/m.exec(out)?.[1];
    if (url === undefined || reading !== null) continue;
    if (viewer === "elsewhere") reading = readPage(url);
    if (browser === null) continue;
    const { page: watched } = await openPage(browser);
    reading = watched.goto(url).then(() => {});
  }
  if ((await child.exited) !== 0) throw new Error(`the run failed:\n${out}`);
  await reading;
  await browser?.close();
  const lines = (await Bun.file(join(folder, "metrics.jsonl")).text()).trimEnd().split("\n");
  const times = lines.map((line) => JSON.parse(line).step_time).filter((time) => typeof time === "number");
  return times.slice(skip).reduce((a: number, b: number) => a + b, 0);
}

async function measureTraining(rounds: number, viewers: readonly Viewer[]): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), "grpo-page-"));
  try {
    const [steps, skip] = [flag("steps", 60), flag("skip", 10)];
    const at = process.argv.indexOf("--");
    const own = at < 0 ? [] : process.argv.slice(at + 1);
    const flags = ["--device", "cpu", "--max_steps", `${steps}`, "--eval_samples", "1", ...own];
    console.log(
      `${cpus()[0]?.model}, ${cpus().length} cores; ${steps - skip} steps a run; the page is seen by: ${viewers.join(", ")}`,
    );
    const ratios = new Map<Viewer, number[]>(viewers.map((viewer) => [viewer, []]));
    const kinds: readonly (Viewer | null)[] = [null, ...viewers];
    for (let i = 0; i < rounds; i++) {
      // The order changes from round to round, so that a machine that becomes slower costs all the same.
      const order = i % 2 === 0 ? kinds : kinds.toReversed();
      const seconds = new Map<Viewer | null, number>();
      for (const each of order) seconds.set(each, await trainOnce(join(work, `${i}-${each}`), flags, skip, each));
      const without = seconds.get(null)!;
      const found = viewers.map((viewer) => {
        const ratio = seconds.get(viewer)! / without;
        ratios.get(viewer)!.push(ratio);
        return `${viewer} ${seconds.get(viewer)!.toFixed(2)} s: ${ratio.toFixed(3)}`;
      });
      console.log(`without ${without.toFixed(2)} s; with the page: ${found.join(", ")}`);
    }
    for (const [viewer, all] of ratios)
      console.log(`${viewer}: median ratio of ${rounds} pairs: ${median(all).toFixed(3)}`);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

if (withoutChromium !== null) {
  console.error(withoutChromium);
  process.exit(1);
}
const viewers = ["nobody", "elsewhere", "here"] as const;
const named = /^--viewer=(.*)$/m.exec(process.argv.join("\n"))?.[1]?.split(",") ?? ["here"];
const pairs = flag("training", 0);
if (pairs > 0)
  await measureTraining(
    pairs,
    viewers.filter((name) => named.includes(name)),
  );
else await measurePage(flag("steps", 100_000), flag("completions", 10_000));
