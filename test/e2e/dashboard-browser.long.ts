/**
 * The page in a real browser: it is drawn, follows a run, is driven by keys alone, passes axe's rules in both colour schemes and
 * at a phone's width, shows text of a model as text, and tells other origins nothing.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, mkdirSync, readFileSync, realpathSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { bundlePage, type PageFiles } from "../../src/dashboard/bundle.ts";
import { viewRun } from "../../src/dashboard/run-view.ts";
import { type PageServer, startServer } from "../../src/dashboard/server.ts";
import { completionLine, evaluationLine, makeGeneration, makeRun, metricsLine } from "../fixtures/made-run.ts";
import { openBrowser, openPage, type Watched, withoutChromium } from "../page/chromium.ts";
import { root, workFolder } from "./runs.ts";

setDefaultTimeout(120_000);
if (withoutChromium !== null) console.warn(`note: the page is not tried in a browser: ${withoutChromium}`);

const work = workFolder();
const servers: PageServer[] = [];
let browser: Browser;
let files: PageFiles;

beforeAll(async () => {
  if (withoutChromium !== null) return;
  browser = await openBrowser();
  files = await bundlePage();
});
afterAll(async () => {
  await browser?.close();
  for (const server of servers) server.close();
  work.remove();
});

function serve(folders: readonly string[], host = "localhost", status: "running" | "unknown" = "running"): PageServer {
  const runs = folders.map((folder, i) => viewRun(folder, i));
  const server = startServer({ runs, files, host, port: 0, status });
  servers.push(server);
  return server;
}

function made(name: string, options: Partial<Parameters<typeof makeRun>[1]> = {}): string {
  const folder = work.at(name);
  mkdirSync(folder);
  const path = realpathSync(folder);
  makeRun(path, { steps: 60, totalSteps: 100, generations: [1, 30, 60], ...options });
  return path;
}

async function opened(url: string, options: Parameters<typeof openPage>[1] = {}): Promise<Watched> {
  const watched = await openPage(browser, options);
  await watched.page.goto(url);
  await watched.page.waitForSelector("#chart-reward .value");
  await becomes(watched.page, "document.querySelectorAll('.plot canvas').length > 1");
  return watched;
}

const text = (page: Page, selector: string) =>
  page
    .locator(selector)
    .first()
    .textContent()
    .then((found) => found ?? "");
/** Waits until something shows a text. */
const shows = (page: Page, selector: string, expected: string | RegExp) =>
  page.locator(selector).filter({ hasText: expected }).first().waitFor({ timeout: 20_000 });
/** Waits until an expression is true there; Playwright's own waiting evaluates text in the page, which its policy forbids. */
async function becomes(page: Page, expression: string): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!(await page.evaluate<boolean>(expression))) {
    if (performance.now() > deadline) throw new Error(`waited in vain: ${expression}`);
    await Bun.sleep(20);
  }
}
const press = async (page: Page, ...keys: string[]) => {
  for (const key of keys) await page.keyboard.press(key);
};

/** How many of a chart's pixels are drawn. */
const drawnPixels = (page: Page, chart: string): Promise<number> =>
  page.evaluate(`(() => {
    const canvas = document.querySelector("#chart-${chart} canvas:not(.swatch)");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 3; i < data.length; i += 4) if (data[i] > 0) count++;
    return count;
  })()`);

