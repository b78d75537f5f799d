/** Runs of several ranks for tests: started by `--ranks`, or each by itself with the variables that torchrun sets. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { bytesOf } from "./recorded-bytes.ts";
import {
  argvOf,
  type Finished,
  type Flags,
  fingerprint,
  fingerprints,
  grpo,
  type Running,
  start,
  tinyTraining,
  until,
} from "./runs.ts";

/** Six groups of four completions a step: one to six ranks have something to do. One thread each, as cores are few. */
export const rankTraining: Flags = { ...tinyTraining, per_device_train_batch_size: 24, threads: 1, max_steps: 4 };

/**
 * `grpo COMMAND --ranks N` with a step of the same size for every N.
 *
 * @throws unless it ends as it should
 */
export async function onRanks(
  ranks: number,
  folder: string,
  flags: Flags,
  command = "train",
  seconds = 120,
): Promise<void> {
  const { per_device_train_batch_size: size } = flags;
  const each: Flags = size === undefined ? {} : { per_device_train_batch_size: Number(size) / ranks };
  const argv = argvOf({ ...flags, ...each, ranks, output_dir: folder });
  const { code, err } = await grpo([command, ...argv], { seconds });
  if (code !== 0) throw new Error(`grpo ${command} ${argv.join(" ")} ended with ${code}:\n${err}`);
}

/** Learned weights, metrics and completions of a run, as hashes. */
export function ranksBytes(folder: string) {
  const adapters = join(folder, "adapter_model.safetensors");
  return { ...bytesOf(folder), ...(existsSync(adapters) && { adapters: fingerprint(adapters) }) };
}

/** Every file of a checkpoint but the trainer's state, whose settings may differ, as hashes. */
export function checkpointBytes(folder: string): Record<string, string> {
  return Object.fromEntries(Object.entries(fingerprints(folder)).filter(([name]) => name !== "trainer_state.json"));
}

/** One rank of a run that torchrun would have started. */
export function startRank(rank: number, size: number, port: number, argv: readonly string[], env = {}): Running {
  const place = {
    RANK: String(rank),
    WORLD_SIZE: String(size),
    LOCAL_RANK: String(rank),
    LOCAL_WORLD_SIZE: String(size),
  };
  const meeting = { MASTER_ADDR: "127.0.0.1", MASTER_PORT: String(port), BUN_GRPO_SECRET: "of the test" };
  return start(argv, { env: { ...place, ...meeting, ...env }, seconds: 120 });
}

export const startRanks = (size: number, port: number, argv: (rank: number) => readonly string[]): Running[] =>
  Array.from({ length: size }, (_, rank) => startRank(rank, size, port, argv(rank)));

export const allFinished = (ranks: readonly Running[]): Promise<Finished[]> =>
  Promise.all(ranks.map(({ finished }) => finished));

/** A port that is free. */
export function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}

/** The processes that a process has started and that run, in order of their ranks. */
export function childrenOf(pid: number): number[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  return existsSync(path) ? readFileSync(path, "utf8").split(" ").filter(Boolean).map(Number) : [];
}

/** Anonymous memory of a process; 0 once it has ended. */
export function anonymousBytesOf(pid: number): number {
  const path = `/proc/${pid}/status`;
  try {
    return Number(/RssAnon:\s+(\d+) kB/.exec(readFileSync(path, "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** Waits until a run has made a step. */
export const untilStep = (folder: string, step: number): Promise<void> =>
  until(`step ${step} in ${folder}`, () => {
    const path = join(folder, "metrics.jsonl");
    return existsSync(path) && readFileSync(path, "utf8").includes(`{"step":${step},`);
  });

/** Names of temporary files that a run has left. */
export const leftIn = (folder: string): string[] => readdirSync(folder).filter((name) => name.endsWith(".tmp"));
