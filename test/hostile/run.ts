/**
 * `bun run test:hostile`: thousands of damaged inputs through the program, each from its seed. Exit status 0 if every case
 * ended with correct numbers or with one line that names the file; else 1. Every failing case is reported with the command that
 * runs it again, and the steps it needs.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type CaseName, kindOf, type Verdict } from "./case.ts";
import { kinds } from "./kinds.ts";
import { createWorkers, type Workers } from "./workers.ts";

const usage = `Usage: bun run test:hostile [--cases N] [--seed S] [--only KIND] [--case I] [--workers N] [--verbose]

  --cases N    how many (default 1000), shared among the kinds
  --seed S     another seed, other cases (default 1)
  --only KIND  ${kinds.map(({ name }) => name).join(", ")}
  --case I     this one alone; needs --only
  --verbose    tells every case
`;

function numberOf(text: string | undefined, name: string): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,9}$/.test(text)) throw new Error(`--${name} ${text}: a whole number is needed`);
  return Number(text);
}

/** The cases of a run: all kinds in turn, in proportion to their weights. */
export function casesOf(count: number, seed: number, only?: string, single?: number): CaseName[] {
  if (single !== undefined) {
    if (only === undefined) throw new Error("--case needs --only KIND");
    return [{ kind: kindOf(only).name, seed, index: single }];
  }
  const turn = (only === undefined ? kinds : [kindOf(only)]).flatMap(({ name, weight = 1 }) =>
    Array<string>(only === undefined ? weight : 1).fill(name),
  );
  const next = new Map<string, number>();
  return Array.from({ length: count }, (_, i) => {
    const kind = turn[i % turn.length]!;
    const index = next.get(kind) ?? 0;
    next.set(kind, index + 1);
    return { kind, seed, index };
  });
}

/** The fewest steps with which the case still fails. */
async function reduced(workers: Workers, name: CaseName, outcome: Verdict): Promise<Verdict> {
  const { steps } = outcome;
  let kept = Array.from({ length: steps }, (_, i) => i);
  let last = outcome;
  for (const step of [...kept]) {
    if (kept.length < 2) break;
    const fewer = kept.filter((one) => one !== step);
    const again = await workers.run({ ...name, steps: fewer });
    if (again.problem === null) continue;
    kept = fewer;
    last = again;
  }
  return last;
}

async function run(): Promise<number> {
  const { values } = parseArgs({
    options: {
      ...{ cases: { type: "string" }, seed: { type: "string" }, only: { type: "string" }, case: { type: "string" } },
      ...{ workers: { type: "string" }, verbose: { type: "boolean" }, help: { type: "boolean", short: "h" } },
    },
  });
  if (values.help) {
    process.stdout.write(usage);
    return 0;
  }
  const seed = numberOf(values.seed, "seed") ?? 1;
  const names = casesOf(numberOf(values.cases, "cases") ?? 1000, seed, values.only, numberOf(values.case, "case"));
  const folder = mkdtempSync(join(tmpdir(), "bun-grpo-hostile-"));
  const count = Math.min(numberOf(values.workers, "workers") ?? Math.min(4, availableParallelism()), names.length);
  const workers = createWorkers(folder);
  const started = performance.now();
  let [passed, failed, refused] = [0, 0, 0];
  try {
    await workers.ready();
    let next = 0;
    const serve = async () => {
      for (let name = names[next++]; name !== undefined; name = names[next++]) {
        let outcome = await workers.run(name);
        if (outcome.problem === null) passed++;
        else {
          failed++;
          outcome = await reduced(workers, name, outcome);
        }
        if (outcome.code === 2) refused++;
        if (outcome.problem !== null || values.verbose) process.stdout.write(report(name, outcome));
      }
    };
    await Promise.all(Array.from({ length: count }, serve));
  } finally {
    workers.close();
    rmSync(folder, { recursive: true, force: true });
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  process.stdout.write(`${refused} refused by one line, ${passed - refused} answered; ${seconds} s, seed ${seed}\n`);
  process.stdout.write(`${passed} passed, ${failed} failed\n`);
  return failed === 0 ? 0 : 1;
}

function report({ kind, seed, index }: CaseName, { damage, problem, code, said }: Verdict): string {
  const repeat = `bun run test:hostile --seed ${seed} --only ${kind} --case ${index}`;
  const lines = [`${problem === null ? "pass" : "FAIL"} ${damage}`, ...(problem === null ? [] : [`  ${problem}`])];
  const text = said
    .trim()
    .split("\n")
    .slice(0, problem === null ? 1 : 12);
  return `${[...lines, `  exit status ${code}`, ...text.map((line) => `  | ${line.slice(0, 600)}`), `  ${repeat}`].join("\n")}\n`;
}

if (import.meta.main) {
  try {
    process.exitCode = await run();
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${usage}`);
    process.exitCode = 2;
  }
}
