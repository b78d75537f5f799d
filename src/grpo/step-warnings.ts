/**
 * Warnings from a step's metrics about runs that cannot learn. Settings that are a trap from the start are warned about
 * in config/checks.ts.
 */

type Values = Readonly<Record<string, number | null | undefined>>;

interface Trap {
  readonly name: string;
  /** @param flat completions of a group are compared with each other, and no group has differing rewards */
  readonly holds: (values: Values, flat: boolean) => boolean;
  readonly text: (values: Values) => string;
}

const percent = (share: number | null | undefined): string => `${(100 * (share ?? 0)).toFixed(0)} %`;
const at = (values: Values, name: string, otherwise: number): number => values[name] ?? otherwise;

const TRAPS: readonly Trap[] = [
  {
    name: "nothing scored",
    holds: (v) => v.reward === null,
    text: () =>
      "no completion was scored: this step learned nothing from rewards; check the gold answers' column (answer_column) and what " +
      "the reward functions return",
  },
  {
    name: "equal rewards",
    holds: (v, flat) => flat && v.reward !== null,
    text: (v) =>
      `all rewards within each group are equal (mean ${at(v, "reward", 0).toFixed(3)}): this step learned nothing from them; ` +
      "use easier or harder prompts, more num_generations, or a finer reward",
  },
  {
    name: "nothing finished",
    holds: (v) => at(v, "completions/clipped_ratio", 0) >= 1,
    text: () =>
      "every completion was cut at max_completion_length: answers are lost, and mask_truncated_completions would drop them all; " +
      "raise max_completion_length, or check the stop token and the chat template",
  },
  {
    name: "everything clipped",
    holds: (v) => Math.max(at(v, "clip_ratio/region_mean", 0), at(v, "cispo_clip_ratio", 0)) > 0.5,
    text: (v) =>
      `${percent(Math.max(at(v, "clip_ratio/region_mean", 0), at(v, "cispo_clip_ratio", 0)))} of the ratios are clipped: ` +
      "the policy is far from the one that sampled; lower learning_rate or num_iterations, or widen epsilon",
  },
  {
    name: "entropy collapse",
    holds: (v) => at(v, "entropy", 1) < 0.01,
    text: (v) =>
      `the entropy is down to ${at(v, "entropy", 0).toExponential(1)} nats per token: all completions of a prompt will be the same; ` +
      "raise temperature, epsilon_high or entropy_coef, or stop here",
  },
];

export interface StepWarningOptions {
  /** Whether the advantage estimator compares completions of a group with each other. */
  readonly usesGroups?: boolean;
  /** Steps after which a warning that still holds is repeated. */
  readonly every?: number;
}

/**
 * Warnings of one run. Each is given when it first holds, and repeated at most every `every` steps.
 *
 * @returns a function from a step's metrics record (TRL's names, `step` from 1) and whether rewards differ within some
 *   group to the warnings
 */
export function createStepWarnings({
  usesGroups = true,
  every = 100,
}: StepWarningOptions = {}): (record: Values & { readonly step: number }, hasSpread: boolean) => string[] {
  const saidAt = new Map<string, number>();
  return (record, hasSpread) =>
    TRAPS.flatMap((trap) => {
      const said = saidAt.get(trap.name);
      if (!trap.holds(record, usesGroups && !hasSpread) || (said !== undefined && record.step - said < every))
        return [];
      saidAt.set(trap.name, record.step);
      return [`step ${record.step}: ${trap.text(record)}`];
    });
}
