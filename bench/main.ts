/**
 * `grpo bench SUITE`: the table of suites and their flags. Results go to stdout, as a table or as JSON; what is under
 * way goes to stderr.
 */
import { z } from "zod";
import { buildKernels, openCpuLibrary } from "../ffi/bindings/cpu.ts";
import { kindOf } from "../src/config/allowed.ts";
import { splitArguments } from "../src/config/arguments.ts";
import { describeShape } from "../src/config/help.ts";
import { nearest } from "../src/config/nearest.ts";
import { about } from "../src/config/settings/about.ts";
import { engineSettings } from "../src/config/settings/engine.ts";
import { complete, type Given, readValue, unknownName } from "../src/config/shape.ts";
import { openCpuDevice } from "../src/device/cpu.ts";
import { decodeBucket } from "../src/device/cuda.ts";
import { errorText, InputError } from "../src/errors.ts";
import type { OpBench } from "./ops/case.ts";
import { smollm2 } from "./ops/shapes.ts";
import { opBenches, productShares, runOps } from "./ops.ts";
import counts from "./roofline/counts.json" with { type: "json" };
import type { CountsTable } from "./roofline/evaluate.ts";
import { gpus } from "./roofline/machines.ts";
import { models } from "./roofline/models.ts";
import { rooflineTables } from "./roofline/report.ts";
import { opsSummary, opsTable } from "./table.ts";

const settings = {
  filter: z
    .string()
    .nullable()
    .default(null)
    .meta(about('Only benchmarks whose line ("matmulForward M=1 N=1536 K=576 bfloat16") it matches.', "REGEX")),
  dtype: engineSettings.dtype.meta(about("Number format of the model. null: both.")),
  threads: engineSettings.threads,
  path: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .meta(about("Instruction path (grpo doctor lists them). null: the one that training takes.", "NAME")),
  quick: z.boolean().default(false).meta(about("Fewer samples: about a third of the time, and more noise.")),
  json: z.boolean().default(false).meta(about("One JSON object instead of the table.")),
};

interface BenchFlags {
  readonly filter: string | null;
  readonly dtype: "float32" | "bfloat16" | null;
  readonly threads: number | null;
  readonly path: string | null;
  readonly quick: boolean;
  readonly json: boolean;
}

interface Suite {
  readonly summary: string;
  run(flags: BenchFlags): Promise<void>;
}

const suites: Readonly<Record<string, Suite>> = {
  ops: { summary: "every op of the device, with its share of this machine's peak", run: runOpsSuite },
  roofline: {
    summary: "what a step must take on an A100, H100 and RTX 4090: a model, not a measurement",
    run: runRoofline,
  },
};

export const usage = `Usage: grpo bench SUITE [--key value ...]

Suites:
${Object.entries(suites)
  .map(([name, { summary }]) => `  ${name}  ${summary}`)
  .join("\n")}

${describeShape(settings)}
Example: grpo bench ops --filter matmul --dtype bfloat16`;

/** @throws InputError for a flag or a value that is not known */
function readFlags(argv: readonly string[]): BenchFlags {
  const known: Record<string, z.ZodType> = settings;
  const split = splitArguments(argv, (key) => (Object.hasOwn(known, key) ? kindOf(known[key]!) : undefined));
  const [extra] = split.positionals;
  if (extra !== undefined) throw new InputError(`"${extra}": unexpected argument; see grpo bench --help`);
  const given = new Map<string, Given>();
  for (const { key, label, value } of split.flags) {
    if (!Object.hasOwn(known, key)) throw unknownName("bench", key, Object.keys(known), value, "flag", label);
    given.set(key, readValue(known, key, value, "flag", label));
  }
  return complete(settings, given) as unknown as BenchFlags;
}

/**
 * One run of `grpo bench`.
 *
 * @throws InputError for an unknown suite, flag or path; RunError for a wrong result or kernels that cannot be built
 */
