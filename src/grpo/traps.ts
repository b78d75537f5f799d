/**
 * Signs, in the metrics of a run, that it cannot learn or learns something else than was meant, with the cure. Each is told when
 * it holds, and not again before it has been gone for a while (step-warnings.ts); in between lies a band where it neither
 * begins nor ends. Settings that are a trap from the start are warned about in config/checks.ts.
 */
import { verifierRewards } from "../config/reward-names.ts";
import { mean } from "../metrics/statistics.ts";

export type Values = Readonly<Record<string, number | null | undefined>>;

/** What a trap looks at. */
export interface Seen {
  /** Of this step. */
  readonly record: Values;
  /** Completions of a group are compared with each other, and no group has differing rewards. */
  readonly flat: boolean;
  /** The last `count` values of a metric, this step's last; fewer if there are fewer; null ones are left out. */
  last(name: string, count: number): readonly number[];
  /** Its first five values, null ones left out. */
  first(name: string): readonly number[];
  /** Accuracy on held-out problems, as evaluated in the last `windowSteps` steps, and once before. */
  readonly accuracies: readonly number[];
}

export interface Trap {
  readonly name: string;
  /** The condition in words, for the docs. */
  readonly when: string;
  /** And that of its end. */
  readonly until: string;
  readonly holds: (seen: Seen) => boolean;
  readonly isOver: (seen: Seen) => boolean;
  readonly text: (seen: Seen) => string;
}

/** How far back the growth of lengths is looked at. */
export const windowSteps = 50;

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const [below, above] = [sorted[(sorted.length - 1) >> 1]!, sorted[sorted.length >> 1]!];
  return (below + above) / 2;
}

/** Pearson's; 0 if either does not vary. */
export function correlation(x: readonly number[], y: readonly number[]): number {
  const [mx, my] = [mean(x) ?? 0, mean(y) ?? 0];
  let [xy, xx, yy] = [0, 0, 0];
  for (const [i, value] of x.entries()) {
    xy += (value - mx) * (y[i]! - my);
    xx += (value - mx) ** 2;
    yy += (y[i]! - my) ** 2;
  }
  return xx === 0 || yy === 0 ? 0 : xy / Math.sqrt(xx * yy);
}

// Nothing is scored, nothing differs, nothing ends

const nothingScored: Trap = {
  name: "nothing scored",
  when: "no completion of a step has a reward",
  until: "some have",
  holds: ({ record }) => record.reward === null,
  isOver: ({ record }) => record.reward !== null,
  text: () =>
    "no completion was scored: this step learned nothing from rewards; check the gold answers' column (answer_column) and what " +
    "the reward functions return",
};

const equalRewards: Trap = {
  name: "equal rewards",
  when: "in a step, all rewards within each group are equal",
  until: "some differ",
  holds: ({ record, flat }) => flat && record.reward !== null,
  isOver: ({ flat }) => !flat,
  text: ({ record }) =>
    `all rewards within each group are equal (mean ${(record.reward ?? 0).toFixed(3)}): this step learned nothing from them; ` +
    "use easier or harder prompts, more num_generations, or a finer reward",
};

const cutShare = ({ record }: Seen): number => record["completions/clipped_ratio"] ?? 0;

const recentCut = (seen: Seen): number => {
  const values = seen.last("completions/clipped_ratio", 5);
  return values.length < 5 ? 0 : (mean(values) ?? 0);
};

const everythingCut: Trap = {
  name: "everything truncated",
  when: "`completions/clipped_ratio` is 1, or over 5 steps 0.95 on average",
  until: "below 0.9",
  holds: (seen) => cutShare(seen) >= 1 || recentCut(seen) >= 0.95,
  isOver: (seen) => cutShare(seen) < 0.9,
  text: (seen) =>
    `${cutShare(seen) >= 1 ? "every completion was" : `${percent(recentCut(seen))} of the completions are`} cut at max_completion_length: ` +
    "answers are lost, and mask_truncated_completions would drop them; " +
    "raise max_completion_length, or check the stop token and the chat template",
};

// The policy moves too far

const clippedShare = ({ record }: Seen): number =>
  Math.max(record["clip_ratio/region_mean"] ?? 0, record.cispo_clip_ratio ?? 0);

const everythingClipped: Trap = {
  name: "ratios clipped",
  when: "`clip_ratio/region_mean` (or `cispo_clip_ratio`) is above 0.5",
  until: "below 0.3",
  holds: (seen) => clippedShare(seen) > 0.5,
  isOver: (seen) => clippedShare(seen) < 0.3,
  text: (seen) =>
    `${percent(clippedShare(seen))} of the ratios are clipped: ` +
    "the policy is far from the one that sampled; lower learning_rate or num_iterations, or widen epsilon",
};

/** The median, as a single token can make a step's estimate enormous. */
const recentKl = (seen: Seen): number => {
  const values = seen.last("kl", 5);
  return values.length < 5 ? 0 : median(values);
};

