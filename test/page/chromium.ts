/**
 * A real browser for the tests and pictures of the page: Chromium of the system, driven by playwright-core, which downloads
 * none itself. `BUN_GRPO_CHROMIUM` names one that is not on PATH. Debian: apt-get install chromium.
 */
import { type Browser, chromium, type Page } from "playwright-core";

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/** The browser's path; null: there is none. */
export const chromiumPath: string | null =
  process.env.BUN_GRPO_CHROMIUM ?? names.map((name) => Bun.which(name)).find((path) => path !== null) ?? null;

/** Why tests in a browser are skipped; null: they are not. */
export const withoutChromium: string | null =
  chromiumPath === null
    ? "there is no Chromium here (BUN_GRPO_CHROMIUM names one; Debian: apt-get install chromium)"
    : null;

export function openBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: chromiumPath ?? "chromium",
    // In a container Chromium's own sandbox has no permission to be made; the pages opened here are ours.
    args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
  });
}

export interface Watched {
  readonly page: Page;
  /** What the console said that is no plain message, and what was thrown. */
  readonly complaints: string[];
}

export async function openPage(
  browser: Browser,
  options: {
    readonly width?: number;
    readonly height?: number;
    readonly scheme?: "light" | "dark";
    readonly scale?: number;
  } = {},
): Promise<Watched> {
  const { width = 1360, height = 900, scheme = "light", scale = 1 } = options;
  const page = await browser.newPage({
    ...{ viewport: { width, height }, colorScheme: scheme, deviceScaleFactor: scale },
  });
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning")
      complaints.push(`${message.type()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`thrown: ${error.stack ?? error.message}`));
  return { page, complaints };
}
