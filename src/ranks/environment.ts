/**
 * Which rank of how many this process is, as its launcher says in environment variables: `grpo train --ranks`, torchrun,
 * Open MPI, MPICH (and others that speak PMI) or Slurm's srun. Reads variables only; join.ts makes the ranks meet.
 */
import { InputError } from "../errors.ts";

/** Where rank 0 listens until all ranks have come. */
export interface Rendezvous {
  readonly host: string;
  readonly port: number;
}

export interface Placement {
  /** For messages: "torchrun", "Slurm", … */
  readonly launcher: string;
  readonly rank: number;
  readonly size: number;
  /** Its place among the ranks of this machine, and how many these are; null: the launcher does not say. */
  readonly localRank: number | null;
  readonly localSize: number | null;
  readonly rendezvous: Rendezvous | null;
  /** What the ranks of a run have in common and nobody else knows; null: none is given. */
  readonly secret: string | null;
  /** The process of `grpo train --ranks` that started this one; null: another launcher did. */
  readonly parent: number | null;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Set by the user where the launcher is not ours. */
export const secretVariable = "BUN_GRPO_SECRET";
/** `tcp`: ranks of one machine send each other what they could read from memory. */
export const exchangeVariable = "BUN_GRPO_RANKS_EXCHANGE";
/** Set by `--ranks`: its process. */
export const parentVariable = "BUN_GRPO_RANKS_PARENT";

interface Names {
  readonly launcher: string;
  readonly rank: string;
  readonly size: readonly string[];
  readonly localRank: string;
  readonly localSize: readonly string[];
  /** Variables without which these do not count. */
  readonly needs?: string;
}

/** In the order in which they are looked for: what is more particular first. */
const launchers: readonly Names[] = [
  {
    launcher: "torchrun",
    rank: "RANK",
    size: ["WORLD_SIZE"],
    localRank: "LOCAL_RANK",
    localSize: ["LOCAL_WORLD_SIZE"],
  },
  {
    launcher: "Open MPI",
    rank: "OMPI_COMM_WORLD_RANK",
    size: ["OMPI_COMM_WORLD_SIZE"],
    localRank: "OMPI_COMM_WORLD_LOCAL_RANK",
    localSize: ["OMPI_COMM_WORLD_LOCAL_SIZE"],
  },
  {
    launcher: "MPICH",
    rank: "PMI_RANK",
    size: ["PMI_SIZE"],
    localRank: "MPI_LOCALRANKID",
    localSize: ["MPI_LOCALNRANKS"],
  },
  {
    launcher: "Slurm",
    rank: "SLURM_PROCID",
    size: ["SLURM_STEP_NUM_TASKS"],
    localRank: "SLURM_LOCALID",
    localSize: ["SLURM_STEP_TASKS_PER_NODE"],
    // A batch script has the job's variables without being one of its tasks.
    needs: "SLURM_STEP_ID",
  },
];

function count(env: Environment, name: string, least: number): number {
  const value = env[name] ?? "";
  if (!/^\d{1,6}$/.test(value) || Number(value) < least)
    throw new InputError(
      `environment variable ${name} is ${JSON.stringify(value)}: it must be a whole number ≥ ${least}`,
    );
  return Number(value);
}

/** Slurm writes "4(x2),1": only where all nodes have as many is it known for this one. */
function tasksHere(env: Environment, names: readonly string[]): number | null {
  const text = names.map((name) => env[name]).find((value) => value !== undefined);
  const same = /^(\d{1,6})(?:\(x\d+\))?$/.exec(text ?? "");
  return same ? Number(same[1]) : null;
}

/** The first host of Slurm's list: "gpu[03-05,9],cpu1" → "gpu03". */
export function firstHost(list: string): string {
  const [, name = "", range] = /^([^,[]+)(?:\[([^\]]*)\])?/.exec(list) ?? [];
  return name + (range ?? "").split(/[-,]/)[0]!;
}

function rendezvousOf(env: Environment, { launcher }: Names): Rendezvous | null {
  const { MASTER_ADDR, MASTER_PORT, SLURM_STEP_NODELIST, SLURM_STEP_NUM_NODES, SLURM_JOB_ID, SLURM_STEP_ID } = env;
  if (MASTER_ADDR && MASTER_PORT) {
    const port = count(env, "MASTER_PORT", 1);
    if (port > 65535) throw new InputError(`environment variable MASTER_PORT is ${port}: ports end at 65535`);
    return { host: MASTER_ADDR, port };
  }
  if (MASTER_ADDR || MASTER_PORT) {
    const [has, lacks] = MASTER_ADDR ? ["MASTER_ADDR", "MASTER_PORT"] : ["MASTER_PORT", "MASTER_ADDR"];
    throw new InputError(`environment variable ${has} is set and ${lacks} is not; set both, or neither`);
  }
  if (launcher !== "Slurm" || !SLURM_JOB_ID) return null;
  const host = SLURM_STEP_NUM_NODES === "1" ? "127.0.0.1" : firstHost(SLURM_STEP_NODELIST ?? "");
  // One port for each step of each job, away from those that systems give out.
  const port = 12_000 + ((Number(SLURM_JOB_ID) * 7 + Number(SLURM_STEP_ID)) % 20_000);
  return host === "" ? null : { host, port };
}

/**
 * The process's place in a run of several ranks; null: it is alone. One rank of a launcher other than ours is alone.
 *
 * @throws InputError for variables that contradict each other or make no sense
 */
export function placementOf(env: Environment = process.env): Placement | null {
  for (const names of launchers) {
    const { rank: rankName, needs } = names;
    const sizeName = names.size.find((name) => env[name] !== undefined);
    if (env[rankName] === undefined || sizeName === undefined || (needs && env[needs] === undefined)) continue;
    const size = count(env, sizeName, 1);
    const rank = count(env, rankName, 0);
    if (rank >= size) throw new InputError(`environment variable ${rankName} is ${rank}: ${sizeName} is ${size}`);
    if (size === 1) return null;
    const parent = env[parentVariable] === undefined ? null : count(env, parentVariable, 1);
    return {
      ...{ launcher: parent === null ? names.launcher : "--ranks", rank, size, parent },
      localRank: env[names.localRank] === undefined ? null : count(env, names.localRank, 0),
      localSize: tasksHere(env, names.localSize),
      rendezvous: rendezvousOf(env, names),
      secret: env[secretVariable] || null,
    };
  }
  return null;
}

/** Whether this process is the one of its run that speaks to the user. */
export function speaks(env: Environment = process.env): boolean {
  try {
    return (placementOf(env)?.rank ?? 0) === 0;
  } catch {
    return true; // It will end by saying what is wrong.
  }
}
