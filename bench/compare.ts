/**
 * `grpo bench SUITE --compare REV`: the working tree and another revision in turn, each in processes of its own, the order
 * reversed every time (ABBA). REV is checked out into a temporary folder, which is removed afterwards, however the run ends.
 */
import { cpSync, existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assetPath } from "../src/assets.ts";
import { InputError, RunError } from "../src/errors.ts";
import { compiled } from "../src/program.ts";
import { digits, type Figure } from "./figures.ts";
import { type BenchFlags, patternOf } from "./flags.ts";
import { median } from "./measure.ts";
import { note } from "./open.ts";

export interface ComparedFigure {
  readonly name: string;
  readonly unit: string;
  /** In the order of the runs. */
  readonly before: readonly number[];
  readonly now: readonly number[];
  /** How many times better the working tree is, by the runs side by side: above 1 it is faster, or smaller. */
  readonly ratio: { readonly median: number; readonly low: number; readonly high: number };
}

export interface Comparison {
  readonly suite: string;
  readonly revision: string;
  readonly commit: string;
  readonly pairs: number;
  /** REV has no such suite: both were measured by the working tree's. */
  readonly ownBench: boolean;
  readonly figures: readonly ComparedFigure[];
}

/** The figures of a suite's JSON; a report of `ops` has times by op. Null: neither. */
export function figuresOf(report: unknown): Pick<Figure, "name" | "value" | "unit" | "better">[] | null {
  const { figures, results } = (report ?? {}) as { figures?: Figure[]; results?: OpTime[] };
  if (Array.isArray(figures)) return figures;
  if (!Array.isArray(results)) return null;
  return results.map(({ op, sizes, dtype, milliseconds }) => ({
    ...{ name: `${op} ${sizes} ${dtype}`, value: milliseconds, unit: "ms", better: "less" },
  }));
}

interface OpTime {
  readonly op: string;
  readonly sizes: string;
  readonly dtype: string;
  readonly milliseconds: number;
}

/** Ratios of runs side by side, for the figures that both have. */
export function compareRuns(before: readonly unknown[], now: readonly unknown[], pattern: RegExp): ComparedFigure[] {
  const [old, own] = [before, now].map((runs) => runs.map((report) => figuresOf(report) ?? []));
  return own![0]!.flatMap(({ name, unit, better }): ComparedFigure[] => {
    const values = (runs: typeof own) =>
      runs!.flatMap((run) => run.find((figure) => figure.name === name)?.value ?? []);
    const [a, b] = [values(old), values(own)];
    if (!pattern.test(name) || a.length !== before.length || b.length !== now.length) return [];
    const ratios = b.map((value, i) => (better === "more" ? value / a[i]! : a[i]! / value));
    const ratio = { median: median(ratios), low: Math.min(...ratios), high: Math.max(...ratios) };
    return [{ name, unit, before: a, now: b, ratio }];
  });
}

/** The order of `pairs` runs of each: A B, B A, A B, … */
export function turns(pairs: number): ("before" | "now")[] {
  return Array.from(
    { length: pairs },
    (_, i) => (i % 2 === 0 ? ["before", "now"] : ["now", "before"]) as ("before" | "now")[],
  ).flat();
}

function git(root: string, ...words: string[]): string | null {
  const { success, stdout } = Bun.spawnSync(["git", "-C", root, ...words], { stderr: "ignore" });
  return success ? stdout.toString().trim() : null;
}

/** The commit of a revision. @throws InputError if this is no git checkout, or it has no such revision */
export function commitNamed(root: string, revision: string): string {
  if (compiled) throw new InputError("--compare: needs a checkout of the sources; this is the executable");
  if (!Bun.which("git")) throw new InputError("--compare: needs git, which is not on PATH; install it");
  const top = git(root, "rev-parse", "--show-toplevel");
  if (top === null || realpathSync(top) !== realpathSync(root))
    throw new InputError(`--compare: ${root} is not a git checkout; clone the repository, and compare there`);
  const commit = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", `${revision}^{commit}`);
  if (commit === null)
    throw new InputError(
      `--compare ${revision}: git knows no such revision in ${root}; see git log, or fetch it first`,
    );
  return commit;
}

/** A revision in a folder of its own, able to run. */
interface Tree {
  readonly folder: string;
  remove(): void;
}

function checkOut(root: string, commit: string): Tree {
  const parent = mkdtempSync(join(tmpdir(), "grpo-compare-"));
  const folder = join(parent, "tree");
  const remove = () => {
    git(root, "worktree", "remove", "--force", folder);
    rmSync(parent, { recursive: true, force: true });
    git(root, "worktree", "prune");
  };
  try {
    const made = Bun.spawnSync(["git", "-C", root, "worktree", "add", "--detach", "--quiet", folder, commit]);
    if (!made.success)
      throw new RunError(`--compare: git cannot check out ${commit}: ${made.stderr.toString().trim()}`);
    const lock = (of: string) => readFileSync(join(of, "bun.lock"), "utf8");
    if (existsSync(join(root, "node_modules")) && lock(root) === lock(folder))
      symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
    else install(folder);
    return { folder, remove };
  } catch (error) {
    remove();
    throw error;
  }
}

