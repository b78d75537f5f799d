/**
 * `bun run test`: the whole suite in two parts, with one summary of both in the format of bun test. Ops, the emulated GPU and
 * the emulator are pure computation and run two files at a time; the rest measures time and starts programs, so it runs alone.
 * With arguments, it is `bun test` with them. `--long` runs what takes minutes and seldom fails alone, the files named
 * `*.long.ts` (with arguments: those); `.ci/run` runs both.
 */
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const limits = ["--timeout", "120000", "--max-concurrency", "2"];
const parts: readonly (readonly string[])[] = [
  ["test/unit", "test/e2e"],
  ["--parallel=2", "test/ops", "test/cuda", "test/emulator"],
];
/** bun test takes a file of any name by a path that starts with "./". Divided as the suite is: what measures time runs alone. */
function longParts(): string[][] {
  const files = [...new Bun.Glob("test/**/*.long.ts").scanSync(root)].sort().map((path) => `./${path}`);
  const alone = (file: string): boolean => parts[0]!.some((folder) => file.startsWith(`./${folder}/`));
  return [files.filter(alone), ["--parallel=2", ...files.filter((file) => !alone(file))]];
}
const kinds = ["pass", "skip", "todo", "fail", "error"] as const;
type Counts = Record<(typeof kinds)[number] | "files", number>;

/** The counts in bun test's last lines; a run that ended halfway prints none, and is a failure whatever its status. */
export function countsOf(output: string, status: number): Counts {
  const text = Bun.stripANSI(output);
  const last = (pattern: RegExp): number => Number([...text.matchAll(pattern)].at(-1)?.[1] ?? 0);
  const counts = { files: last(/^Ran \d+ tests? across (\d+) files?/gm) } as Counts;
  for (const kind of kinds) counts[kind] = last(new RegExp(`^ *(\\d+) ${kind}s?$`, "gm"));
  const ended = counts.files > 0 && counts.pass > 0;
  if (counts.fail + counts.error === 0 && (status !== 0 || !ended)) counts.fail = 1;
  return counts;
}

/** Runs bun test, shows its output as it comes, and keeps it. */
async function run(args: readonly string[]): Promise<Counts> {
  const child = Bun.spawn([process.execPath, "test", ...limits, ...args], {
    cwd: root,
    env: { ...process.env, ...(process.stdout.isTTY ? { FORCE_COLOR: "1" } : {}) },
    stdout: "pipe",
    stderr: "pipe",
  });
  let output = "";
  const show = async (from: ReadableStream<Uint8Array>, to: NodeJS.WriteStream): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const bytes of from) {
      to.write(bytes);
      output += decoder.decode(bytes, { stream: true });
    }
  };
  await Promise.all([show(child.stdout, process.stdout), show(child.stderr, process.stderr)]);
  return countsOf(output, await child.exited);
}

if (import.meta.main) {
  const isLong = process.argv[2] === "--long";
  const given = process.argv.slice(isLong ? 3 : 2);
  const all = isLong ? longParts() : parts;
  const started = performance.now();
  const total: Counts = { pass: 0, skip: 0, todo: 0, fail: 0, error: 0, files: 0 };
  for (const part of given.length > 0 ? [given] : all) {
    const counts = await run(part);
    for (const key of [...kinds, "files"] as const) total[key] += counts[key];
  }
  if (given.length === 0) {
    const lines = kinds.filter((kind) => total[kind] > 0 || kind === "pass" || kind === "fail");
    const ran = total.pass + total.skip + total.todo + total.fail;
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    process.stderr.write(`\nBoth parts:\n${lines.map((kind) => ` ${total[kind]} ${kind}\n`).join("")}`);
    process.stderr.write(`Ran ${ran} tests across ${total.files} files. [${seconds}s]\n`);
  }
  process.exit(total.fail + total.error > 0 ? 1 : 0);
}