describe.skipIf(withoutChromium !== null)("the page", () => {
  test("draws every chart, and what it says is what the run wrote", async () => {
    const folder = made("drawn");
    const { page, complaints } = await opened(serve([folder]).url);
    const ids = "reward rewards accuracy kl entropy lengths gradient clip shares loss speed phases memory".split(" ");
    for (const id of ids) {
      await page.locator(`#chart-${id}`).scrollIntoViewIfNeeded();
      await page.waitForSelector(`#chart-${id} .plot canvas`);
      expect({ id, drawn: (await drawnPixels(page, id)) > 300 }).toEqual({ id, drawn: true });
    }
    const last = JSON.parse(metricsLine(60, 60));
    expect(await text(page, "#chart-reward .value")).toBe(last.reward.toFixed(4));
    expect(await text(page, "#run-progress")).toContain("step 60 of 100");
    expect(await page.title()).toBe("60/100 · drawn · grpo");
    await page.locator("#other-charts summary").click();
    await page.waitForSelector("#chart-other-num_tokens canvas");
    expect(complaints).toEqual([]);
    await page.close();
  });

  test("follows the run: steps, evaluations, phases, remarks, completions; a cut run; the end", async () => {
    const folder = made("live");
    const server = serve([folder]);
    const { page, complaints } = await opened(server.url);
    server.progress({ step: 61, steps: 100, phase: "rollout", done: 5, total: 9 });
    await shows(page, "#run-progress", "rollout 5/9");
    server.note("step 61: a remark <b>in plain text</b>");
    await shows(page, "#tab-notes", "Notes");
    appendFileSync(join(folder, "metrics.jsonl"), `${metricsLine(61, 60)}\n${metricsLine(62, 60).slice(0, 40)}`);
    await shows(page, "#run-progress", "step 61 of 100");
    appendFileSync(join(folder, "metrics.jsonl"), `${metricsLine(62, 60).slice(40)}\n${evaluationLine(62, 62)}\n`);
    await shows(page, "#run-progress", "step 62 of 100");
    await shows(page, "#chart-reward .value", JSON.parse(metricsLine(62, 60)).reward.toFixed(4));
    await page.locator("#tab-completions").click();
    await shows(page, "#generation-text", "step 60");
    makeGeneration(folder, 61, 2, 4);
    await shows(page, "#generation-text", "step 61");
    await shows(page, "#completions-summary", "8 completions of 2 prompts");
    truncateSync(join(folder, "metrics.jsonl"), 0);
    appendFileSync(join(folder, "metrics.jsonl"), `${metricsLine(1, 60)}\n`);
    await shows(page, "#run-progress", "step 1 of 100");
    await page.locator("#tab-notes").click();
    await shows(page, "#notes li", "a remark <b>in plain text</b>");
    expect(await page.locator("#notes b").count()).toBe(0);
    await server.end();
    await shows(page, "#status-text", "ended");
    expect(complaints).toEqual([]);
    await page.close();
  });

  test("follows a run with one picture for each report, without asking, and rests in between", async () => {
    const folder = made("followed", { steps: 200, totalSteps: 1000 });
    const server = serve([folder]);
    const { page, complaints } = await openPage(browser);
    // Counts how often each chart is drawn.
    await page.addInitScript(`{
      window.drawn = {};
      const clear = CanvasRenderingContext2D.prototype.clearRect;
      CanvasRenderingContext2D.prototype.clearRect = function (...all) {
        const chart = this.canvas.closest?.(".grid .card")?.id;
        if (chart) window.drawn[chart] = (window.drawn[chart] ?? 0) + 1;
        return clear.apply(this, all);
      };
    }`);
    await page.goto(server.url);
    await shows(page, "#run-progress", "step 200 of 1,000");
    await page.waitForSelector("#chart-kl .plot canvas");
    await page.waitForTimeout(1000);
    const requests: string[] = [];
    page.on("request", (request) => requests.push(new URL(request.url()).pathname));
    const drawn = () => page.evaluate<Record<string, number>>("window.drawn");
    const client = await page.context().newCDPSession(page);
    await client.send("Performance.enable");
    const layouts = async (): Promise<number> => {
      const { metrics } = await client.send("Performance.getMetrics");
      return metrics.find(({ name }) => name === "LayoutCount")!.value;
    };

    const [before, resting] = [await drawn(), await layouts()];
    await page.waitForTimeout(3000);
    expect([await drawn(), await layouts()]).toEqual([before, resting]);

    const last = JSON.parse(metricsLine(201, 1000));
    const written = performance.now();
    appendFileSync(join(folder, "metrics.jsonl"), `${metricsLine(201, 1000)}\n`);
    await shows(page, "#chart-reward .value", last.reward.toFixed(4));
    expect(performance.now() - written).toBeLessThan(5000);
    await page.waitForTimeout(500);
    const after = await drawn();
    const onScreen = await page.evaluate<string[]>(
      "[...document.querySelectorAll('.grid .card')].filter((card) => card.getBoundingClientRect().top < innerHeight).map(({ id }) => id)",
    );
    expect(onScreen.length).toBeGreaterThan(5);
    for (const id of Object.keys(before))
      expect({ id, times: after[id]! - before[id]! }).toEqual({ id, times: onScreen.includes(id) ? 1 : 0 });
    expect(requests).toEqual([]);

    // Nobody looks: nothing is asked, and all is there when somebody does.
    await page.locator("#tab-completions").click();
    await shows(page, "#generation-text", "step 60");
    await page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })");
    requests.length = 0;
    makeGeneration(folder, 201, 2, 4);
    appendFileSync(join(folder, "metrics.jsonl"), `${metricsLine(202, 1000)}\n`);
    await shows(page, "#run-progress", "step 202 of 1,000");
    expect(requests).toEqual([]);
    await page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))");
    await shows(page, "#generation-text", "step 201");
    expect(complaints).toEqual([]);
    await page.close();
  });

  test("is driven by keys alone", async () => {
    const { page, complaints } = await opened(serve([made("keys", { steps: 3000, totalSteps: 3000 })]).url);
    const focused = () => page.evaluate<string>("document.activeElement.id || document.activeElement.className");
    await press(page, "Tab");
    expect(await focused()).toBe("skip");
    await press(page, "Tab", "Tab", "Tab");
    expect(await focused()).toBe("tab-charts");
    // A chart: values, moving, zooming.
    for (let i = 0; i < 40 && !(await focused()).includes("plot"); i++) await press(page, "Tab");
    expect(await focused()).toContain("plot");
    await press(page, "End");
    await shows(page, "#live", /^steps [\d,]+ – [\d,]+: training/);
    const before = await text(page, "#live");
    await press(page, "ArrowLeft");
    await becomes(page, `document.querySelector("#live").textContent !== ${JSON.stringify(before)}`);
    expect(await text(page, "#range")).toBe("steps 0 – 3,000");
    await press(page, "+");
    await shows(page, "#range", "steps 750 – 2,250");
    await press(page, "Shift+ArrowRight");
    await shows(page, "#range", "steps 1,125 – 2,625");
    await press(page, "-", "0");
    await shows(page, "#range", "steps 0 – 3,000");
    // Tabs by arrows, then completions: list, filters, generations, tokens.
    await page.locator("#tab-charts").focus();
    await press(page, "ArrowRight");
    expect(await focused()).toBe("tab-completions");
    await shows(page, "#detail h3", "completion 1 of 8");
    await page.locator(".virtual").focus();
    await press(page, "ArrowDown");
    await shows(page, "#detail h3", "completion 2 of 8");
    expect(await page.locator(".virtual").getAttribute("aria-activedescendant")).toBe("row-2");
    await press(page, "End");
    await shows(page, "#detail h3", "prompt 3 · completion 8 of 8");
    await press(page, "f");
    await shows(page, "#filters [aria-pressed=true]", "wrong");
    await press(page, "[");
    await shows(page, "#detail h3", "Step 30 ·");
    await page.locator(".tokens").focus();
    await press(page, "ArrowRight", "ArrowRight");
    await shows(page, ".readout", /token 2: .* logprob .* entropy .* ratio .* advantage/);
    // Help.
    await page.locator("#tab-completions").focus();
    await press(page, "?");
    expect(await page.locator("#help").isVisible()).toBe(true);
    await press(page, "Escape");
    expect(await page.locator("#help").isVisible()).toBe(false);
    await press(page, "1");
    expect(await page.locator("#panel-charts").isVisible()).toBe(true);
    expect(complaints).toEqual([]);
    await page.close();
  });

  test("dragging zooms all charts, double click shows everything", async () => {
    const { page, complaints } = await opened(serve([made("mouse", { steps: 500 })]).url);
    const over = await page.locator("#chart-reward .u-over").boundingBox();
    const [x, y] = [over!.x, over!.y + over!.height / 2];
    await page.mouse.move(x + over!.width * 0.25, y);
    await page.mouse.down();
    await page.mouse.move(x + over!.width * 0.5, y, { steps: 4 });
    await page.mouse.up();
    await shows(page, "#range", /steps 12\d – 2(49|50)/);
    await page.keyboard.down("Shift");
    await page.mouse.down();
    await page.mouse.move(x + over!.width * 0.4, y, { steps: 4 });
    await page.mouse.up();
    await page.keyboard.up("Shift");
    await shows(page, "#range", /steps 13\d – 2[67]\d|steps 1[45]\d – 2[678]\d/);
    await page.mouse.dblclick(x + over!.width / 2, y);
    await shows(page, "#range", "steps 0 – 500");
    expect(complaints).toEqual([]);
    await page.close();
  });

  const axe = readFileSync(join(root, "node_modules/axe-core/axe.min.js"), "utf8");
  for (const scheme of ["light", "dark"] as const)
    for (const width of [1360, 390])
      test(`passes axe's rules: ${scheme}, ${width} pixels wide`, async () => {
        const folders = [made(`axe-${scheme}-${width}`, { seed: 2 })];
        const { page, complaints } = await opened(serve(folders).url, { scheme, width, height: 800 });
        for (const tab of ["charts", "completions", "memory", "settings"]) {
          await page.locator(`#tab-${tab}`).click();
          await page.waitForTimeout(400);
          if (tab === "completions") await page.waitForSelector("#detail .token");
          const wide = await page.evaluate<number>("document.documentElement.scrollWidth - innerWidth");
          expect({ tab, wide: Math.max(0, wide) }).toEqual({ tab, wide: 0 });
          // Past the page's own policy, as a debugger: it forbids scripts that are not the page's.
          const found = await page.evaluate<{ id: string; nodes: { html: string; failureSummary: string }[] }[]>(
            `(async () => { ${axe}; return (await axe.run(document, { resultTypes: ["violations"] })).violations; })()`,
          );
          const violations = found.map(({ id, nodes }) => `${id}: ${nodes[0]!.html} ${nodes[0]!.failureSummary}`);
          expect({ tab, violations }).toEqual({ tab, violations: [] });
        }
        expect(complaints).toEqual([]);
        await page.close();
      });

  test("compares runs: each has its colour, can be left out, and settings that differ are marked", async () => {
    const folders = [made("a"), made("b", { seed: 3, settings: { learning_rate: 5e-6 } })];
    const { page, complaints } = await opened(serve(folders, "localhost", "unknown").url);
    await shows(page, "#chart-kl .legend", /a.*b/s);
    expect(await page.locator("#chart-kl .legend li").count()).toBe(2);
    await page.locator(".run-box", { hasText: "a" }).first().click();
    await becomes(page, "document.querySelectorAll('#chart-kl .legend li').length === 1");
    await page.locator("#tab-settings").click();
    await page.locator("#settings-different").check();
    expect(await page.locator("#settings-table tbody tr").count()).toBe(1);
    await shows(page, "#settings-table", "learning_rate");
    await page.locator("#tab-completions").click();
    await page.locator("#completions-run").selectOption("1");
    await shows(page, "#completions-summary", "32 completions of 4 prompts");
    expect(complaints).toEqual([]);
    await page.close();
  });

  test("what a model writes stays text; its formulas become MathML without links or pictures", async () => {
    const folder = made("hostile", { generations: [] });
    const evil =
      '<img src=x onerror="window.hit=1"><script>window.hit=1</script> \\(\\href{javascript:window.hit=1}{x}\\) $\\includegraphics{/x.png}$ \\(\\frac{1}{2}\\) \\(\\frac{\\)';
    const line = {
      ...JSON.parse(completionLine(0, 0)),
      completion: evil,
      prompt: evil,
      extra: { "<b>": evil },
      details: {},
    };
    writeFileSync(join(folder, "completions/step-000001.jsonl"), `${JSON.stringify(line)}\n`);
    const { page, complaints } = await opened(serve([folder]).url);
    await page.locator("#tab-completions").click();
    await page.waitForSelector("#detail math mfrac");
    await page.waitForTimeout(300);
    expect(await page.evaluate("window.hit")).toBeUndefined();
    expect(await page.locator("#detail img, #detail script, #detail a, #list img, #detail b").count()).toBe(0);
    expect(await text(page, "#detail .box")).toContain('<img src=x onerror="window.hit=1">');
    expect(complaints).toEqual([]);
    await page.close();
  });

  test("10,000 completions: few rows exist, and the last is reached at once", async () => {
    const folder = made("many", { generations: [] });
    makeGeneration(folder, 1, 1250, 8);
    const { page, complaints } = await opened(serve([folder]).url);
    await page.locator("#tab-completions").click();
    await shows(page, "#completions-summary", "10,000 completions of 1,250 prompts");
    await page.locator(".virtual").focus();
    await press(page, "End");
    await shows(page, "#detail h3", "prompt 1249 · completion 8 of 8");
    expect(await page.locator(".row").count()).toBeLessThan(60);
    const longest = await page.evaluate<number>(`new Promise((resolve) => {
      const list = document.querySelector(".virtual");
      let [last, longest, count] = [performance.now(), 0, 0];
      const frame = () => {
        const now = performance.now();
        longest = Math.max(longest, now - last);
        last = now;
        list.scrollTop = (list.scrollHeight * count++) / 60;
        if (count > 60) resolve(longest);
        else requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    })`);
    expect(longest).toBeLessThan(500);
    expect(complaints).toEqual([]);
    await page.close();
  });
});

