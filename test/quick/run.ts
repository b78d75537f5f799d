/**
 * `bun run test:quick`: finds most breakage in seconds. Types of the public API, the import table, numbers from other libraries
 * (transformers, TRL, torch) on tiny models, and a short run with recorded bytes. All run at once, to use two cores; failures
 * are shown in full. `bun run test` runs everything.
 */
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
const bun = [process.execPath];

const stages: Readonly<Record<string, readonly string[]>> = {
  types: [...bun, "--bun", "node_modules/.bin/tsc", "--noEmit", "-p", "test/quick/tsconfig.json"],
  imports: [...bun, "test", "test/unit/imports.test.ts"],
  golden: [...bun, "test", "test/unit/golden.test.ts", "-t", "score on|update on qwen2-bias"],
  bytes: [...bun, "test/e2e/recorded-bytes.ts", "quick"],
};

async function run(name: string, command: readonly string[]): Promise<boolean> {
  const started = performance.now();
  const child = Bun.spawn([...command], { cwd: root, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const texts = [child.stdout, child.stderr].map((stream) => new Response(stream).text());
  const [out, err, status] = await Promise.all([...texts, child.exited]);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const noted = /^note: .*$/m.exec(out as string)?.[0];
  console.log(`${status === 0 ? "ok    " : "FAILED"}  ${name.padEnd(8)} ${seconds} s${noted ? `  ${noted}` : ""}`);
  if (status !== 0) console.log(`${out}${err}`);
  return status === 0;
}

const passed = await Promise.all(Object.entries(stages).map(([name, command]) => run(name, command)));
process.exit(passed.every(Boolean) ? 0 : 1);
