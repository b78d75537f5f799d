/** An advantage estimator of the caller's own, in place of a named one: a function from a batch's rewards to advantages. */
import { RunError } from "../../errors.ts";
import type { Advantage, TokenValues } from "../loss/config.ts";

/** A whole generation, before it is split into optimizer steps. */
export interface OwnEstimatorInput {
  /** The weighted sum of each completion's rewards; null: not scored. (N) */
  readonly rewards: readonly (number | null)[];
  /** The rewards of each reward function by its name. (N) */
  readonly perFunction: Readonly<Record<string, readonly (number | null)[]>>;
  /** Completions of one prompt have the same number. (N) */
  readonly groups: ArrayLike<number>;
  /** Tokens that the policy sampled. (N) */
  readonly lengths: ArrayLike<number>;
  /** False: cut at the length limit. (N) */
  readonly finished: readonly boolean[];
  /** β·KL of each token, which `useKlInReward` charges to the reward; null without it. (N)(T) */
  readonly charges: readonly TokenValues[] | null;
}

/**
 * One advantage per completion, or one per token of it. A completion that was not scored usually gets 0: it teaches nothing.
 * The same input must give the same output. The name of the function is recorded.
 */
export type OwnEstimator = (batch: OwnEstimatorInput) => readonly (number | ArrayLike<number>)[];

/** @throws RunError if it gives anything but finite numbers, one per completion or per token */
export function ownAdvantages(own: OwnEstimator, batch: OwnEstimatorInput): Advantage[] {
  const name = own.name === "" ? "your estimator" : `estimator ${own.name}`;
  const given = own(batch);
  if (given?.length !== batch.rewards.length)
    throw new RunError(`${name} gave ${given?.length ?? "no"} advantages for ${batch.rewards.length} completions`);
  return given.map((advantage, i) => {
    if (typeof advantage === "number") {
      if (Number.isFinite(advantage)) return advantage;
      throw new RunError(`${name}: the advantage of completion ${i} is ${advantage}`);
    }
    const values = Float64Array.from(advantage);
    if (values.length !== batch.lengths[i])
      throw new RunError(
        `${name} gave ${values.length} advantages for the ${batch.lengths[i]} tokens of completion ${i}`,
      );
    const broken = values.findIndex((value) => !Number.isFinite(value));
    if (broken >= 0)
      throw new RunError(`${name}: the advantage of completion ${i}, token ${broken} is ${values[broken]}`);
    return values;
  });
}
