/** The peers: what each runs, what ours runs beside it, and which of their numbers are compared. */
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import { RunError } from "../../src/errors.ts";
import type { Figure } from "../figures.ts";
import { modelNamed } from "../models.ts";
import { modelShapes } from "../ops/shapes.ts";

export interface PeerFlags {
  readonly model: string | null;
  readonly gguf: string | null;
  readonly data: string | null;
  readonly python: string;
  readonly device: "cpu" | "cuda";
  readonly dtype: "float32" | "bfloat16";
  readonly peerDtype: "float32" | "bfloat16" | null;
  readonly threads: number | null;
  readonly prompts: number;
  readonly numGenerations: number;
  readonly promptTokens: number;
  readonly maxCompletionLength: number;
  readonly maxSteps: number;
  readonly rounds: number;
  readonly json: boolean;
}

export interface Outcome {
  // biome-ignore lint/suspicious/noExplicitAny: the programs' own JSON, whose parts are read by name below
  readonly report: any;
  readonly peakMiB: number;
}

export interface Row {
  readonly what: string;
  readonly unit: string;
  readonly better: "more" | "less";
  /** A value per round. */
  readonly ours: readonly number[];
  readonly theirs: readonly number[];
  /** Ours, of this machine's peak (of the MFU: of arithmetic alone), where bench knows it. */
  readonly shares?: readonly number[];
}

export interface Peer {
  readonly summary: string;
  readonly script: string;
  readonly requirements: string;
  /** Whose versions are printed. */
  readonly packages: readonly string[];
  readonly needs: readonly "model"[];
  readonly gpuOnly?: boolean;
  readonly readsProblems?: boolean;
  /** The words after `grpo bench`. */
  ours(flags: PeerFlags, problems: string | null): string[];
  /** The script's arguments, and its standard input. */
  theirs(
    flags: PeerFlags,
    ours: Outcome,
    problems: string | null,
  ): { readonly args: string[]; readonly input?: string };
  rows(ours: readonly Outcome[], theirs: readonly Outcome[]): Row[];
}

/** The flags that are given. */
function words(given: Readonly<Record<string, string | number | null>>): string[] {
  return Object.entries(given).flatMap(([key, value]) => (value === null ? [] : [`--${key}`, String(value)]));
}

const common = ({ device, threads }: PeerFlags) => ({ device, threads });
const peerDtype = ({ peerDtype, dtype }: PeerFlags) => peerDtype ?? dtype;

/** A figure of our report by the beginning of its name. @throws RunError if there is none */
function figureOf({ report }: Outcome, name: string): Figure {
  const found = (report.figures as Figure[]).find((one) => one.name.startsWith(name));
  if (!found) throw new RunError(`the report of ${report.suite} has no figure "${name}"`);
  return found;
}

const figure = (outcome: Outcome, name: string): number => figureOf(outcome, name).value;
const shares = (outcomes: readonly Outcome[], name: string) =>
  outcomes.map((outcome) => figureOf(outcome, name).share ?? 0);

const each = (outcomes: readonly Outcome[], value: (outcome: Outcome) => number) => outcomes.map(value);
const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Ours, for a peer that only samples. */
const ourRollout = (flags: PeerFlags) => [
  "rollout",
  ...words({
    ...{ ...common(flags), model: flags.model, dtype: flags.dtype, num_generations: flags.numGenerations },
    ...{ max_concurrent_sequences: flags.prompts * flags.numGenerations, prompt_tokens: flags.promptTokens },
    max_completion_length: flags.maxCompletionLength,
  }),
];

const rolloutSizes = (flags: PeerFlags) => ({
  ...{ sequences: flags.prompts * flags.numGenerations, prompt_tokens: flags.promptTokens },
  ...{ max_completion_length: flags.maxCompletionLength, dtype: peerDtype(flags) },
});

const rolloutRow = (ours: readonly Outcome[], theirs: readonly Outcome[]): Row => ({
  ...{ what: "rollout, completion tokens", unit: "tokens/s", better: "more" },
  ours: each(ours, (outcome) => figure(outcome, "rollout of")),
  theirs: each(theirs, ({ report }) => report.tokens_per_second),
});

