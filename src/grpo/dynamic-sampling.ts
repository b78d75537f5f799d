/**
 * Dynamic sampling (DAPO, Yu et al. 2025, arXiv 2503.14476, section 3.2): a group whose completions all have the same
 * reward has advantage 0 and teaches nothing, so the next prompt's group takes its place, in the same continuous batch.
 *
 * Which groups are accepted does not depend on time: the first `wanted` groups with signal in the order they were
 * drawn, never in the order they were completed. A group that earlier groups have already made superfluous is stopped;
 * what was drawn behind the last accepted group is drawn again for the next generation.
 * Leaves out how a group is scored and which reward says whether it has signal.
 */
import type { RolloutEvents, RolloutFeed } from "../rollout/engine.ts";
import type { RolloutRequest, SampledCompletion } from "../rollout/sequence.ts";

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
   * Scores some of a group's completions, the first ones or all. Called between two decode steps, which wait for `device`:
   * what must have the device to itself; `rest` goes on beside sampling.
   */
  readonly score: (
    drawn: Drawn,
    completions: readonly SampledCompletion[],
  ) => Promise<{ readonly rest: Promise<Score> }>;
  readonly hasSignal: (score: Score) => boolean;
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
  /** Tokens of the completions that were thrown away with their groups. */
  readonly discardedTokens: number;
  /** Tokens of their prompts, once for each of these completions. */
  readonly discardedPromptTokens: number;
}

interface Entry<Drawn, Score> {
  readonly drawn: Drawn;
  readonly promptTokens: number;
  readonly completions: (SampledCompletion | undefined)[];
  missing: number;
  /** `open`: not all there; `dull`: no signal; `dropped`: stopped as superfluous. */
  status: "open" | "signal" | "dull" | "dropped";
  /** Of a group's first completions: still to come, being judged, found to have signal (or not asked for). */
  probe: "waiting" | "running" | "passed";
  /** Completions that the decision was made on. */
  judged: number;
  score: Score | null;
}

type Change = Awaited<ReturnType<RolloutFeed["next"]>>;
const NO_CHANGE: Change = { add: [], drop: [] };

/** The first requests, what the rollout calls meanwhile, and what came of it. */
export function createDynamicSampling<Drawn, Score>(options: DynamicSamplingOptions<Drawn, Score>) {
  const { wanted, most, ahead, samples, probe } = options;
  const entries: Entry<Drawn, Score>[] = [];
  /** Completions to score at the next turn: a whole group (all) or its first ones. */
  const toScore: { readonly place: number; readonly count: number }[] = [];
  const underWay = new Set<Promise<void>>();
  let failure: unknown;
  let failed = false;
  let changed = false;

  const draw = (): RolloutRequest => {
    const { drawn, promptIds } = options.draw();
    const place = entries.length;
    const empty = new Array<SampledCompletion | undefined>(samples).fill(undefined);
    entries.push({
      ...{
        drawn,
        promptTokens: promptIds.length,
        completions: empty,
        missing: samples,
        status: "open",
        judged: 0,
        score: null,
      },
      probe: probe === null || place >= most - wanted ? "passed" : "waiting",
    });
    return { promptIds, samples, prompt: place };
  };

  const decide = (place: number, count: number, score: Score): void => {
    const entry = entries[place]!;
    if (entry.status !== "open") return;
    const signal = options.hasSignal(score);
    if (count < samples && signal) {
      entry.probe = "passed"; // on to the whole group
      if (entry.missing === 0) toScore.push({ place, count: samples });
      return;
    }
    entry.status = signal ? "signal" : "dull";
    entry.judged = count;
    if (count === samples) entry.score = score;
    changed = true;
  };

  const startScoring = async (): Promise<void> => {
    for (const { place, count } of toScore.splice(0)) {
      const entry = entries[place]!;
      if (entry.status !== "open") continue;
      const { rest } = await options.score(entry.drawn, entry.completions.slice(0, count) as SampledCompletion[]);
      const ended = rest
        .then((score) => decide(place, count, score))
        .catch((error) => {
          failed = true;
          failure ??= error;
        })
        .finally(() => underWay.delete(ended));
      underWay.add(ended);
    }
  };

  /** Groups that earlier ones with signal have made superfluous. */
  const superfluous = (): number[] => {
    const drop: number[] = [];
    let signals = 0;
    for (const [place, entry] of entries.entries()) {
      if (signals >= wanted && entry.status === "open") {
        entry.status = "dropped";
        drop.push(place);
      }
      if (entry.status === "signal") signals++;
    }
    return drop;
  };

  /** What the decisions made since the last time change. */
  const react = (): Change => {
    changed = false;
    const decidedEarly = entries.flatMap((e, place) => (e.status === "dull" && e.missing > 0 ? [place] : []));
    const drop = [...decidedEarly, ...superfluous()];
    for (const place of drop) entries[place]!.missing = 0;
    const add: RolloutRequest[] = [];
    const count = (status: string) => entries.filter((e) => e.status === status).length;
    const signals = count("signal");
    while (signals < wanted && entries.length < most && signals + count("open") < wanted + ahead) add.push(draw());
    return add.length + drop.length > 0 ? { add, drop } : NO_CHANGE;
  };

  const feed: RolloutFeed = {
    async next(idle) {
      for (;;) {
        if (toScore.length > 0) await startScoring();
        if (failed) throw failure;
        const change = changed ? react() : NO_CHANGE;
        if (!idle || change !== NO_CHANGE || (underWay.size === 0 && toScore.length === 0)) return change;
        if (underWay.size > 0) await Promise.race(underWay);
      }
    },
  };

  const onCompletion: RolloutEvents["onCompletion"] = (place, sample, completion) => {
    const entry = entries[place]!;
    entry.completions[sample] = completion;
    entry.missing--;
    if (entry.probe === "waiting" && entry.completions.slice(0, probe!).every((c) => c !== undefined)) {
      entry.probe = "running";
      toScore.push({ place, count: probe! });
    } else if (entry.missing === 0 && entry.probe === "passed") toScore.push({ place, count: samples });
  };

  return {
    initial: Array.from({ length: Math.min(most, wanted + ahead) }, draw),
    events: { feed, onCompletion },

    /** Call when the rollout has ended of itself. */
    outcome(): DynamicOutcome<Drawn, Score> {
      const complete = entries.flatMap((entry, place) =>
        entry.score === null
          ? []
          : [{ drawn: entry.drawn, place, completions: entry.completions as SampledCompletion[], score: entry.score }],
      );
      const withSignal = complete.filter(({ place }) => entries[place]!.status === "signal").slice(0, wanted);
      const fill = complete
        .filter(({ place }) => entries[place]!.status === "dull")
        .slice(0, wanted - withSignal.length);
      const accepted = [...withSignal, ...fill].sort((a, b) => a.place - b.place);
      const bounded = withSignal.length < wanted;
      const drawn = bounded ? entries.length : withSignal.at(-1)!.place + 1;
      const kept = new Set(accepted.map(({ place }) => place));
      const thrown = entries.slice(0, drawn).filter((_, place) => !kept.has(place));
      // Of a group that was given up, only what the decision rests on is counted: the rest depends on time.
      const tokens = thrown.flatMap((e) => e.completions.slice(0, e.judged).map((c) => c!.completionIds.length));
      return {
        accepted,
        withoutSignal: fill.length,
        discarded: thrown.length,
        drawn,
        discardedTokens: tokens.reduce((a, b) => a + b, 0),
        discardedPromptTokens: thrown.reduce((sum, { promptTokens, judged }) => sum + promptTokens * judged, 0),
      };
    },
  };
}
