/**
 * The stages of check:gpu that are files of test/. Bun runs them from sources: those of a checkout, or those beside the
 * executable. Reads the output of `bun test`, and runs memcheck on a test that lost the GPU's context.
 */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { assetPath } from "../src/assets.ts";
import { compiled } from "../src/program.ts";
import { runBounded } from "./bounded-process.ts";
import { MOST_REPEATED, memcheckFindings, quoted } from "./op-stage.ts";
import type { Stage } from "./stages.ts";

/** Appended to the reason of a case after which its process could run no other. */
export const CONTEXT_LOST = "(the GPU's context went with it)";

const asBun = { BUN_BE_BUN: "1" };

/** The folder of the sources; null for an executable with none in its own folder or the working folder. */
export function testsFolder(): string | null {
  if (!compiled) return assetPath(".");
  const places = [dirname(process.execPath), process.cwd()];
  return places.find((folder) => existsSync(join(folder, "test/ops/cuda.test.ts"))) ?? null;
}

/** The command that runs test files, and its environment: the executable acts as Bun when asked to. */
export function testCommand(
  files: readonly string[],
  seconds: number,
): { readonly command: readonly string[]; readonly env: Readonly<Record<string, string>> } {
  const paths = files.map((file) => `./test/${file}`);
  return {
    command: [process.execPath, "test", "--timeout", String(seconds * 1000), ...paths],
    env: compiled || process.env.BUN_BE_BUN ? asBun : {},
  };
}

/** "12 passed, 0 failed", if the text ends as that of `bun test` does. */
export function testCounts(text: string): string | null {
  const counts = /(\d+) pass\n(?: +\d+ (?:skip|filtered out)\n)* +(\d+) fail/.exec(text);
  return counts && `${counts[1]} passed, ${counts[2]} failed`;
}

/** The failed tests, each once, with the reason. */
export function testFailures(text: string): Map<string, string> {
  const lines = text.split("\n");
  const failures = new Map<string, string>();
  for (const [i, line] of lines.entries()) {
    const [, name = null] = /^\(fail\) (.*?)( \[[\d.]+m?s\])?$/.exec(line) ?? [];
    if (name === null || failures.has(name)) continue;
    const before = lines.slice(0, i);
    const from = Math.max(
      0,
      before.findLastIndex((other) => /^\((pass|fail|skip)\) /.test(other)),
    );
    failures.set(name, before.slice(from).find((other) => /^error: /.test(other)) ?? "error: no reason was printed");
  }
  return failures;
}

export interface TestContext {
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly log: string;
  readonly sanitizer: string | null;
}

/** The failures of a stage of tests: the command that runs each alone and, for a lost context, memcheck's findings. */
export async function explainTests(stage: Stage, text: string, context: TestContext): Promise<string[]> {
  const { cwd, env, log, sanitizer } = context;
  const { command, env: asBun } = testCommand(stage.tests ?? [], stage.testSeconds ?? 60);
  const told: string[] = [];
  let repeated = 0;
  for (const [name, reason] of testFailures(text)) {
    const lines = [`${name}: ${reason}`];
    const settings = stage.alone?.(name);
    const chosen = settings ? command : [...command, "-t", patternOf(name)];
    const alone = commandText({ ...asBun, ...stage.env, ...settings }, chosen);
    lines.push(`  alone: cd ${quoted(cwd)} && ${alone}`);
    if (settings && sanitizer && reason.includes(CONTEXT_LOST) && repeated < MOST_REPEATED) {
      repeated++;
      const memcheck = `${log}.memcheck-${repeated}`;
      const watched = [sanitizer, "--tool", "memcheck", "--target-processes", "all", ...command];
      await runBounded({ command: watched, cwd, env: { ...env, ...settings }, seconds: 60, log: memcheck });
      lines.push(...memcheckFindings(readFileSync(memcheck, "utf8")), `  full output of memcheck: ${memcheck}`);
    }
    told.push(lines.join("\n"));
  }
  return told;
}

/** The pattern by which `bun test -t` finds a test, given its printed name: any character matches a non-word character. */
export function patternOf(name: string): string {
  return name.replaceAll(" > ", " ").replaceAll(/[^\w ]/g, ".");
}

/** Quoted for a shell. */
export function commandText(env: Readonly<Record<string, string>>, command: readonly string[]): string {
  return [...Object.entries(env).map(([key, value]) => `${key}=${quoted(value)}`), ...command.map(quoted)].join(" ");
}