function install(folder: string): void {
  const { success, stderr } = Bun.spawnSync([process.execPath, "install", "--frozen-lockfile", "--silent"], {
    cwd: folder,
  });
  if (!success)
    throw new RunError(`--compare: the packages of that revision cannot be installed: ${stderr.toString().trim()}`);
}

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs a program of a tree to its end; `running` holds it meanwhile. */
async function run(folder: string, words: readonly string[], running: Set<Bun.Subprocess>): Promise<Ended> {
  const child = Bun.spawn([process.execPath, ...words], { cwd: folder, stdout: "pipe", stderr: "pipe" });
  running.add(child);
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  running.delete(child);
  return { code: child.exitCode, out, err };
}

/** The report of a suite in a tree. @throws RunError with what the program said */
async function measured(folder: string, words: readonly string[], running: Set<Bun.Subprocess>): Promise<unknown> {
  const ended = await run(folder, words, running);
  if (ended.code !== 0)
    throw new RunError(`--compare: ${words.join(" ")} in ${folder} ended with ${ended.code}: ${ended.err.trim()}`);
  return JSON.parse(ended.out);
}

/** Suites that need no kernels. */
const withoutKernels = ["data", "verify", "roofline"];

/** @throws InputError for an unknown revision, RunError if either tree cannot run the suite */
export async function compare(
  suite: string,
  flags: Pick<BenchFlags, "compare" | "pairs" | "quick" | "filter" | "written">,
  line: (text: string) => void,
  root = assetPath("."),
  tell: (text: string) => void = note,
): Promise<Comparison> {
  const pattern = patternOf(flags.filter);
  const revision = flags.compare!;
  const commit = commitNamed(root, revision);
  const pairs = flags.pairs ?? (flags.quick ? 2 : 3);
  const words = ["src/cli/main.ts", "bench", suite, ...flags.written, "--json"];
  const running = new Set<Bun.Subprocess>();
  const tree = checkOut(root, commit);
  const stop = (signal: NodeJS.Signals) => {
    for (const child of running) child.kill("SIGKILL");
    tree.remove();
    process.exit(signal === "SIGINT" ? 130 : 143);
  };
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  try {
    if (!withoutKernels.includes(suite))
      for (const folder of [tree.folder, root]) {
        tell(`building the kernels of ${folder === root ? "the working tree" : revision}`);
        const built = await run(folder, ["ffi/cpu/build.ts"], running);
        if (built.code !== 0)
          throw new RunError(`--compare: kernels cannot be built in ${folder}: ${built.err.trim()}`);
      }
    // Untimed: code and data come into the system's cache, and REV may have no such suite.
    const first = await run(tree.folder, words, running);
    const ownBench = first.code !== 0 || figuresOf(JSON.parse(first.out)) === null;
    if (ownBench) {
      tell(`${revision} cannot measure ${suite} itself: both are measured by the working tree's bench`);
      rmSync(join(tree.folder, "bench"), { recursive: true });
      cpSync(join(root, "bench"), join(tree.folder, "bench"), { recursive: true });
    }
    const runs: Record<"before" | "now", unknown[]> = { before: [], now: [] };
    for (const [i, which] of turns(pairs).entries()) {
      tell(`run ${i + 1} of ${2 * pairs}: ${which === "now" ? "the working tree" : revision}`);
      runs[which].push(await measured(which === "now" ? root : tree.folder, words, running));
    }
    const figures = compareRuns(runs.before, runs.now, pattern);
    if (figures.length === 0) throw new RunError(`--compare: ${suite} gives no figure that both revisions have`);
    line(`${suite}: the working tree against ${revision} (${commit.slice(0, 12)}), ${pairs} runs of each in turn`);
    line(`  ${"".padEnd(60)} ${"before".padStart(10)} ${"now".padStart(10)} ${"times better (range)".padStart(30)}`);
    for (const figure of figures) line(comparedLine(figure));
    return { suite, revision, commit, pairs, ownBench, figures };
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
    tree.remove();
  }
}

export function comparedLine({ name, unit, before, now, ratio }: ComparedFigure): string {
  const range = `${ratio.median.toFixed(3)} (${ratio.low.toFixed(3)} to ${ratio.high.toFixed(3)})`;
  const value = (values: readonly number[]) => digits(median(values)).padStart(10);
  return `  ${name.padEnd(60)} ${value(before)} ${value(now)} ${unit.padEnd(9)} ${range.padStart(20)}`;
}
