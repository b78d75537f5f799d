/**
 * Dynamic sampling (DAPO, Yu et al. 2025, arXiv 2503.14476, section 3.2): a group whose completions all have the same
 * reward has advantage 0 and teaches nothing, so the next prompt's group takes its place, in the same continuous batch.
 *
 * Which groups are accepted does not depend on time: the first `wanted` groups with signal in the order they were
 * drawn, never in the order they were completed. A group that earlier groups have already made superfluous is stopped;
 * what was drawn behind the last accepted group is drawn again for the next generation.
 * Leaves out how a group is scored and which reward says whether it has signal.
 */
import { unlessStopped } from "../device/stopping.ts";
import type { Rollout } from "../rollout/rollout.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import { sampledTokens } from "./sample.ts";

export interface DynamicSamplingOptions<Drawn, Score> {
  /** Groups of one generation. */
  readonly wanted: number;
  /** Groups drawn for it at most. */
  readonly most: number;
  /** Groups sampled beyond those that are needed so far: they fill the batch while the last ones end. */
  readonly ahead: number;
  /** Completions of a group. */
  readonly samples: number;
  /**
   * A group is given up when its first so many completions have no signal; null: it is sampled to the end. So are the
   * last `wanted` groups that may be drawn: where the bound is reached they fill the generation.
   */
  readonly probe: number | null; // below `samples`
  /** The next prompt. */
  readonly draw: () => { readonly drawn: Drawn; readonly promptIds: Int32Array };
  /**
   * Scores some of a group's completions, the first ones or all. The next decode step waits for this: it is for what must
   * have the device to itself; `rest` goes on beside sampling.
   */
  readonly score: (
    drawn: Drawn,
    completions: readonly SampledCompletion[],
  ) => Promise<{ readonly rest: Promise<Score> }>;
  readonly hasSignal: (score: Score) => boolean;
  readonly onProgress: (finished: number, total: number) => void;
  readonly shouldStop: () => boolean;
  /** How long scores under way are waited for once it says so. */
  readonly graceMs: number;
}

/** A complete group with its score. */
export interface ScoredDraw<Drawn, Score> {
  readonly drawn: Drawn;
  /** Its place in the order of drawing, from 0: the `prompt` of its random numbers' key. */
  readonly place: number;
  readonly completions: readonly SampledCompletion[];
  readonly score: Score;
}

export interface DynamicOutcome<Drawn, Score> {
  /** `wanted` of them, in the order of drawing. */
  readonly accepted: readonly ScoredDraw<Drawn, Score>[];
  /** Accepted groups without signal: the bound on draws was reached. */
  readonly withoutSignal: number;
  /** Groups thrown away for want of signal, up to the last accepted one. */
  readonly discarded: number;
  /** Prompts drawn up to and including the last accepted one: where the next generation goes on. */
  readonly drawn: number;
  /** Sampled tokens of the completions that were thrown away with their groups. */
  readonly discardedTokens: number;
  /** Tokens of their prompts, once for each of these completions. */
  readonly discardedPromptTokens: number;
}

/** A group from its drawing on. */
interface DrawnGroup<Drawn, Score> {
  readonly drawn: Drawn;
  /** As in `ScoredDraw`, and its request's in the rollout. */
  readonly place: number;
  readonly promptTokens: number;
  readonly completions: (SampledCompletion | undefined)[];
  /** `open`: undecided; `dull`: no signal; `dropped`: stopped as superfluous. */
  status: "open" | "signal" | "dull" | "dropped";
  /** Completions that are scored next, from the first on; once it is decided, those that the decision was made on. */
  judged: number;
  /** They are being scored, or were. */
  judging: boolean;
  /** Of the whole group. */
  score: Score | null;
}

/**
 * Samples groups until enough of them have signal, or as many are drawn as may be.
 *
 * @returns null when it was stopped
 * @throws what `score` throws
 */
export async function sampleWithSignal<Drawn, Score>(
  rollout: Omit<Rollout, "feed">,
  options: DynamicSamplingOptions<Drawn, Score>,
): Promise<DynamicOutcome<Drawn, Score> | null> {
  const { wanted, most, samples, probe, shouldStop } = options;
  type Group = DrawnGroup<Drawn, Score>;
  const groups: Group[] = [];
  /** Groups whose completions are there to be scored. */
  const due: Group[] = [];
  /** Scores under way, and what to do about those that have come: between two tokens, not before. */
  const underWay = new Set<Promise<void>>();
  const come: (() => void)[] = [];

  const draw = (): void => {
    const { drawn, promptIds } = options.draw();
    const place = rollout.add({ promptIds, samples, prompt: groups.length });
    const completions = new Array<SampledCompletion | undefined>(samples).fill(undefined);
    const judged = probe === null || place >= most - wanted ? samples : probe;
    const group = { drawn, place, promptTokens: promptIds.length, completions };
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
    else rollout.drop(group.place);
  };

  while (needsMore(groups, options)) draw();
  for (;;) {
    if (shouldStop()) return null;
    for (const group of due.splice(0)) if (group.status === "open") await startScoring(group);
    if (come.length > 0) {
      for (const act of come.splice(0)) act();
      for (const group of superfluous(groups, wanted)) {
        group.status = "dropped";
        rollout.drop(group.place);
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
      if (underWay.size === 0) return outcomeOf(groups, wanted);
      if ((await unlessStopped(Promise.race(underWay), shouldStop, options.graceMs)) === null) return null;
    }
  }
}

type Status = Pick<DrawnGroup<unknown, unknown>, "status">;

/** Whether the groups with signal and the undecided ones are too few. */
function needsMore(
  groups: readonly Status[],
  { wanted, most, ahead }: Pick<DynamicSamplingOptions<never, never>, "wanted" | "most" | "ahead">,
): boolean {
  const count = (status: Status["status"]) => groups.filter((group) => group.status === status).length;
  const signals = count("signal");
  return signals < wanted && groups.length < most && signals + count("open") < wanted + ahead;
}

/** Undecided groups behind `wanted` ones with signal. */
function superfluous<Group extends Status>(groups: readonly Group[], wanted: number): Group[] {
  let signals = 0;
  return groups.filter(({ status }) => {
    if (status === "signal") signals++;
    return status === "open" && signals >= wanted;
  });
}

/** The first `wanted` groups with signal; where the bound on draws was reached, whole ones without fill up. */
function outcomeOf<Drawn, Score>(
  groups: readonly DrawnGroup<Drawn, Score>[],
  wanted: number,
): DynamicOutcome<Drawn, Score> {
  const complete = groups.filter(({ score }) => score !== null);
  const withSignal = complete.filter(({ status }) => status === "signal").slice(0, wanted);
  const fill = complete.filter(({ status }) => status === "dull").slice(0, wanted - withSignal.length);
  const kept = new Set([...withSignal, ...fill]);
  const drawn = withSignal.length < wanted ? groups.length : withSignal.at(-1)!.place + 1;
  const thrown = groups.slice(0, drawn).filter((group) => !kept.has(group));
  // Of a group that was given up, only what the decision rests on is counted: the rest depends on time.
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
