/**
 * Dynamic sampling (DAPO, Yu et al. 2025, arXiv 2503.14476, section 3.2): a group whose completions all have the same
 * reward has advantage 0 and teaches nothing, so the next prompt's group takes its place, in the same continuous batch.
 *
 * Which groups are accepted does not depend on time: the first `wanted` groups with signal in the order they were
 * drawn, never in the order they were completed. A group that earlier groups have made superfluous is stopped; groups
 * drawn after the last accepted one are drawn again for the next generation.
 *
 * The caller scores groups and decides which have signal.
 */
import { unlessStopped } from "../device/stopping.ts";
import type { Rollout } from "../rollout/rollout.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import { sampledTokens } from "./sample.ts";

export interface DynamicSamplingOptions<Drawn, Score> {
  /** Groups in one generation. */
  readonly wanted: number;
  /** Maximum number of groups drawn for it. */
  readonly most: number;
  /** Groups sampled beyond those needed so far; they keep the batch full while the last ones finish. */
  readonly ahead: number;
  /** Completions in a group. */
  readonly samples: number;
  /**
   * A group is abandoned if its first `probe` completions have no signal; null: every group is sampled to the end. The
   * last `wanted` groups that may be drawn always are: they fill the generation if the bound is reached.
   */
  readonly probe: number | null; // below `samples`
  /** Groups from this place on are sampled to the end; by default, those of the last `wanted` that may be drawn. */
  readonly wholeFrom?: number;
  /** The next prompt; its place counts the draws, unless it says another. */
  readonly draw: () => { readonly drawn: Drawn; readonly promptIds: Int32Array; readonly place?: number };
  /**
   * Scores the first completions of a group, or all. The next decode step waits for the outer promise, which is for
   * work that needs the device to itself; `rest` runs concurrently with sampling.
   */
  readonly score: (
    drawn: Drawn,
    completions: readonly SampledCompletion[],
  ) => Promise<{ readonly rest: Promise<Score> }>;
  readonly hasSignal: (score: Score) => boolean;
  readonly onProgress: (finished: number, total: number) => void;
  readonly shouldStop: () => boolean;
  /** How long to wait for scores in progress after `shouldStop` returns true. */
  readonly graceMs: number;
}

/** A complete group with its score. */
export interface ScoredDraw<Drawn, Score> {
  readonly drawn: Drawn;
  /** Position in drawing order, from 0: the `prompt` in its random numbers' key. */
  readonly place: number;
  readonly completions: readonly SampledCompletion[];
  readonly score: Score;
}

export interface DynamicOutcome<Drawn, Score> {
  /** `wanted` groups, in drawing order. */
  readonly accepted: readonly ScoredDraw<Drawn, Score>[];
  /** Groups accepted without signal because the bound on draws was reached. */
  readonly withoutSignal: number;
  /** Groups discarded for lack of signal, up to the last accepted one. */
  readonly discarded: number;
  /** Prompts drawn up to and including the last accepted one, where the next generation continues. */
  readonly drawn: number;
  /** Sampled tokens of the completions in discarded groups. */
  readonly discardedTokens: number;
  /** Tokens of their prompts, once per completion. */
  readonly discardedPromptTokens: number;
}

/** A group that has been drawn. */
export interface DrawnGroup<Drawn, Score> {
  readonly drawn: Drawn;
  /** As in `ScoredDraw`. */
  readonly place: number;
  /** Its request's place in the rollout. */
  readonly request: number;
  readonly promptTokens: number;
  readonly completions: (SampledCompletion | undefined)[];
  /** `open`: undecided; `dull`: no signal; `dropped`: stopped as superfluous. */
  status: "open" | "signal" | "dull" | "dropped";
  /** Number of leading completions to score next; after the decision, the number it was based on. */
  judged: number;
  /** Scoring of these has started. */
  judging: boolean;
  /** The whole group's. */
  score: Score | null;
}

/**
 * Samples groups until enough have signal or the bound on draws is reached.
 *
 * @returns null if it was stopped
 * @throws what `score` throws
 */
export async function sampleWithSignal<Drawn, Score>(
  rollout: Omit<Rollout, "feed">,
  options: DynamicSamplingOptions<Drawn, Score>,
): Promise<DynamicOutcome<Drawn, Score> | null> {
  const groups = await sampleGroups(rollout, options);
  return groups && outcomeOf(groups, options.wanted);
}

