/**
 * What is logged under which name, and in which unit. Names that TRL logs too mean the same here. Seconds are wall-clock;
 * logprobs, entropies and KL are in nats. `console` gives the short head under which a value shows as a column.
 */

export interface MetricName {
  readonly name: string;
  readonly unit: string;
  readonly meaning: string;
  readonly console?: { readonly head: string; readonly format: (value: number) => string };
}

const fixed = (digits: number) => (value: number) => value.toFixed(digits);
const scientific = (value: number) => (value === 0 ? "0" : value.toExponential(1));

/** In the order of the console's columns. A name with `<…>` or `*` stands for a family. */
export const metricNames: readonly MetricName[] = [
  { name: "step", unit: "", meaning: "optimizer step, from 1; evaluation before the first step has 0" },
  { name: "epoch", unit: "", meaning: "passes over the dataset so far" },
  {
    name: "reward",
    unit: "",
    meaning: "mean over scored completions of the weighted sum of rewards; null: none was scored",
    console: { head: "reward", format: fixed(4) },
  },
  {
    name: "reward_std",
    unit: "",
    meaning: "standard deviation over all rewards of the generation; null of fewer than two",
    console: { head: "±std", format: fixed(4) },
  },
  {
    name: "frac_reward_zero_std",
    unit: "share",
    meaning: "completions whose group's rewards are all equal: nothing is learned from them",
    console: { head: "flat", format: fixed(2) },
  },
  {
    name: "dynamic_sampling/discarded_groups",
    unit: "",
    meaning: "groups sampled and thrown away, as all their rewards were equal",
    console: { head: "thrown", format: fixed(0) },
  },
  { name: "dynamic_sampling/kept_share", unit: "share", meaning: "groups learned from, of all that were sampled" },
  {
    name: "dynamic_sampling/groups_without_signal",
    unit: "",
    meaning: "groups kept although their rewards are equal: dynamic_sampling_max_batches was reached",
  },
  { name: "rewards/<name>/mean", unit: "", meaning: "mean of one reward function, unweighted; null: it scored none" },
  {
    name: "rewards/<name>/std",
    unit: "",
    meaning: "its standard deviation over the generation; null of fewer than two",
  },
  { name: "rewards/unparsed", unit: "share", meaning: "completions in which no answer was found" },
  { name: "rewards/timeout", unit: "share", meaning: "completions whose reward function was stopped" },
  {
    name: "loss",
    unit: "",
    meaning: "the whole loss, KL and entropy terms included",
    console: { head: "loss", format: fixed(5) },
  },
  {
    name: "kl",
    unit: "nats",
    meaning: "token mean of the KL estimate to the reference",
    console: { head: "kl", format: fixed(5) },
  },
  { name: "kl_penalty", unit: "", meaning: "use_kl_in_reward: beta times KL taken off a completion's reward, mean" },
  {
    name: "entropy",
    unit: "nats",
    meaning: "token mean of the policy's entropy; null: no token counts",
    console: { head: "entropy", format: fixed(3) },
  },
  {
    name: "grad_norm",
    unit: "",
    meaning: "global gradient norm before clipping",
    console: { head: "grad", format: fixed(3) },
  },
  {
    name: "learning_rate",
    unit: "",
    meaning: "learning rate of this step",
    console: { head: "lr", format: scientific },
  },
  {
    name: "aux_loss",
    unit: "",
    meaning:
      "router_aux_loss_coef: the loss of an unbalanced load of experts, before that weight; 1 times the experts of a token if it is even",
  },
  {
    name: "experts/max_load",
    unit: "",
    meaning: "tokens of the most used expert of any layer, of the mean of its layer's: 1 is even",
  },
  { name: "experts/min_load", unit: "", meaning: "the same of the least used one" },
  { name: "experts/unused", unit: "share", meaning: "experts of all layers that no token of the step went to" },
  { name: "policy_loss", unit: "", meaning: "the loss before the entropy bonus, where there is one" },
  { name: "entropy_coef", unit: "", meaning: "weight of the entropy bonus after this step: what the next may take" },
  { name: "clip_ratio/low_mean", unit: "share", meaning: "tokens clipped below (negative advantage)" },
  { name: "clip_ratio/high_mean", unit: "share", meaning: "tokens clipped above (positive advantage)" },
  {
    name: "clip_ratio/region_mean",
    unit: "share",
    meaning: "tokens clipped on either side",
    console: { head: "clip", format: fixed(3) },
  },
  { name: "clip_ratio/*", unit: "share", meaning: "least and largest of them over completions" },
  { name: "cispo_clip_ratio", unit: "share", meaning: "cispo: tokens whose ratio is capped" },
  { name: "vespo/phi_seq_mean", unit: "", meaning: "vespo: mean weight of a completion" },
  { name: "value/loss", unit: "", meaning: "gae: the critic's loss, before vf_coef" },
  { name: "value/clip_ratio", unit: "share", meaning: "tokens whose value is clipped" },
  {
    name: "value/explained_variance",
    unit: "",
    meaning: "of the returns, by the values before the update: 1 perfect, 0 as a constant",
  },
  { name: "value/mean", unit: "", meaning: "token mean of the critic's values" },
  { name: "value/grad_norm", unit: "", meaning: "the critic's gradient norm before clipping" },
  { name: "value/learning_rate", unit: "", meaning: "the critic's learning rate" },
  { name: "returns/mean", unit: "", meaning: "token mean of what the critic learns" },
  {
    name: "completions/mean_length",
    unit: "tokens",
    meaning: "mean length of the generation's completions, in sampled tokens",
    console: { head: "length", format: fixed(1) },
  },
  { name: "completions/min_length", unit: "tokens", meaning: "shortest completion" },
  { name: "completions/max_length", unit: "tokens", meaning: "longest completion" },
  {
    name: "completions/clipped_ratio",
    unit: "share",
    meaning: "completions cut at the length limit",
    console: { head: "cut", format: fixed(2) },
  },
  { name: "completions/*_terminated_length", unit: "tokens", meaning: "the same lengths over finished completions" },
  {
    name: "sampling/sampling_logp_difference/mean",
    unit: "nats",
    meaning: "mean |logprob when sampled - logprob in training|, both untruncated",
  },
  { name: "sampling/sampling_logp_difference/max", unit: "nats", meaning: "the largest of them; on the CPU exactly 0" },
  {
    name: "sampling/importance_sampling_ratio/*",
    unit: "",
    meaning: "min, mean and max of old policy ÷ sampling distribution",
  },
  {
    name: "num_tokens",
    unit: "tokens",
    meaning: "tokens of all sequences since the run began, a prompt with each of its completions",
  },
  {
    name: "tokens_per_second",
    unit: "tokens/s",
    meaning: "the step's tokens over its whole time",
    console: { head: "tok/s", format: fixed(0) },
  },
  { name: "rollout_tokens_per_second", unit: "tokens/s", meaning: "sampled tokens over the time of the rollout" },
  { name: "update_tokens_per_second", unit: "tokens/s", meaning: "tokens of the update over its time" },
  {
    name: "mfu",
    unit: "share",
    meaning: "floating-point operations of the model over the device's peak: measured on a CPU, published of a GPU",
  },
  { name: "memory_peak_bytes", unit: "bytes", meaning: "largest memory in use so far on the device" },
  {
    name: "time/wait",
    unit: "s",
    meaning: "with several ranks: the part of the generation's seconds in which rank 0 waited for others",
  },
  {
    name: "time/<phase>",
    unit: "s",
    meaning: "seconds of the generation in one phase: rollout, reward, reference, update, …",
  },
  {
    name: "step_time",
    unit: "s",
    meaning: "seconds of the whole generation: of a step, where it serves one",
    console: { head: "time", format: (value) => `${value.toFixed(value < 100 ? 1 : 0)}s` },
  },
  { name: "eval_accuracy", unit: "share", meaning: "answers that are right, found anywhere in the answer" },
  { name: "eval_accuracy_strict", unit: "share", meaning: "the same, the answer in the required form only" },
  {
    name: "eval_pass@*",
    unit: "share",
    meaning: "chance that one of k answers is right, with eval_num_generations above 1",
  },
  { name: "eval_maj@*", unit: "share", meaning: "chance that the most frequent of k answers is right" },
  { name: "eval_reward", unit: "", meaning: "mean over the answers of the weighted sum of rewards" },
  { name: "eval_reward_std", unit: "", meaning: "its standard deviation over the answers" },
  { name: "eval_rewards/<name>/mean", unit: "", meaning: "mean of one reward function, unweighted" },
  { name: "eval_rewards/<name>/std", unit: "", meaning: "its standard deviation over the answers" },
  { name: "eval_unparsed", unit: "share", meaning: "answers in which nothing was found" },
  { name: "eval_completions/mean_length", unit: "tokens", meaning: "mean length of the answers" },
  { name: "eval_completions/clipped_ratio", unit: "share", meaning: "answers cut at the length limit" },
];

/** What a logged name means; families (`rewards/gsm8k/mean`) are found too. */
export function metricNamed(name: string): MetricName | undefined {
  return metricNames.find((metric) => {
    const pattern = metric.name.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replace(/<\w+>|\*/g, "[^/]+");
    return new RegExp(`^${pattern}$`).test(name);
  });
}
