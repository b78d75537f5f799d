/**
 * The pictures of docs/dashboard.md, from a run that was really made:
 *
 *   bun src/cli/main.ts train --max_steps 120 --eval_steps 10 --output_dir outputs/pictured --dashboard 0
 *   bun test/page/screenshots.ts outputs/pictured [outputs/other]   # the second is compared with the first
 *
 * PNG with a palette would need another program; a page of flat colours is small as it is.
 */
import { mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { bundlePage } from "../../src/dashboard/bundle.ts";
import { runsIn } from "../../src/dashboard/folders.ts";
import { viewRun } from "../../src/dashboard/run-view.ts";
import { startServer } from "../../src/dashboard/server.ts";
import { openBrowser, openPage, withoutChromium } from "./chromium.ts";

const images = join(import.meta.dir, "../../docs/images");

interface Picture {
  readonly name: string;
  readonly width: number;
  readonly height: number;
  readonly scheme: "light" | "dark";
  readonly runs: readonly string[];
  readonly prepare?: (page: Page) => Promise<void>;
}

const completions = async (page: Page): Promise<void> => {
  await page.locator("#tab-completions").click();
  await page.waitForSelector("#detail .token");
  await page.locator("#filters button", { hasText: "wrong" }).click();
  await page.waitForTimeout(300);
  await page.locator("#look").selectOption("entropy");
  await page.locator("#detail .token").nth(4).hover();
};

const pictures = (first: string, all: readonly string[]): readonly Picture[] => [
  { name: "charts-light", width: 1400, height: 1010, scheme: "light", runs: [first] },
  { name: "charts-dark", width: 1400, height: 1010, scheme: "dark", runs: [first] },
  { name: "completions", width: 1400, height: 900, scheme: "light", runs: [first], prepare: completions },
  {
    ...{ name: "memory", width: 1400, height: 620, scheme: "light", runs: [first] },
    prepare: (page) => page.locator("#tab-memory").click(),
  },
  { name: "phone", width: 390, height: 844, scheme: "dark", runs: [first] },
  ...(all.length > 1 ? [{ name: "compare", width: 1400, height: 1010, scheme: "light", runs: all } as const] : []),
];

async function take(browser: Browser, picture: Picture): Promise<void> {
  const { name, width, height, scheme, runs: folders, prepare } = picture;
  const runs = runsIn(folders).map((run, i) => viewRun(run.folder, i, run.name));
  const server = startServer({ runs, files: await bundlePage(), host: "localhost", port: 0, status: "unknown" });
  const { page, complaints } = await openPage(browser, { width, height, scheme });
  try {
    await page.goto(server.url);
    await page.waitForSelector("#chart-kl .plot canvas");
    await page.waitForTimeout(700);
    await prepare?.(page);
    await page.waitForTimeout(500);
    if (complaints.length > 0) throw new Error(complaints.join("\n"));
    const path = join(images, `${name}.png`);
    await page.screenshot({ path });
    console.log(`${path}: ${(statSync(path).size / 1e3).toFixed(0)} kB`);
  } finally {
    await page.close();
    server.close();
  }
}

const folders = process.argv.slice(2);
if (withoutChromium !== null || folders[0] === undefined) {
  console.error(withoutChromium ?? "usage: bun test/page/screenshots.ts DIR [DIR]");
  process.exit(1);
}
mkdirSync(images, { recursive: true });
const browser = await openBrowser();
try {
  for (const picture of pictures(folders[0], folders)) await take(browser, picture);
} finally {
  await browser.close();
}
