/**
 * The stages of check:gpu, the most informative first: the machine, each kernel once, a training run, speed, results at real
 * sizes, the op suite, whole models, the sanitizers. Each is a separate process with a limit.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { entries } from "../ffi/bindings/python-environments.ts";
import { assetPath } from "../src/assets.ts";
import { kernelDefinitions } from "../src/device/cuda/ops.ts";
import type { OpChoice } from "./op-sets.ts";

export interface Stage {
  readonly name: string;
  /** Limit in seconds, on a GPU; an emulated one gets `emulatedSeconds`. */
  readonly seconds: number;
  readonly emulatedSeconds?: number;
  /** In --quick too. */
  readonly quick: boolean;
  /** Ops to run one by one, or else a command. */
  readonly ops?: readonly (OpChoice & { readonly timed?: boolean; readonly stray?: boolean })[];
  /** A tool that watches the ops, placed before the program in the command; they then run in one process. */
  readonly tool?: readonly string[];
  /** Limit of one op. */
  readonly opSeconds?: number;
  /** The arguments after the program's name. */
  readonly command?: readonly string[];
  /** Files of test/ for Bun to run. */
  readonly tests?: readonly string[];
  /** Limit of one test. */
  readonly testSeconds?: number;
  readonly env?: Readonly<Record<string, string>>;
  /** Settings that make Bun run only one of the files' tests, by its name. */
  readonly alone?: (test: string) => Readonly<Record<string, string>>;
  /** Expected exit status, if not 0. */
  readonly status?: number;
  /** Output lines to show: those that match, else the last few. */
  readonly show?: RegExp;
  /** Show the first matches instead of the last. */
  readonly showFirst?: boolean;
  /** Why it cannot run here. */
  readonly missing?: string | null;
}

export interface StageOptions {
  readonly emulated: boolean;
  readonly sanitizer: string | null;
  /** Folder for the output of runs. */
  readonly work: string;
  readonly model: string | null;
}

/** compute-sanitizer of the CUDA toolkit, if installed. */
export function findSanitizer(env = process.env): string | null {
  const homes = [env.CUDA_HOME, env.CUDA_PATH].filter((folder): folder is string => !!folder);
  const places = [...homes, ...entries("/usr/local", /^cuda/)];
  return (
    Bun.which("compute-sanitizer") ??
    places.map((folder) => join(folder, "bin", "compute-sanitizer")).find((file) => existsSync(file)) ??
    null
  );
}

/** The words that run a command under one of its tools, watching only our own kernels: cuBLAS's take minutes. */
export function sanitizerWords(sanitizer: string, tool: string): string[] {
  const ours = kernelDefinitions.flatMap(({ name }) => ["--kernel-name", `kernel_name=${name}`]);
  return [sanitizer, "--tool", tool, "--error-exitcode", "9", ...ours];
}

const sizesTooLarge = "the GPU is emulated: at the sizes of real models it would take days";

