#!/usr/bin/env bun
/**
 * The table of commands, and how every one of them ends: exit status, one line for a failure, nothing lost on stdout.
 * A command's file is loaded only when it is asked for, so that `grpo --help` answers at once.
 */
import packageJson from "../../package.json" with { type: "json" };
import { nearest } from "../config/nearest.ts";
import type { CommandName } from "../config/schema.ts";
import { errorText, InputError, RunError, withoutTokens } from "../errors.ts";
import { commit } from "../program.ts";
import type { CommandEntry } from "./command.ts";

export type { CommandEntry } from "./command.ts";

export const commands: readonly CommandEntry[] = [
  {
    name: "train",
    settings: "train",
    summary: "train a model with GRPO; by default, the bundled one",
    makesFiles: true,
    load: async () => (await import("./train.ts")).train,
  },
  {
    name: "sft",
    settings: "sft",
    summary: "fine-tune on prompts and answers, to warm-start a base model",
    makesFiles: true,
    load: async () => (await import("./sft.ts")).sft,
  },
  {
    name: "eval",
    settings: "eval",
    summary: "measure a model's accuracy, pass@k and mean length on a dataset",
    makesFiles: true,
    load: async () => (await import("./eval.ts")).evaluate,
  },
  {
    name: "generate",
    settings: "generate",
    checksItself: true,
    summary: "complete a prompt, or a file of prompts; on a terminal, chat",
    load: async () => (await import("./generate.ts")).generate,
  },
  {
    name: "score",
    settings: "score",
    summary: "compute logprobs and entropies of given completions",
    load: async () => (await import("./score.ts")).score,
  },
  {
    name: "update",
    settings: "update",
    summary: "run only the policy update, on recorded rollouts",
    makesFiles: true,
    load: async () => (await import("./update.ts")).update,
  },
  {
    name: "show",
    summary: "serve a page with a run's charts and completions, or compare runs",
    load: async () => (await import("./show.ts")).show,
  },
  {
    name: "init",
    summary: "write a configuration for train, by asking three questions",
    load: async () => (await import("./init.ts")).init,
  },
  {
    name: "completions",
    summary: "print the completions of a shell: bash, zsh or fish",
    load: async () => (await import("./completions.ts")).completions,
  },
  {
    name: "verify",
    summary: "run only the verifiers, on given answers",
    load: async () => (await import("./verify.ts")).verify,
  },
  {
    name: "data",
    summary: "convert a dataset to Arrow, inspect one, or download one",
    load: async () => (await import("./data.ts")).data,
  },
  {
    name: "push",
    summary: "push a trained model to the Hugging Face hub, with a model card",
    load: async () => (await import("./push.ts")).push,
  },
  {
    name: "export",
    summary: "merge a LoRA adapter into its base model, as a plain folder",
    makesFiles: true,
    load: async () => (await import("./export.ts")).exporting,
  },
  {
    name: "plan",
    settings: "plan",
    summary: "print the memory and disk that a training run would need",
    load: async () => (await import("./plan.ts")).plan,
  },
  {
    name: "doctor",
    summary: "check what this machine offers and what is missing, with the cure",
    load: async () => (await import("./doctor.ts")).doctor,
  },
  {
    name: "bench",
    summary: "measure rollout, update, whole steps and every op as shares of this machine's peak",
    load: async () => (await import("./bench.ts")).bench,
  },
  {
    name: "check:gpu",
    summary: "check every op and training itself on this machine's GPU",
    load: async () => (await import("./check-gpu.ts")).checkGpu,
  },
];

/** Where text goes; tests put their own here. */
export interface Streams {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
}

const standardStreams: Streams = {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
};

/**
 * Runs one command line.
 * @param argv what stands after `grpo`
 * @returns the exit status: 0 done, 1 failed, 2 bad usage or input, 130 interrupted
 */
