/** Which charts there are, and which columns of metrics.jsonl each draws. The names are those of src/metrics/names.ts. */
import type { TableName } from "../protocol.ts";

export interface Line {
  /** The column. */
  readonly name: string;
  readonly label: string;
  readonly table: TableName;
  /** The column of its standard deviation, drawn as a band around it. */
  readonly spread?: string;
  /** The columns of a band's ends. */
  readonly between?: readonly [low: string, high: string];
  /** Left out where runs are compared. */
  readonly isMinor?: boolean;
}

export interface ChartSpec {
  readonly id: string;
  readonly title: string;
  /** What is seen, in a sentence. */
  readonly about: string;
  readonly unit: "number" | "share" | "bytes" | "seconds";
  readonly kind: "lines" | "stack";
  /** Whether the axis begins at 0. */
  readonly fromZero?: boolean;
  /** The lines, given the columns that there are. */
  readonly lines: (names: Readonly<Record<TableName, readonly string[]>>) => readonly Line[];
  /** Shown where there is nothing to draw; without it the chart is left out. */
  readonly ifEmpty?: string;
}

type Names = Readonly<Record<TableName, readonly string[]>>;

const step = (name: string, label: string, more: Partial<Line> = {}): Line => ({
  name,
  label,
  table: "steps",
  ...more,
});
const evaluation = (name: string, label: string, more: Partial<Line> = {}): Line => ({
  ...{ name, label, table: "evaluations" },
  ...more,
});

/** Those of the lines whose column there is. */
const present =
  (...lines: readonly Line[]) =>
  (names: Names): Line[] =>
    lines.filter(({ name, table }) => names[table].includes(name));

const matching = (names: readonly string[], pattern: RegExp): [name: string, part: string][] =>
  names.flatMap((name) => {
    const found = pattern.exec(name);
    return found === null ? [] : [[name, found[1] ?? name] as [string, string]];
  });