const klRunsAway: Trap = {
  name: "KL runs away",
  when: "the median of `kl` over 5 steps is above 0.5 nats per token",
  until: "below 0.25",
  holds: (seen) => recentKl(seen) > 0.5,
  isOver: (seen) => recentKl(seen) < 0.25,
  text: (seen) =>
    `the KL to the reference is up to ${recentKl(seen).toPrecision(2)} nats per token: the policy runs away from the model that it ` +
    "began as; raise beta, lower learning_rate or max_grad_norm, or go back to an earlier checkpoint",
};

/** Recent entropy, and the same as a share of the run's first steps. */
function entropies(seen: Seen): { readonly now: number; readonly share: number } {
  const now = mean(seen.last("entropy", 5)) ?? Infinity;
  const start = seen.last("entropy", 10).length < 10 ? null : mean(seen.first("entropy"));
  return { now, share: start === null || start <= 0 ? 1 : now / start };
}

const entropyCollapses: Trap = {
  name: "entropy collapses",
  when: "the mean of `entropy` over 5 steps is below 0.01 nats per token, or after 10 steps below a tenth of its first 5",
  until: "above 0.02 and a fifth",
  holds(seen) {
    const { now, share } = entropies(seen);
    return now < 0.01 || share < 0.1;
  },
  isOver(seen) {
    const { now, share } = entropies(seen);
    return now > 0.02 && share > 0.2;
  },
  text: (seen) =>
    `the entropy is down to ${entropies(seen).now.toExponential(1)} nats per token: all completions of a prompt will be the same; ` +
    "raise temperature, epsilon_high or entropy_coef, or stop here",
};

// Length is rewarded rather than answers

/** Means over the first and the last ten values. */
const ends = (values: readonly number[]): readonly [number, number] => [
  mean(values.slice(0, 10)) ?? 0,
  mean(values.slice(-10)) ?? 0,
];

interface LengthTrend {
  readonly lengths: readonly [before: number, now: number];
  /** Of reward and length, over the window. */
  readonly r: number;
  /** Held-out, or of a verifier's reward in training; null: neither is known. */
  readonly accuracy: readonly [before: number, now: number] | null;
}

/** Null before there are enough steps. */
function lengthTrend(seen: Seen): LengthTrend | null {
  const lengths = seen.last("completions/mean_length", windowSteps);
  const rewards = seen.last("reward", windowSteps);
  if (lengths.length < 30 || lengths.length !== rewards.length) return null;
  const [evaluated, verified] = [
    seen.accuracies,
    verifierRewards.map((name) => seen.last(`rewards/${name}/mean`, windowSteps)).find((values) => values.length >= 30),
  ];
  return {
    lengths: ends(lengths),
    r: correlation(lengths, rewards),
    accuracy: evaluated.length >= 2 ? [evaluated[0]!, evaluated.at(-1)!] : verified ? ends(verified) : null,
  };
}

const growth = ({ lengths: [before, now] }: LengthTrend): number => (before === 0 ? 1 : now / before);
const isMoreAccurate = ({ accuracy }: LengthTrend): boolean => accuracy !== null && accuracy[1] - accuracy[0] > 0.01;

const lengthRewarded: Trap = {
  name: "length is rewarded",
  when:
    "over 50 steps (at least 30), completions grow by half, reward and mean length correlate with r above 0.7, and accuracy (evaluated, else " +
    "of a verifier's reward) rises by no more than 0.01; where no accuracy is known, they double and r is above 0.9",
  until: "growth below a quarter, r below 0.5, or accuracy rises",
  holds(seen) {
    const trend = lengthTrend(seen);
    if (trend === null || isMoreAccurate(trend)) return false;
    const [longer, follows] = trend.accuracy === null ? [2, 0.9] : [1.5, 0.7];
    return growth(trend) > longer && trend.r > follows;
  },
  isOver(seen) {
    const trend = lengthTrend(seen);
    return trend === null || isMoreAccurate(trend) || growth(trend) < 1.25 || trend.r < 0.5;
  },
  text(seen) {
    const { lengths, r, accuracy } = lengthTrend(seen)!;
    const instead =
      accuracy === null
        ? "there is no accuracy to tell whether answers became better"
        : `accuracy does not rise (${accuracy.map((share) => share.toFixed(2)).join(" to ")})`;
    return (
      `completions grow (${lengths.map((tokens) => tokens.toFixed(0)).join(" to ")} tokens in ${windowSteps} steps) and the reward ` +
      `follows their length (r ${r.toFixed(2)}), while ${instead}: length may be what is rewarded; read completions, reward ` +
      "answers more than their form, add soft_overlong or cosine to reward_funcs, or use loss_type dr_grpo"
    );
  },
};

export const traps: readonly Trap[] = [
  ...[nothingScored, equalRewards, everythingCut, everythingClipped],
  ...[klRunsAway, entropyCollapses, lengthRewarded],
];