const trl: Peer = {
  summary: "TRL's GRPOTrainer: a whole step, and its rollout",
  script: "trl_step.py",
  requirements: "requirements.txt",
  packages: ["trl", "transformers", "torch"],
  needs: ["model"],
  readsProblems: true,
  ours: (flags, problems) => [
    "step",
    ...words({
      ...{ ...common(flags), model: flags.model, dataset: problems, dtype: flags.dtype, reward_funcs: "gsm8k" },
      ...{ num_generations: flags.numGenerations, per_device_train_batch_size: flags.prompts * flags.numGenerations },
      ...{
        max_completion_length: flags.maxCompletionLength,
        max_steps: flags.maxSteps,
        learning_rate: 1e-6,
        beta: 0.04,
      },
    }),
  ],
  theirs: (flags, _, problems) => ({
    args: words({
      ...{ ...common(flags), model: flags.model, data: problems, dtype: peerDtype(flags), beta: 0.04 },
      ...{ completions: flags.prompts * flags.numGenerations, num_generations: flags.numGenerations },
      ...{ max_completion_length: flags.maxCompletionLength, steps: flags.maxSteps },
    }),
  }),
  rows: (ours, theirs) => {
    const perToken = (seconds: readonly number[], tokens: readonly number[]) =>
      mean(seconds.map((second, i) => (1000 * second) / tokens[i]!));
    return [
      {
        ...{ what: "a step, per completion token", unit: "ms", better: "less" },
        ours: each(ours, (outcome) => figure(outcome, "a step, per completion token")),
        theirs: each(theirs, ({ report }) => perToken(report.step_seconds, report.completion_tokens)),
        shares: shares(ours, "a step, tokens of prompts and completions"),
      },
      {
        ...{ what: "its rollout, completion tokens", unit: "tokens/s", better: "more" },
        ours: each(ours, (outcome) => figure(outcome, "its rollout")),
        theirs: each(theirs, ({ report }) => 1000 / perToken(report.rollout_seconds, report.completion_tokens)),
      },
    ];
  },
};

const torch: Peer = {
  summary: "PyTorch's products (oneDNN) and attention (SDPA), at the sizes of bench ops",
  script: "torch_ops.py",
  requirements: "requirements.txt",
  packages: ["torch"],
  needs: [],
  ours: (flags) => [
    "ops",
    ...words({ ...common(flags), shape: flags.model, dtype: flags.dtype }),
    ...["--filter", "^matmulForward|^attentionForward T=", "--quick"],
  ],
  theirs: (flags, ours) => {
    const { H, Hkv, Dh } = modelShapes(
      (flags.model ? { config: readModelConfig(flags.model) } : defaultModel(flags)).config,
    );
    const dtype = peerDtype(flags);
    const cases = (ours.report.results as OpTime[]).map(({ op, use, sizes }) => {
      const size = Object.fromEntries(sizes.split(" ").map((part) => part.split("=")));
      if (op === "attentionForward") return { op: "attention", T: Number(size.T), H, Hkv, Dh, dtype };
      return { op: "matmul", M: Number(size.M), N: Number(size.N), K: Number(size.K), dtype, cold: use === "decode" };
    });
    return { args: words(common(flags)), input: JSON.stringify(cases) };
  },
  rows: (ours, theirs) =>
    (ours[0]!.report.results as OpTime[]).map(({ op, sizes, dtype }, i) => ({
      ...{ what: `${op} ${sizes} ${dtype}`, unit: "ms", better: "less" },
      ours: each(ours, ({ report }) => report.results[i].milliseconds),
      theirs: each(theirs, ({ report }) => report.milliseconds[i]),
      shares: each(ours, ({ report }) => report.results[i].share),
    })),
};

interface OpTime {
  readonly op: string;
  readonly use: string;
  readonly sizes: string;
  readonly dtype: string;
}