export async function main(argv: readonly string[]): Promise<void> {
  const [name, ...rest] = argv;
  if (name === undefined || argv.includes("--help") || argv.includes("-h")) {
    process.stdout.write(`${usage}\n`);
    return;
  }
  const names = Object.keys(suites);
  if (!Object.hasOwn(suites, name)) {
    const guess = nearest(name, names);
    const cure = guess === undefined ? `there is ${names.join(", ")}` : `did you mean ${guess}?`;
    throw new InputError(`${JSON.stringify(name)} is not a suite; ${cure}`);
  }
  await suites[name]!.run(readFlags(rest));
}

/** One line of the table, as --filter sees it. */
function lineOf({ op, sizes, dtype }: OpBench): string {
  return `${op} ${sizes} ${dtype}`;
}

/** @throws InputError where nothing is left */
function chosen(flags: BenchFlags): OpBench[] {
  let pattern: RegExp;
  try {
    pattern = new RegExp(flags.filter ?? "");
  } catch (error) {
    throw new InputError(`--filter ${flags.filter}: not a regular expression (${errorText(error)})`);
  }
  const all = Object.values(opBenches(smollm2)).flat();
  const found = all.filter(
    (bench) => pattern.test(lineOf(bench)) && (flags.dtype === null || bench.dtype === flags.dtype),
  );
  if (found.length === 0) {
    const names = [...new Set(all.map(({ op }) => op))];
    throw new InputError(`--filter ${flags.filter}: matches no benchmark; the ops are ${names.join(", ")}`);
  }
  return found;
}

/** @throws InputError for a path that is not compiled in, or that the processor lacks */
function requirePath(name: string, library: string): void {
  const { paths } = openCpuLibrary(library);
  const usable = paths.filter((p) => p.supported).map((p) => p.name);
  if (usable.includes(name)) return;
  const known = paths.some((p) => p.name === name);
  const reason = known ? "this processor has no such instructions" : "there is no such path";
  throw new InputError(`--path ${name}: ${reason}; this machine runs ${usable.join(", ")}`);
}

/** --filter chooses models and GPUs by "MODEL on GPU", and then shows their ops too. */
async function runRoofline(flags: BenchFlags): Promise<void> {
  const wanted = (name: string) => flags.filter === null || new RegExp(flags.filter, "i").test(name);
  const pairs = models.flatMap((model) => gpus.map((gpu) => ({ model, gpu, name: `${model.name} on ${gpu.name}` })));
  const found = pairs.filter(({ name }) => wanted(name));
  if (found.length === 0)
    throw new InputError(`--filter ${flags.filter}: matches none of ${pairs.map(({ name }) => name).join(", ")}`);
  const chosen = {
    models: models.filter((model) => found.some((pair) => pair.model === model)),
    gpus: gpus.filter((gpu) => found.some((pair) => pair.gpu === gpu)),
    ops: flags.filter !== null,
  };
  const { lines } = await rooflineTables(counts as CountsTable, decodeBucket, chosen);
  process.stdout.write(flags.json ? `${JSON.stringify(lines)}\n` : `${lines.join("\n")}\n`);
}

async function runOpsSuite(flags: BenchFlags): Promise<void> {
  const benches = chosen(flags);
  const { library } = await buildKernels(() => process.stderr.write("compiling the CPU kernels\n"));
  if (flags.path !== null) requirePath(flags.path, library);
  const device = await openCpuDevice({
    libraryFile: library,
    threads: flags.threads,
    ...(flags.path === null ? {} : { path: flags.path }),
  });
  const out = (text: string) => process.stdout.write(`${text}\n`);
  const table = opsTable(benches);
  if (!flags.json) {
    out(device.description);
    out(table.head);
  }
  const patience = flags.quick ? { samples: 3, time: 10 } : { samples: 5, time: 60 };
  const report = runOps(device, benches, patience, (result) => {
    if (!flags.json) out(table.row(result));
  });
  if (flags.json) {
    const { measured, below } = productShares(report.results);
    const matmul = measured.length === 0 ? null : { measured: measured.length, below: below.length };
    out(JSON.stringify({ ...report, matmulAtTrainingShapes: matmul }));
  } else for (const line of opsSummary(report)) out(line);
}
