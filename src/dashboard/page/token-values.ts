/** The tokens of a recorded completion with their numbers, and what part of a colour scale each has. Knows no elements. */

export interface Token {
  readonly id: number;
  readonly text: string;
  /** Nats; absent: not recorded, here and below. */
  readonly logprob?: number;
  /** π_old over the distribution that was sampled from. */
  readonly ratio?: number;
  readonly entropy?: number;
  readonly advantage?: number;
  /** log π_old − log π_ref, in nats. */
  readonly shift?: number;
  /** False: not sampled by the policy, such as a tool's answer. */
  readonly isOwn: boolean;
}

export const colourings = ["logprob", "entropy", "ratio", "advantage", "shift"] as const;
export type Colouring = (typeof colourings)[number];

export const colouringTexts: Readonly<Record<Colouring, { readonly name: string; readonly about: string }>> = {
  logprob: { name: "logprob", about: "log-probability under the policy, in nats: strong where a token was unlikely" },
  entropy: { name: "entropy", about: "entropy of the policy before the token, in nats: strong where it was undecided" },
  ratio: { name: "ratio", about: "probability under the policy over that of the distribution sampled from" },
  advantage: { name: "advantage", about: "what the update pushes up (solid) and down (dotted)" },
  shift: { name: "against reference", about: "log-probability minus the reference model's, in nats" },
};

const numbers = (value: unknown, length: number): readonly number[] | null =>
  Array.isArray(value) && value.length === length && value.every((each) => typeof each === "number") ? value : null;

/** Null if the line does not say where its tokens begin and end. */
export function tokensOf(row: Readonly<Record<string, unknown>>): Token[] | null {
  const ids = row.completion_ids;
  if (!Array.isArray(ids) || typeof row.completion !== "string") return null;
  const text = row.completion;
  const details = (typeof row.details === "object" && row.details !== null ? row.details : {}) as Record<
    string,
    unknown
  >;
  const ends = numbers(details.ends, ids.length);
  if (ends === null) return null;
  const [old, sampling] = [numbers(row.old_logprobs, ids.length), numbers(row.sampling_logprobs, ids.length)];
  const reference = numbers(details.ref_logprobs ?? row.ref_logprobs, ids.length);
  const entropies = numbers(details.entropies, ids.length);
  const given = details.advantage ?? row.advantages;
  const advantages = numbers(given, ids.length);
  const mask = numbers(row.mask, ids.length);
  return ids.map((id: number, i): Token => {
    const advantage = advantages?.[i] ?? (typeof given === "number" ? given : undefined);
    return {
      ...{ id, text: text.slice(i === 0 ? 0 : ends[i - 1]!, ends[i]!), isOwn: mask?.[i] !== 0 },
      ...(old && { logprob: old[i]! }),
      ...(old && sampling && { ratio: Math.exp(old[i]! - sampling[i]!) }),
      ...(entropies && { entropy: entropies[i]! }),
      ...(advantage !== undefined && { advantage }),
      ...(old && reference && { shift: old[i]! - reference[i]! }),
    };
  });
}

/** The colourings that a completion's tokens have numbers for. */
export const possible = (tokens: readonly Token[]): Colouring[] =>
  colourings.filter((by) => tokens.some((token) => token[by] !== undefined));

export interface Scale {
  /** −1 to 1: the sign says to which side, the size how far. */
  readonly strength: (token: Token) => number;
  /** The values at the ends of the scale; of a one-sided one, from 0 strength to 1. */
  readonly ends: readonly [number, number];
  readonly isTwoSided: boolean;
}

/** A scale over the tokens of one completion, so that its own extremes are seen. */
export function scaleOf(tokens: readonly Token[], by: Colouring): Scale {
  const values = tokens.map((token) => token[by]).filter((value): value is number => Number.isFinite(value));
  const largest = (of: (value: number) => number) => values.reduce((most, value) => Math.max(most, of(value)), 0);
  if (by === "logprob") {
    // At −0.1 nats or above a token was all but certain.
    const end = Math.max(
      1,
      largest((value) => -value),
    );
    return { strength: ({ logprob = 0 }) => clamp(-logprob / end), ends: [0, -end], isTwoSided: false };
  }
  if (by === "entropy") {
    const end = Math.max(
      0.5,
      largest((value) => value),
    );
    return { strength: ({ entropy = 0 }) => clamp(entropy / end), ends: [0, end], isTwoSided: false };
  }
  if (by === "ratio") {
    const end = Math.max(
      0.1,
      largest((value) => Math.abs(Math.log(value))),
    );
    return {
      strength: ({ ratio = 1 }) => clamp(Math.log(ratio) / end),
      ...{ ends: [Math.exp(-end), Math.exp(end)], isTwoSided: true },
    };
  }
  const end = Math.max(by === "shift" ? 0.1 : 1e-3, largest(Math.abs));
  return { strength: (token) => clamp((token[by] ?? 0) / end), ends: [-end, end], isTwoSided: true };
}

const clamp = (value: number): number => (Number.isNaN(value) ? 0 : Math.min(1, Math.max(-1, value)));