const defaultModel = ({ device }: PeerFlags) => modelNamed(device === "cpu" ? "SmolLM2-135M" : "Qwen3-0.6B");

const torchUpdate: Peer = {
  summary: "transformers on PyTorch: forward, and forward and backward, of as many tokens",
  script: "torch_update.py",
  requirements: "requirements.txt",
  packages: ["transformers", "torch"],
  needs: ["model"],
  ours: (flags) => [
    "update",
    ...words({
      ...{ ...common(flags), model: flags.model, dtype: flags.dtype, num_generations: flags.numGenerations },
      ...{ prompt_tokens: flags.promptTokens, max_completion_length: flags.maxCompletionLength },
    }),
  ],
  theirs: (flags, { report }) => {
    // A group that ours packs, as sequences of one length without a shared prompt.
    const length = Math.round(report.tokens / flags.numGenerations);
    return {
      args: words({
        ...common(flags),
        model: flags.model,
        batch: flags.numGenerations,
        length,
        dtype: peerDtype(flags),
      }),
    };
  },
  rows: (ours, theirs) => [
    {
      ...{ what: "forward", unit: "tokens/s", better: "more" },
      ours: each(ours, (outcome) => figure(outcome, "forward of")),
      theirs: each(theirs, ({ report }) => report.forward_tokens_per_second),
      shares: shares(ours, "forward of"),
    },
    {
      ...{ what: "forward and backward", unit: "tokens/s", better: "more" },
      ours: each(ours, (outcome) => figure(outcome, "forward and backward of")),
      theirs: each(theirs, ({ report }) => report.both_tokens_per_second),
      shares: shares(ours, "forward and backward of"),
    },
  ],
};

const llama: Peer = {
  summary: "llama.cpp: a rollout",
  script: "llama_rollout.py",
  requirements: "requirements-llama.txt",
  packages: ["llama_cpp_python", "gguf"],
  needs: ["model"],
  ours: ourRollout,
  theirs: (flags) => ({
    args: words({
      ...{ model: flags.model, gguf: flags.gguf, threads: flags.threads },
      ...{ num_generations: flags.numGenerations, ...rolloutSizes(flags) },
    }),
  }),
  rows: (ours, theirs) => [
    rolloutRow(ours, theirs),
    {
      ...{ what: "decode halfway through, completion tokens", unit: "tokens/s", better: "more" },
      ours: each(ours, ({ report }) => decodeRates(report)[1] ?? decodeRates(report)[0]!),
      theirs: each(theirs, ({ report }) => report.decode_tokens_per_second),
    },
  ],
};

/** Of all sequences: near the beginning, in the middle, at the end. */
function decodeRates({ figures, shape }: { figures: { name: string; value: number }[]; shape: { sequences: number } }) {
  return figures.filter(({ name }) => name.startsWith(`decode of ${shape.sequences} `)).map(({ value }) => value);
}

const transformers: Peer = {
  summary: "transformers' generate: a rollout",
  script: "transformers_rollout.py",
  requirements: "requirements.txt",
  packages: ["transformers", "torch"],
  needs: ["model"],
  ours: ourRollout,
  theirs: (flags) => ({ args: words({ ...common(flags), model: flags.model, ...rolloutSizes(flags) }) }),
  rows: (ours, theirs) => [rolloutRow(ours, theirs)],
};

const vllm: Peer = {
  summary: "vLLM: a rollout, on a GPU",
  script: "vllm_rollout.py",
  requirements: "requirements-vllm.txt",
  packages: ["vllm"],
  needs: ["model"],
  gpuOnly: true,
  ours: ourRollout,
  theirs: (flags) => ({
    args: words({ model: flags.model, num_generations: flags.numGenerations, ...rolloutSizes(flags) }),
  }),
  rows: (ours, theirs) => [rolloutRow(ours, theirs)],
};

export const peers: Readonly<Record<string, Peer>> = {
  trl,
  torch,
  "torch-update": torchUpdate,
  llama,
  transformers,
  vllm,
};