describe.skipIf(withoutChromium !== null)("other origins", () => {
  test("cannot read, embed, script or talk to the page", async () => {
    const server = serve([made("target")]);
    const target = server.url;
    const stranger = Bun.serve({
      ...{ hostname: "127.0.0.1", port: 0 },
      fetch: () => new Response("<!doctype html><title>stranger</title>", { headers: { "content-type": "text/html" } }),
    });
    const { page } = await openPage(browser);
    await page.goto(`http://127.0.0.1:${stranger.port}/`);
    const outcome = await page.evaluate<Record<string, unknown>>(`(async () => {
      const url = ${JSON.stringify(target)};
      const tried = {};
      const attempt = async (name, act) => {
        try { tried[name] = await act(); } catch (error) { tried[name] = "refused"; }
      };
      await attempt("fetch", async () => (await fetch(url + "api/runs")).text());
      await attempt("no-cors", async () => { await fetch(url + "api/runs", { mode: "no-cors" }); return "opaque"; });
      await attempt("events", () => new Promise((resolve, reject) => {
        const source = new EventSource(url + "api/events");
        source.onmessage = source.onopen = () => resolve("open");
        source.onerror = () => { source.close(); reject(); };
      }));
      await attempt("script", () => new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.onload = () => resolve("loaded");
        script.onerror = reject;
        script.src = url + "api/runs";
        document.body.append(script);
      }));
      const frame = document.createElement("iframe");
      frame.src = url;
      document.body.append(frame);
      await new Promise((resolve) => setTimeout(resolve, 800));
      tried.frame = frame.contentDocument === null ? "foreign" : frame.contentDocument.title || "blank";
      tried.frames = frame.contentWindow.length;
      return tried;
    })()`);
    expect(outcome).toMatchObject({ fetch: "refused", events: "refused", script: "refused" });
    expect(outcome["no-cors"]).not.toBe("[object Object]");
    expect(
      page
        .frames()
        .find((frame) => frame.url().startsWith(target))
        ?.childFrames() ?? [],
    ).toEqual([]);
    const framed = page.frames().find((frame) => frame !== page.mainFrame());
    expect(await framed!.evaluate<number>("document.querySelectorAll('#run-name').length").catch(() => 0)).toBe(0);

    // A message to the page, opened as a window: nothing listens.
    const { page: own, complaints } = await opened(target);
    const content = () => own.locator("main").innerHTML();
    let before = "";
    // Charts are drawn one after the other.
    for (let now = await content(); now !== before; now = await content()) {
      before = now;
      await own.waitForTimeout(500);
    }
    await own.evaluate("window.postMessage({ type: 'state', runs: [] }, '*')");
    await own.waitForTimeout(300);
    expect(await content()).toBe(before);
    expect(complaints).toEqual([]);
    stranger.stop(true);
    await page.close();
    await own.close();
  });

  test("on all interfaces, the token in the address opens the page, leaves the address, and stays as a cookie", async () => {
    const server = serve([made("token")], "0.0.0.0");
    const address = `http://127.0.0.1:${server.port}/`;
    const { page: without } = await openPage(browser);
    expect((await without.goto(address))?.status()).toBe(401);
    await without.close();
    const { page, complaints } = await opened(`${address}?token=${server.token}`);
    expect(page.url()).toBe(`${address}#charts`);
    await page.goto(address);
    await page.waitForSelector("#chart-reward .value");
    expect(complaints).toEqual([]);
    await page.close();
  });
});
