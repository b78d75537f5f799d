/** Several processes that train as one, on one machine or several. */
import { toggle, whole } from "./kinds.ts";

/** For the commands whose work can be divided. */
export const rankSettings = {
  ranks: whole(1, null)`
    Start this many processes on this machine, which divide the work; the results do not depend on their number. null: one,
    or as many as torchrun, mpirun or srun has started. --gpus N is short for --ranks N --device cuda.`,
} as const;

export const stepRankSettings = {
  gradient_shards: whole(1, null)`
    Parts of a step whose gradients are summed in a fixed order: equal values give equal bits for any number of ranks up to
    it. null: 8 where ranks are asked for or started (more than 8 of them: the next power of two), otherwise 1.`,
  shard_optimizer: toggle(true)`
    Each rank keeps the masters and moments of its share of the weights only, and updates it (ZeRO-1): less memory with more
    ranks, and the same bits.`,
} as const;
