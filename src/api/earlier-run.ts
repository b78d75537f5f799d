/** What a training run makes of an earlier one in its folder: the checkpoint to resume from, and whether it may be replaced. */
import { runRecord } from "../checkpoint/held.ts";
import { latestCheckpoint, listCheckpoints } from "../checkpoint/state.ts";
import { trainerState } from "../grpo/run-state.ts";
import { readCheckpointState } from "../session/checkpointing.ts";

/** The checkpoint to resume from, or null for a run from the start. */
export function resumeFolder(setting: string | true | null, outputDir: string): string | null {
  if (setting === null) return null;
  return setting === true ? latestCheckpoint(outputDir) : setting;
}

/**
 * Whether a bundled run left what is there, and every checkpoint is one of the bundled model: nothing is lost with it that
 * a minute would not remake.
 */
export function isOfBundledRun(outputDir: string): boolean {
  if (runRecord(outputDir)?.bundled !== true) return false;
  return listCheckpoints(outputDir).every(({ folder }) => {
    try {
      const { config } = readCheckpointState(folder, trainerState);
      return config.model === null && config.dataset === null;
    } catch {
      return false;
    }
  });
}
