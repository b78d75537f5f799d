/**
 * `grpo bench SUITE`: the table of suites and their flags. Results go to stdout, as a table or as JSON; progress goes to
 * stderr.
 */
import { buildKernels, openCpuLibrary } from "../ffi/bindings/cpu.ts";
import { kindOf } from "../src/config/allowed.ts";
import { splitArguments } from "../src/config/arguments.ts";
import { describeShape } from "../src/config/help.ts";
import { nearest } from "../src/config/nearest.ts";
import type { SettingTypes } from "../src/config/schema.ts";
import { engineSettings } from "../src/config/settings/engine.ts";
import { anyText, choice, text, toggle, whole } from "../src/config/settings/kinds.ts";
import { checkpointingSettings } from "../src/config/settings/optimizer.ts";
import { complete, type Given, readValue, unknownName } from "../src/config/shape.ts";
import { type CpuDevice, openCpuDevice } from "../src/device/cpu/device.ts";
import type { CudaDevice } from "../src/device/cuda/device.ts";
import type { Device } from "../src/device/device.ts";
import { openDevice } from "../src/device/open.ts";
import { errorText, InputError } from "../src/errors.ts";
import type { GradientCheckpointing } from "../src/session/gradient-checkpointing.ts";
import { cudaMeter, isEmulated } from "./cuda-meter.ts";
import { cpuMeter, type Meter } from "./measure.ts";
import { modelNamed, rooflineModels } from "./models.ts";
import type { OpBench } from "./ops/case.ts";
import { emulatedLoad, gpuLoad, modelShapes, processorLoad, type Shapes } from "./ops/shapes.ts";
import { opBenches, productShares, runOps } from "./ops.ts";
import counts from "./roofline/counts.json" with { type: "json" };
import type { CountsTable } from "./roofline/evaluate.ts";
import { gpus } from "./roofline/machines.ts";
import { rooflineTables } from "./roofline/report.ts";
import { runStep, stepDefaults } from "./step.ts";
import { opsSummary, opsTable } from "./table.ts";

const stepSettings = [
  "gradient_checkpointing",
  "num_generations",
  "max_concurrent_sequences",
  "prompt_tokens",
  "completion_tokens",
  "micro_batch_tokens",
] as const;

const settings = {
  filter: anyText(null, "REGEX")`
    Only benchmarks whose line ("matmulForward M=1 N=1536 K=576 bfloat16") matches this.`,
  device: engineSettings.device,
  model: text(null, "NAME|FOLDER")`
    The model whose sizes are used: SmolLM2-135M, Qwen2.5-0.5B, Qwen3-0.6B, Qwen2.5-7B, or a folder with a config.json;
    weights are not read. null: SmolLM2-135M on a CPU, Qwen3-0.6B on a GPU.`,
  dtype: choice(["float32", "bfloat16"], null)`Number format of the model. null: both (ops), bfloat16 (step).`,
  threads: engineSettings.threads,
  path: text(null, "NAME")`Instruction path (grpo doctor lists them). null: the one that training uses.`,
  quick: toggle(false)`Fewer samples: about a third of the time, and more noise.`,
  num_generations: whole(1, null)`step: completions per prompt. null: 16 on a GPU, 8 on a CPU.`,
  max_concurrent_sequences: whole(1, null)`step: sequences decoded at once. null: 64 on a GPU, 8 on a CPU.`,
  prompt_tokens: whole(1, null)`step: tokens per prompt. null: 128 on a GPU, 64 on a CPU.`,
  completion_tokens: whole(2, null)`
    step: tokens per completion, the first of which comes with the prompt. null: 1024 on a GPU, 64 on a CPU.`,
  micro_batch_tokens: whole(1, null)`step: tokens in one pass of the update. null: 16384 on a GPU, 2048 on a CPU.`,
  ...checkpointingSettings,
  json: toggle(false)`Print one JSON object instead of the table.`,
};

interface BenchFlags {
  readonly filter: string | null;
  readonly device: string;
  readonly model: string | null;
  readonly dtype: "float32" | "bfloat16" | null;
  readonly threads: number | null;
  readonly path: string | null;
  readonly quick: boolean;
  readonly numGenerations: number | null;
  readonly maxConcurrentSequences: number | null;
  readonly promptTokens: number | null;
  readonly completionTokens: number | null;
  readonly microBatchTokens: number | null;
  readonly gradientCheckpointing: GradientCheckpointing;
  readonly json: boolean;
}