export async function main(
  argv: readonly string[],
  table: readonly CommandEntry[] = commands,
  streams: Streams = standardStreams,
): Promise<number> {
  const [word, ...rest] = argv[0] === "help" ? [...argv.slice(1), "--help"] : argv;
  if (word === "--version" || word === "-V") {
    const made = commit();
    streams.out(`grpo ${packageJson.version} (${made === null ? "" : `commit ${made}, `}bun ${Bun.version})\n`);
    return 0;
  }
  if (word === undefined) {
    streams.err(overview(table));
    return 2;
  }
  if (word === "--help" || word === "-h") {
    streams.out(overview(table));
    return 0;
  }
  const entry = table.find(({ name }) => name === word);
  const debug = rest.includes("--debug");
  try {
    const help = asksForHelp(rest);
    const topic = help ? topicAskedFor(rest) : null;
    if (entry === undefined && argv[0] === "help") return await topicHelp("train", word, streams, table);
    if (entry === undefined) throw unknownCommand(word, table);
    if (entry.settings && topic !== null) return await topicHelp(entry.settings, topic, streams, table);
    if (entry.settings && !entry.checksItself && !help)
      (await import("../config/load.ts")).configFor(entry.settings, rest);
    const command = await entry.load();
    if (help) {
      streams.out(`${command.usage.trimEnd()}\n`);
      return 0;
    }
    return (await command.run(rest, table)) ?? 0;
  } catch (error) {
    // Another rank of the run has told.
    const silent = error instanceof RunError && error.isTold && !debug;
    if (!silent) streams.err(failureText(entry === undefined ? "grpo" : `grpo ${entry.name}`, error, debug));
    return exitCodeOf(error);
  }
}

function asksForHelp(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  return (end < 0 ? argv : argv.slice(0, end)).some((argument) => argument === "--help" || argument === "-h");
}

/** The word after --help. */
function topicAskedFor(argv: readonly string[]): string | null {
  const topic = argv[argv.findIndex((argument) => argument === "--help" || argument === "-h") + 1];
  return topic === undefined || topic.startsWith("-") ? null : topic;
}

/** @throws InputError for a word that is neither a topic nor a command */
async function topicHelp(
  command: CommandName,
  topic: string,
  { out }: Streams,
  table: readonly CommandEntry[],
): Promise<number> {
  const { describeTopic, topicsOf, unknownTopic } = await import("../config/help.ts");
  const text = describeTopic(command, topic);
  if (text === null)
    throw new InputError(unknownTopic(topic, [...topicsOf(command), ...table.map(({ name }) => name)]));
  out(`${text}\n`);
  return 0;
}