export const charts: readonly ChartSpec[] = [
  {
    id: "reward",
    title: "Reward",
    about: "Mean weighted reward of a generation, with one standard deviation over its completions.",
    unit: "number",
    kind: "lines",
    lines: present(step("reward", "training", { spread: "reward_std" }), evaluation("eval_reward", "evaluation")),
  },
  {
    id: "rewards",
    title: "Reward by function",
    about: "Mean of each reward function, unweighted, with one standard deviation.",
    unit: "number",
    kind: "lines",
    lines: ({ steps }) =>
      matching(steps, /^rewards\/(.+)\/mean$/).map(([name, part]) =>
        step(name, part, { spread: `rewards/${part}/std` }),
      ),
  },
  {
    id: "accuracy",
    title: "Accuracy",
    about: "Held-out answers that are right: found anywhere in the answer, or in the required form only.",
    unit: "share",
    kind: "lines",
    lines: ({ evaluations }) => [
      ...present(
        evaluation("eval_accuracy", "accuracy"),
        evaluation("eval_accuracy_strict", "strict", { isMinor: true }),
      )({
        ...{ steps: [], evaluations },
      }),
      ...matching(evaluations, /^eval_((?:pass|maj)@\d+)$/).map(([name, part]) => evaluation(name, part)),
    ],
    ifEmpty: "No evaluation yet: --eval_dataset gives one, --eval_steps says how often.",
  },
  {
    id: "kl",
    title: "KL to the reference",
    about: "Token mean of the KL estimate to the reference model, in nats.",
    unit: "number",
    kind: "lines",
    fromZero: true,
    lines: present(step("kl", "KL"), step("kl_penalty", "taken off the reward", { isMinor: true })),
  },
  {
    id: "entropy",
    title: "Entropy",
    about: "Token mean of the policy's entropy, in nats.",
    unit: "number",
    kind: "lines",
    fromZero: true,
    lines: present(step("entropy", "entropy")),
  },
  {
    id: "lengths",
    title: "Completion length",
    about: "Sampled tokens of a completion: mean, and the shortest and longest as a band.",
    unit: "number",
    kind: "lines",
    fromZero: true,
    lines: present(
      step("completions/mean_length", "mean", { between: ["completions/min_length", "completions/max_length"] }),
      step("completions/mean_terminated_length", "mean of the finished", { isMinor: true }),
      evaluation("eval_completions/mean_length", "evaluation", { isMinor: true }),
    ),
  },
  {
    id: "gradient",
    title: "Gradient norm",
    about: "Global norm of the gradient before clipping.",
    unit: "number",
    kind: "lines",
    fromZero: true,
    lines: present(step("grad_norm", "policy"), step("value/grad_norm", "critic")),
  },
  {
    id: "clip",
    title: "Clip ratios",
    about: "Share of tokens whose ratio is clipped: below, above, on either side.",
    unit: "share",
    kind: "lines",
    fromZero: true,
    lines: present(
      step("clip_ratio/region_mean", "either"),
      step("clip_ratio/low_mean", "below", { isMinor: true }),
      step("clip_ratio/high_mean", "above", { isMinor: true }),
      step("cispo_clip_ratio", "capped"),
      step("value/clip_ratio", "values"),
    ),
  },
  {
    id: "shares",
    title: "Completions without use",
    about: "Shares of completions: in groups of equal rewards, cut at the length limit, without an answer.",
    unit: "share",
    kind: "lines",
    fromZero: true,
    lines: present(
      step("frac_reward_zero_std", "flat groups"),
      step("completions/clipped_ratio", "truncated", { isMinor: true }),
      step("rewards/unparsed", "unparsed", { isMinor: true }),
      step("rewards/timeout", "timed out", { isMinor: true }),
    ),
  },
  {
    id: "loss",
    title: "Loss",
    about: "The whole loss, KL and entropy terms included.",
    unit: "number",
    kind: "lines",
    lines: present(
      step("loss", "loss"),
      step("policy_loss", "policy", { isMinor: true }),
      step("value/loss", "critic"),
    ),
  },
  {
    id: "speed",
    title: "Tokens per second",
    about: "Tokens of a step over its whole time; sampled tokens over the rollout's, updated tokens over the update's.",
    unit: "number",
    kind: "lines",
    fromZero: true,
    lines: present(
      step("tokens_per_second", "whole step"),
      step("rollout_tokens_per_second", "rollout", { isMinor: true }),
      step("update_tokens_per_second", "update", { isMinor: true }),
    ),
  },
  {
    id: "phases",
    title: "Seconds by phase",
    about: "Wall-clock seconds of a generation, one phase on top of the other.",
    unit: "seconds",
    kind: "stack",
    fromZero: true,
    lines: ({ steps }) => matching(steps, /^time\/(.+)$/).map(([name, part]) => step(name, part)),
  },
  {
    id: "memory",
    title: "Memory",
    about: "Largest memory in use so far: of the process on a CPU, of the device on a GPU.",
    unit: "bytes",
    kind: "lines",
    fromZero: true,
    lines: present(step("memory_peak_bytes", "peak")),
  },
  {
    id: "learning-rate",
    title: "Learning rate",
    about: "Learning rate of a step.",
    unit: "number",
    kind: "lines",
    fromZero: true,
    lines: present(step("learning_rate", "policy"), step("value/learning_rate", "critic")),
  },
  {
    id: "sampler",
    title: "Sampler against trainer",
    about: "Absolute difference of a token's logprob when sampled and in training, in nats: exactly 0 on a CPU.",
    unit: "number",
    kind: "lines",
    fromZero: true,
    lines: present(
      step("sampling/sampling_logp_difference/mean", "mean"),
      step("sampling/sampling_logp_difference/max", "largest", { isMinor: true }),
    ),
  },
];

/** Columns that no chart above draws, each in a chart of its own. */
export function otherCharts(names: Names): ChartSpec[] {
  const drawn = new Set(
    charts.flatMap(({ lines }) =>
      lines(names).flatMap(({ name, table, spread, between = [] }) =>
        [name, spread, ...between].map((each) => `${table} ${each}`),
      ),
    ),
  );
  return (["steps", "evaluations"] as const).flatMap((table) =>
    names[table]
      .filter((name) => !drawn.has(`${table} ${name}`))
      .map((name): ChartSpec => {
        const line: Line = { name, label: table === "steps" ? "training" : "evaluation", table };
        const unit = /ratio|share|frac|accuracy|mfu$/.test(name)
          ? "share"
          : /^step_time$/.test(name)
            ? "seconds"
            : "number";
        return {
          ...{ id: `other-${name.replace(/\W+/g, "-")}`, title: name, about: `The column ${name}.`, unit },
          ...{ kind: "lines", lines: (all: Names) => (all[table].includes(name) ? [line] : []) },
        };
      }),
  );
}