/** The same, all groups that were drawn. */
export async function sampleGroups<Drawn, Score>(
  rollout: Omit<Rollout, "feed">,
  options: DynamicSamplingOptions<Drawn, Score>,
): Promise<DrawnGroup<Drawn, Score>[] | null> {
  const { wanted, most, samples, probe, shouldStop, wholeFrom = most - wanted } = options;
  type Group = DrawnGroup<Drawn, Score>;
  const groups: Group[] = [];
  /** Groups ready to be scored. */
  const due: Group[] = [];
  /** Scores in progress, and actions for those that have arrived, which run between two tokens. */
  const underWay = new Set<Promise<void>>();
  const come: (() => void)[] = [];

  const draw = (): void => {
    const { drawn, promptIds, place = groups.length } = options.draw();
    const request = rollout.add({ promptIds, samples, prompt: place });
    const completions = new Array<SampledCompletion | undefined>(samples).fill(undefined);
    const judged = probe === null || place >= wholeFrom ? samples : probe;
    const group = { drawn, place, request, promptTokens: promptIds.length, completions };
    groups.push({ ...group, status: "open", judged, judging: false, score: null });
  };

  const scoreWhenDue = (group: Group): void => {
    if (group.judging || group.completions.slice(0, group.judged).includes(undefined)) return;
    group.judging = true;
    due.push(group);
  };

  const startScoring = async (group: Group): Promise<void> => {
    const completions = group.completions.slice(0, group.judged) as SampledCompletion[];
    const { rest } = await options.score(group.drawn, completions);
    const settled = rest
      .then(
        (score) => () => decide(group, score),
        (error) => () => {
          throw error;
        },
      )
      .then((act) => {
        come.push(act);
        underWay.delete(settled);
      });
    underWay.add(settled);
  };

  const decide = (group: Group, score: Score): void => {
    if (group.status !== "open") return;
    const signal = options.hasSignal(score);
    const whole = group.judged === samples;
    if (signal && !whole) {
      group.judged = samples;
      group.judging = false;
      scoreWhenDue(group);
      return;
    }
    group.status = signal ? "signal" : "dull";
    if (whole) group.score = score;
    else rollout.drop(group.request);
  };

  while (needsMore(groups, options)) draw();
  for (;;) {
    if (shouldStop()) return null;
    for (const group of due.splice(0)) if (group.status === "open") await startScoring(group);
    if (come.length > 0) {
      for (const act of come.splice(0)) act();
      for (const group of superfluous(groups, wanted)) {
        group.status = "dropped";
        rollout.drop(group.request);
      }
      while (needsMore(groups, options)) draw();
    }
    if (rollout.finished < rollout.total) {
      for (const sequence of await rollout.step()) {
        const group = groups[sequence.place]!;
        group.completions[sequence.sample] = rollout.end(sequence);
        scoreWhenDue(group);
      }
      options.onProgress(rollout.finished, rollout.total);
    } else if (due.length === 0) {
      if (underWay.size === 0) return groups;
      if ((await unlessStopped(Promise.race(underWay), shouldStop, options.graceMs)) === null) return null;
    }
  }
}

type Status = Pick<DrawnGroup<unknown, unknown>, "status">;

/** Whether too few groups have signal or are undecided. */
function needsMore(
  groups: readonly Status[],
  { wanted, most, ahead }: Pick<DynamicSamplingOptions<never, never>, "wanted" | "most" | "ahead">,
): boolean {
  const count = (status: Status["status"]) => groups.filter((group) => group.status === status).length;
  const signals = count("signal");
  return signals < wanted && groups.length < most && signals + count("open") < wanted + ahead;
}

/** Undecided groups drawn after `wanted` ones with signal. */
function superfluous<Group extends Status>(groups: readonly Group[], wanted: number): Group[] {
  let signals = 0;
  return groups.filter(({ status }) => {
    if (status === "signal") signals++;
    return status === "open" && signals >= wanted;
  });
}

/** The first `wanted` groups with signal; if the bound on draws was reached, complete ones without signal fill up. */
export function outcomeOf<Drawn, Score>(
  groups: readonly DrawnGroup<Drawn, Score>[],
  wanted: number,
): DynamicOutcome<Drawn, Score> {
  const complete = groups.filter(({ score }) => score !== null);
  const withSignal = complete.filter(({ status }) => status === "signal").slice(0, wanted);
  const fill = complete.filter(({ status }) => status === "dull").slice(0, wanted - withSignal.length);
  const kept = new Set([...withSignal, ...fill]);
  const drawn = withSignal.length < wanted ? groups.length : withSignal.at(-1)!.place + 1;
  const thrown = groups.slice(0, drawn).filter((group) => !kept.has(group));
  // For an abandoned group, count only what the decision was based on: the rest depends on timing.
  const tokens = thrown.flatMap((g) => g.completions.slice(0, g.judged).map((c) => sampledTokens(c!)));
  return {
    accepted: groups
      .filter((group) => kept.has(group))
      .map(({ drawn, place, completions, score }) => ({
        ...{ drawn, place, completions: completions as SampledCompletion[], score: score! },
      })),
    withoutSignal: fill.length,
    discarded: thrown.length,
    drawn,
    discardedTokens: tokens.reduce((a, b) => a + b, 0),
    discardedPromptTokens: thrown.reduce((sum, { promptTokens, judged }) => sum + promptTokens * judged, 0),
  };
}