export function stages({ emulated, sanitizer, work, model }: StageOptions): Stage[] {
  const train = (name: string, ...flags: string[]) => [
    "train",
    "--device",
    "cuda",
    "--output_dir",
    join(work, name),
    ...flags,
  ];
  const bf16 = "bfloat16" as const;
  const real = { BUN_GRPO_CUDA: "real", OPS_PATH: "cuda" };
  // On an emulated GPU no such tool is needed: the emulator checks every access itself.
  const noSanitizer = emulated
    ? "the GPU is emulated; the emulator checks accesses and races itself (EMULATOR_CHECK=1)"
    : sanitizer === null
      ? "no compute-sanitizer on PATH or under $CUDA_HOME/bin; it comes with the CUDA toolkit"
      : null;
  const sanitize = (tool: string, heads: 64 | 128, quick: boolean): Stage => ({
    name: `${tool}, heads of ${heads}`,
    seconds: 60,
    quick,
    tool: sanitizerWords(sanitizer ?? "compute-sanitizer", tool),
    // Under racecheck, which does not follow their copies, cuBLAS's products end with an illegal access of the tool's own
    // making.
    ops: [{ set: `small, heads of ${heads}`, dtype: bf16, ...(tool === "racecheck" ? { products: false } : {}) }],
    show: /^={9} (?!COMPUTE|Target|\s*$)/,
    missing: noSanitizer,
  });
  const decodeAndUpdate = emulated
    ? ["bench", "rollout", "update", "--device", "cuda", "--shape", assetPath("data/model"), "--dtype", bf16]
    : ["bench", "rollout", "update", "--device", "cuda", "--shape", "Qwen3-0.6B"];

  return [
    {
      name: "doctor",
      seconds: 40,
      quick: true,
      command: ["doctor"],
      show: /^(ok|note|missing|FAIL)? *(CUDA|cuda:|cuBLAS|NVRTC)/,
    },
    {
      name: "each kernel once",
      ...{ seconds: 120, emulatedSeconds: 300, opSeconds: emulated ? 60 : 20, quick: true },
      ops: [
        { set: "small, heads of 128", dtype: bf16 },
        { set: "small, heads of 64", dtype: bf16 },
        { set: "small, heads of 128", dtype: "float32" },
      ],
    },
    {
      name: "training, float32",
      ...{ seconds: 60, emulatedSeconds: 180, quick: true },
      command: train("float32", "--max_steps", emulated ? "1" : "40", ...(emulated ? ["--eval_samples", "8"] : [])),
      show: /^ +\d+ .*s$|held-out/,
    },
    {
      name: "training, bfloat16",
      ...{ seconds: 60, emulatedSeconds: 180, quick: true },
      command: train(
        "bfloat16",
        "--dtype",
        bf16,
        "--max_steps",
        emulated ? "1" : "40",
        ...(emulated ? ["--eval_samples", "8"] : []),
      ),
      show: /^ +\d+ .*s$|held-out/,
    },
    {
      name: "speed of a model",
      ...{ seconds: 90, emulatedSeconds: 120, quick: true },
      command: decodeAndUpdate,
      show: /^ +(rollout|prefill|decode|forward|optimizer|memory)/,
    },
    {
      name: "sizes and speed of Qwen3-0.6B",
      ...{ seconds: 180, opSeconds: 40, quick: true },
      ops: [{ set: "Qwen3-0.6B", dtype: bf16, timed: true }],
      missing: emulated ? sizesTooLarge : null,
    },
    {
      name: "every op against float64",
      // "rmsnorm > rmsnormForward T=13 …": the table, and the case in the form OPS_CASE takes.
      alone: (test) => ({ ...real, OPS_CASE: test.slice(test.indexOf(" > ") + 3) }),
      ...{ seconds: 150, emulatedSeconds: 300, quick: true, env: real },
      tests: ["ops/cuda.test.ts"],
      testSeconds: emulated ? 200 : 60,
    },
    {
      name: "models against the reference",
      ...{ seconds: 120, emulatedSeconds: 400, quick: true, env: real },
      tests: [
        "cuda/golden.test.ts",
        "cuda/losses.test.ts",
        "cuda/scalar-head.test.ts",
        "cuda/several-updates.test.ts",
        "cuda/training.test.ts",
      ],
      testSeconds: emulated ? 300 : 60,
    },
    {
      ...sanitize("memcheck", 128, true),
      name: "memcheck sees a stray write",
      ops: [{ set: "small, heads of 128", stray: true }],
      status: 9,
    },
    sanitize("memcheck", 128, true),
    sanitize("memcheck", 64, false),
    ...(["racecheck", "synccheck", "initcheck"] as const).flatMap((tool) => [
      sanitize(tool, 128, tool === "racecheck"),
      sanitize(tool, 64, false),
    ]),
    {
      name: "attention of Qwen2.5-0.5B, heads of 64",
      ...{ seconds: 120, opSeconds: 40, quick: false },
      ops: [{ set: "Qwen2.5-0.5B", dtype: bf16, attention: true, timed: true }],
      missing: emulated ? sizesTooLarge : null,
    },
    {
      name: "sizes and speed of Qwen3-0.6B, float32",
      ...{ seconds: 240, opSeconds: 60, quick: false },
      ops: [{ set: "Qwen3-0.6B", dtype: "float32", timed: true }],
      missing: emulated ? sizesTooLarge : null,
    },
    {
      name: "calls and seconds per kernel",
      ...{ seconds: 60, emulatedSeconds: 180, quick: false, env: { BUN_GRPO_TRACE: "1" } },
      command: train("traced", "--dtype", bf16, "--max_steps", emulated ? "1" : "5", "--eval_samples", "8"),
      show: / calls +[\d.]+ s$/,
      showFirst: true,
    },
    ...(model === null
      ? []
      : [
          {
            name: "three steps of the model",
            ...{ seconds: 300, quick: true },
            command: train(
              "model",
              "--model",
              model,
              "--max_steps",
              "3",
              "--num_generations",
              "16",
              "--max_completion_length",
              "256",
            ),
            show: /^ +\d+ .*s$/,
          },
        ]),
  ];
}