interface Suite {
  readonly summary: string;
  /** Flags that it takes. */
  readonly takes: readonly (keyof typeof settings)[];
  run(flags: BenchFlags): Promise<void>;
}

const suites: Readonly<Record<string, Suite>> = {
  ops: {
    summary: "every op of the device, with its share of this machine's peak",
    takes: ["filter", "device", "model", "dtype", "threads", "path", "quick", "json"],
    run: runOpsSuite,
  },
  step: {
    summary: "tokens per second of decoding and of an update, for a model of any shape",
    takes: [...["device", "model", "dtype", "threads", "path", "json"], ...stepSettings] as (keyof typeof settings)[],
    run: runStepSuite,
  },
  roofline: {
    summary: "what a step must take on an A100, H100 and RTX 4090: a model, not a measurement",
    takes: ["filter", "json"],
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

/** @throws InputError for an unknown flag or value, or one that the suite does not take */
function readFlags(name: string, { takes }: Suite, argv: readonly string[]): BenchFlags {
  const known: SettingTypes = settings;
  const split = splitArguments(argv, (key) => (Object.hasOwn(known, key) ? kindOf(known[key]!) : undefined));
  const [extra] = split.positionals;
  if (extra !== undefined) throw new InputError(`"${extra}": unexpected argument; see grpo bench --help`);
  const given = new Map<string, Given>();
  for (const { key, label, value } of split.flags) {
    if (!Object.hasOwn(known, key)) throw unknownName("bench", key, Object.keys(known), value, "flag", label);
    if (!(takes as readonly string[]).includes(key))
      throw new InputError(`${label}: ${name} does not take it; omit it (grpo bench --help)`);
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
    const cure = guess === undefined ? `choose from ${names.join(", ")}` : `did you mean ${guess}?`;
    throw new InputError(`${JSON.stringify(name)} is not a suite; ${cure}`);
  }
  const suite = suites[name]!;
  await suite.run(readFlags(name, suite, rest));
}

/** The line of the table that --filter matches. */
function lineOf({ op, sizes, dtype }: OpBench): string {
  return `${op} ${sizes} ${dtype}`;
}

/** Largest vocabulary where each logit takes a processor many instructions. */
const EMULATED_VOCABULARY = 4096;

/** The op sizes for a device: those of the requested model under a load typical of such a device. */
function shapesOn(device: Device, model: string | null): Shapes {
  if (device.kind === "cpu") return { ...modelShapes(modelNamed(model ?? "SmolLM2-135M").config), ...processorLoad };
  const shapes = modelShapes(modelNamed(model ?? "Qwen3-0.6B").config);
  if (!isEmulated(device as CudaDevice)) return { ...shapes, ...gpuLoad };
  return { ...shapes, V: Math.min(shapes.V, EMULATED_VOCABULARY), ...emulatedLoad };
}

/** @throws InputError for an invalid regular expression */
function patternOf(filter: string | null, flags = ""): RegExp {
  try {
    return new RegExp(filter ?? "", flags);
  } catch (error) {
    throw new InputError(`--filter ${filter}: not a regular expression (${errorText(error)})`);
  }
}

/** @param loads the requested sizes; a benchmark passes if it belongs to any of them. @throws InputError if none is left */
function chosen(flags: BenchFlags, ...loads: readonly Shapes[]): OpBench[] {
  const pattern = patternOf(flags.filter);
  const all = loads.flatMap((shapes) => Object.values(opBenches(shapes)).flat());
  const found = all.filter(
    (bench) => pattern.test(lineOf(bench)) && (flags.dtype === null || bench.dtype === flags.dtype),
  );
  if (found.length === 0) {
    const names = [...new Set(all.map(({ op }) => op))];
    throw new InputError(`--filter ${flags.filter}: matches no benchmark; the ops are ${names.join(", ")}`);
  }
  return found;
}

const note = (text: string) => void process.stderr.write(`${text}\n`);

/** The device of --device, or the instruction path of --path. */
async function openBenchDevice({ device, path, threads }: BenchFlags): Promise<Device> {
  if (path === null) return openDevice({ device, threads, note });
  if (device.startsWith("cuda")) throw new InputError(`--path ${path}: a GPU has no instruction paths; omit --device`);
  const { library } = await buildKernels(() => note("compiling the CPU kernels"));
  requirePath(path, library);
  return openCpuDevice({ libraryFile: library, threads, path });
}

function meterOf(device: Device): Meter {
  return device.kind === "cuda" ? cudaMeter(device as CudaDevice) : cpuMeter(device as CpuDevice);
}

/** @throws InputError for a path that is not compiled in, or that the processor lacks */
function requirePath(name: string, library: string): void {
  const { paths } = openCpuLibrary(library);
  const usable = paths.filter((p) => p.supported).map((p) => p.name);
  if (usable.includes(name)) return;
  const known = paths.some((p) => p.name === name);
  const reason = known ? "this processor has no such instructions" : "no such path";
  throw new InputError(`--path ${name}: ${reason}; this machine runs ${usable.join(", ")}`);
}

/** --filter selects models and GPUs by "MODEL on GPU", and then also shows their ops. */
async function runRoofline(flags: BenchFlags): Promise<void> {
  const pattern = patternOf(flags.filter, "i");
  const wanted = (name: string) => pattern.test(name);
  const pairs = rooflineModels.flatMap((model) =>
    gpus.map((gpu) => ({ model, gpu, name: `${model.name} on ${gpu.name}` })),
  );
  const found = pairs.filter(({ name }) => wanted(name));
  if (found.length === 0)
    throw new InputError(`--filter ${flags.filter}: matches none of ${pairs.map(({ name }) => name).join(", ")}`);
  const chosen = {
    models: rooflineModels.filter((model) => found.some((pair) => pair.model === model)),
    gpus: gpus.filter((gpu) => found.some((pair) => pair.gpu === gpu)),
    ops: flags.filter !== null,
  };
  const { lines } = await rooflineTables(counts as CountsTable, chosen);
  process.stdout.write(flags.json ? `${JSON.stringify(lines)}\n` : `${lines.join("\n")}\n`);
}

async function runOpsSuite(flags: BenchFlags): Promise<void> {
  // Report command-line errors before opening a device, which may compile kernels.
  const [onCpu, onGpu] = ["SmolLM2-135M", "Qwen3-0.6B"].map((name) =>
    modelShapes(modelNamed(flags.model ?? name).config),
  );
  chosen(flags, { ...onCpu!, ...processorLoad }, { ...onGpu!, ...gpuLoad });
  const device = await openBenchDevice(flags);
  const benches = chosen(flags, shapesOn(device, flags.model));
  const meter = meterOf(device);
  const out = (text: string) => void process.stdout.write(`${text}\n`);
  const table = opsTable(benches);
  if (!flags.json) {
    out(device.description);
    out(table.head);
  }
  const patience = flags.quick ? { samples: 3, time: 10 } : { samples: 5, time: 60 };
  const report = await runOps(meter, benches, patience, (result) => {
    if (!flags.json) out(table.row(result));
  });
  if (flags.json) {
    const { measured, below } = productShares(report.results);
    const matmul = measured.length === 0 ? null : { measured: measured.length, below: below.length };
    out(JSON.stringify({ ...report, matmulAtTrainingShapes: matmul }));
  } else for (const line of opsSummary(report)) out(line);
  meter.free();
  device.close();
}

async function runStepSuite(flags: BenchFlags): Promise<void> {
  if (flags.model !== null) modelNamed(flags.model); // before a device is opened
  const device = await openBenchDevice(flags);
  const model = modelNamed(flags.model ?? (device.kind === "cpu" ? "SmolLM2-135M" : "Qwen3-0.6B"));
  const given = {
    samples: flags.numGenerations,
    sequences: flags.maxConcurrentSequences,
    promptTokens: flags.promptTokens,
    completionTokens: flags.completionTokens,
    microBatchTokens: flags.microBatchTokens,
  };
  const known = Object.entries(given).filter(([, value]) => value !== null);
  const shape = { ...stepDefaults(device), ...Object.fromEntries(known) };
  const out = (text: string) => void process.stdout.write(`${text}\n`);
  if (!flags.json) out(device.description);
  const dtype = flags.dtype ?? "bfloat16";
  const print = flags.json ? () => {} : out;
  const report = await runStep(device, model, shape, dtype, flags.gradientCheckpointing, print);
  if (flags.json) out(JSON.stringify(report));
  device.close();
}