function overview(table: readonly CommandEntry[]): string {
  const width = Math.max(...table.map(({ name }) => name.length));
  const lines = table.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`);
  return [
    "grpo trains language models by reinforcement learning with group relative policy optimization.",
    "",
    "Usage: grpo COMMAND [CONFIG] [--key value ...]",
    "",
    ...lines,
    "",
    "grpo COMMAND --help lists the settings of a command, grpo help TOPIC those of one topic (losses, sampling, memory, …);",
    "grpo --version prints the version.",
    "",
  ].join("\n");
}

function unknownCommand(word: string, table: readonly CommandEntry[]): InputError {
  const names = table.map(({ name }) => name);
  const guess = nearest(word, names);
  const cure = guess === undefined ? `there are ${names.join(", ")}` : `did you mean ${guess}?`;
  return new InputError(`${JSON.stringify(word)} is not a command; ${cure}`);
}

function exitCodeOf(error: unknown): number {
  return error instanceof InputError || error instanceof RunError ? error.exitCode : 1;
}

/** What the machine refuses, wherever it is met: no bug of the program. */
const refusals: Readonly<Record<string, string>> = {
  EACCES: "permission is denied; check its owner and permissions",
  EPERM: "it is not permitted; check its owner and permissions",
  EIO: "the disk reports an error; check it",
  ESTALE: "the network folder is gone; mount it again",
  ENOSPC: "the disk is full; free some space",
  EDQUOT: "the disk quota is used up; free some space",
  EROFS: "the file system is read-only; write elsewhere",
  EMFILE: "too many files are open; raise the limit (ulimit -n)",
  ENFILE: "too many files are open on this machine; close some",
};

/** A refused system call on a file as the one line that it deserves. */
function asRefusal(error: unknown): unknown {
  const { code = "", path, syscall } = (error ?? {}) as NodeJS.ErrnoException;
  const refusal = refusals[code];
  if (!(error instanceof Error) || refusal === undefined || path === undefined) return error;
  return new RunError(`${path}: ${refusal} (${code}, ${syscall})`, { cause: error });
}

/** A line for each thing that has a cure; message and stack for one that nobody foresaw. */
function failureText(where: string, thrown: unknown, debug: boolean): string {
  return withoutTokens(failureLines(where, thrown, debug));
}

function failureLines(where: string, thrown: unknown, debug: boolean): string {
  const error = asRefusal(thrown);
  const foreseen = error instanceof InputError || error instanceof RunError;
  const lines = error instanceof InputError ? error.lines : [errorText(error)];
  const told = lines.map((line) => `${where}: ${line}\n`).join("");
  if (foreseen && !debug) return told;
  const stack = error instanceof Error ? (error.stack ?? "") : "";
  const cause = error instanceof Error && error.cause !== undefined ? `caused by ${Bun.inspect(error.cause)}\n` : "";
  if (foreseen) return `${told}${stack}\n${cause}`;
  return `${where}: ${errorText(error)} (this is a bug in grpo; please report it with these lines)\n${stack}\n${cause}`;
}

/** Runs the process's own command line and ends the process, after stdout has taken everything. */
export async function runProcess(table: readonly CommandEntry[] = commands): Promise<void> {
  const argv = process.argv.slice(2);
  const where = `grpo ${argv[0] ?? ""}`.trimEnd();
  const makesFiles = table.find(({ name }) => name === argv[0])?.makesFiles === true && !asksForHelp(argv);
  heedClosedStdout(where, makesFiles);
  if (makesFiles) (await import("./interrupt.ts")).endOnSignal();
  const fail = (error: unknown) => {
    process.stderr.write(failureText(where, error, argv.includes("--debug")));
    endProcess(exitCodeOf(error));
  };
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  endProcess(await main(argv, table));
}

/**
 * exit() alone would cut off what a pipe has not taken yet, and waiting for the event loop to run dry would keep a finished
 * command alive for any handle that lingers (a worker, a watcher).
 */
function endProcess(code: number): void {
  process.exitCode = code;
  if (stdoutIsGone) process.exit(code);
  process.stdout.end(() => process.exit(code));
}

let stdoutIsGone = false;

/**
 * `grpo data info F | head` closes stdout early, which is no failure: a command whose product is text ends then. One that
 * makes files loses its console only, also where its terminal is gone or the disk of its log is full, and says so once.
 */
function heedClosedStdout(where: string, makesFiles: boolean): void {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (stdoutIsGone) return;
    if (!makesFiles && error.code !== "EPIPE") throw error;
    stdoutIsGone = true;
    if (!makesFiles) process.exit(0);
    process.stderr.write(
      `${where}: stdout is closed (${error.code}): it goes on without stdout and still writes its files\n`,
    );
  });
  process.stderr.on("error", () => {
    // Nobody is left to be told.
  });
}

// A process of the reward pool or of a page is this program again, told so by its environment: the single executable has no other
// entry to start.
const role = process.env.BUN_GRPO_CHILD;
if (role === "supervisor") await import("../rewards/pool/supervisor.ts");
else if (role === "dashboard") await import("../dashboard/child.ts");
else if (role === "reward") {
  (await import("../rewards/pool/public-api.ts")).offerPublicApi(() => import("../index.ts"));
  await import("../rewards/pool/child.ts");
} else if (import.meta.main) await runProcess();
