/**
 * The earlier contents of an output folder that a new run is replacing: they are kept in `.earlier-run`, and removed once
 * the new run has a checkpoint or a model of its own. If it never does, they are restored, and what the new run had
 * written goes to `.unfinished`. A run that resumes from an earlier step has no permission to remove the later ones, so
 * they are kept as `after-step-N`. `settleEarlier` repairs a crash between any two steps of this.
 */
import { cpSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { recoverFolder, syncFolder, writeFileAtomic } from "../files/atomic.ts";
import { writeFailure } from "../files/refusals.ts";
import { completionsFolder, heldIn, metricsFile, runNames, trackerFolders } from "./held.ts";
import { interruptedCheckpoints, isComplete, isFolder, listCheckpoints } from "./state.ts";
import { finishTogether, togetherNames } from "./together.ts";

/** Being filled, or being emptied again: its contents belong outside. */
const moving = ".earlier-run.moving";
/** Complete: the new run may write. */
const earlier = ".earlier-run";
/** No longer needed. */
const going = ".earlier-run.going";
export const unfinished = ".unfinished";
/** The step up to which the files left outside belong to the earlier run too. */
const keptName = ".kept-step";

/** Whether an earlier run is kept, to be restored unless this one saves something. */
export const isEarlierWaiting = (folder: string): boolean => existsSync(join(folder, earlier));

/** Whether there is something to repair or restore. */
export function isUnsettled(folder: string): boolean {
  return (
    [moving, earlier, going, ...togetherNames].some((name) => existsSync(join(folder, name))) ||
    (isFolder(folder) && interruptedCheckpoints(folder).length > 0)
  );
}

/**
 * Moves everything that `heldIn` finds out of the way; for a run that resumes from an earlier step, only what came after
 * it. The caller has the folder's lock and has settled it.
 *
 * @param keptStep the step to resume from; −1: a new run
 * @returns the names of what was moved
 */
export function setAside(folder: string, keptStep: number): readonly string[] {
  const names = keptStep < 0 ? (heldIn(folder)?.names ?? []) : laterThan(folder, keptStep);
  if (names.length === 0) return names;
  const place = join(folder, moving);
  try {
    mkdirSync(place);
    writeFileAtomic(join(place, keptName), String(keptStep));
    if (keptStep >= 0) copyCut(folder, place);
    for (const name of names) {
      mkdirSync(dirname(join(place, name)), { recursive: true });
      renameSync(join(folder, name), join(place, name));
    }
    syncFolder(folder);
    renameSync(place, join(folder, earlier));
    syncFolder(folder);
  } catch (error) {
    moveBack(folder);
    throw writeFailure(error, folder);
  }
  return names;
}

/** The metrics and trackers of a resumed run are cut in place, so copies are kept. */
function copyCut(folder: string, place: string): void {
  const metrics = join(folder, metricsFile);
  if (existsSync(metrics)) writeFileAtomic(join(place, metricsFile), readFileSync(metrics));
  for (const name of runNames(folder, trackerFolders))
    cpSync(join(folder, name), join(place, name), { recursive: true });
}

/** The earlier run's checkpoints and recorded rollouts after a step; if there are any, also its model. */
function laterThan(folder: string, step: number): string[] {
  const later = listCheckpoints(folder).filter((checkpoint) => checkpoint.step > step);
  if (later.length === 0) return [];
  const completions = join(folder, completionsFolder);
  const rollouts = existsSync(completions) ? readdirSync(completions) : [];
  const kept = (name: string) =>
    [metricsFile, completionsFolder, ...trackerFolders].includes(name) || name.startsWith("checkpoint-");
  return [
    ...later.map((checkpoint) => `checkpoint-${checkpoint.step}`),
    ...rollouts
      .filter((name) => Number(/^step-(\d+)\.jsonl$/.exec(name)?.[1] ?? -1) > step)
      .map((name) => join(completionsFolder, name)),
    ...(heldIn(folder)?.names ?? []).filter((name) => !kept(name)),
  ];
}

/** The step up to which the files left outside belong to the kept run; −1: none. */
function keptStepOf(folder: string): number {
  const kept = join(folder, earlier, keptName);
  return existsSync(kept) ? Number(readFileSync(kept, "utf8")) : -1;
}

/**
 * Whether the new run has something of its own to replace the earlier one with. A checkpoint before the first step is
 * only the model that it started from.
 */
function isReplaced(folder: string, keptStep: number): boolean {
  const since = Math.max(keptStep, 0);
  if (listCheckpoints(folder).some((checkpoint) => checkpoint.step > since && isComplete(checkpoint.folder)))
    return true;
  // All files of a model appear in the folder together.
  return heldIn(folder)?.hasResult ?? false;
}

/** A new folder for what a run had after `step`, once it continues differently from there. */
export function afterStep(folder: string, step: number): string {
  const name = (n: number): string => join(folder, `after-step-${step}${n === 1 ? "" : `-${n}`}`);
  let n = 1;
  while (existsSync(name(n))) n++;
  return name(n);
}

/** Removes the earlier run if the new one has something of its own. */
export function dropEarlier(folder: string): void {
  const place = join(folder, earlier);
  if (!existsSync(place)) return;
  const keptStep = keptStepOf(folder);
  if (!isReplaced(folder, keptStep)) return;
  if (keptStep >= 0) {
    const kept = afterStep(folder, keptStep);
    renameSync(place, kept);
    syncFolder(folder);
    rmSync(join(kept, keptName), { force: true });
    return;
  }
  renameSync(place, join(folder, going));
  rmSync(join(folder, going), { recursive: true, force: true });
}

type Settled = "put back" | "put back, the new one aside";

/**
 * Repairs what a dead process left, and decides what happens to `.earlier-run`. The caller has the folder's lock.
 *
 * @returns null: there was no earlier run, or the new one replaces it
 * @throws RunError if files cannot be moved
 */
export function settleEarlier(folder: string): Settled | null {
  try {
    for (const checkpoint of interruptedCheckpoints(folder)) recoverFolder(checkpoint, true);
    finishTogether(folder);
    moveBack(folder);
    rmSync(join(folder, going), { recursive: true, force: true });
    const place = join(folder, earlier);
    if (!existsSync(place)) return null;
    dropEarlier(folder);
    if (!existsSync(place)) return null;
    const isKept = keepUnfinished(folder);
    renameSync(place, join(folder, moving));
    moveBack(folder);
    return isKept ? "put back, the new one aside" : "put back";
  } catch (error) {
    throw writeFailure(error, folder);
  }
}

/** Moves aside what the new run wrote: its metrics may say why it failed. False: there was nothing. */
function keepUnfinished(folder: string): boolean {
  // For a resumed run, the files outside are the earlier one's, except for a few steps that will be repeated.
  const names = keptStepOf(folder) >= 0 ? [] : (heldIn(folder)?.names ?? runNames(folder, readdirSync(folder)));
  for (const name of names) keep(folder, name);
  return names.length > 0;
}

function keep(folder: string, name: string): void {
  const place = join(folder, unfinished);
  mkdirSync(place, { recursive: true });
  rmSync(join(place, name), { recursive: true, force: true });
  renameSync(join(folder, name), join(place, name));
}

function moveBack(folder: string): void {
  const place = join(folder, moving);
  if (!existsSync(place)) return;
  for (const name of readdirSync(place)) {
    if (name.startsWith(".")) continue; // the step, or an incomplete copy of the metrics
    if (name === completionsFolder && existsSync(join(folder, name)))
      for (const file of readdirSync(join(place, name))) renameSync(join(place, name, file), join(folder, name, file));
    else {
      if (lstatSync(join(folder, name), { throwIfNoEntry: false })?.isDirectory()) keep(folder, name);
      renameSync(join(place, name), join(folder, name));
    }
  }
  syncFolder(folder);
  rmSync(place, { recursive: true, force: true });
}
