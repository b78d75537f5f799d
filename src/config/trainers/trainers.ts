/** Looks a name up in the tables of the other trainers: the whole name, one of ours after a path, or the end of a path. */
import { openRlhf } from "./openrlhf.ts";
import { type Line, type Lookup, type Outcome, type Rule, refuse, same, type Trainer } from "./rule.ts";
import { transformers } from "./transformers.ts";
import { trl } from "./trl.ts";
import { verl } from "./verl.ts";

export const trainers: readonly Trainer[] = [trl, transformers, verl, openRlhf];

export interface Found {
  /** Whose name it is; null if it is one of ours after a path. */
  readonly trainer: string | null;
  readonly outcome: Outcome;
}

/** Paths whose last word is not what a setting of ours of the same name means. */
const elsewhere = /(^|\.)(critic|ref|reward\w*|val_kwargs|custom_\w+|profiler|global_profiler|ray_\w+|eval)\./;

/** Words that mean something else after most paths. */
const common = /^(dtype|seed|device|model|dataset|debug|threads|input|output|rollouts|prompt)$/;

const roots =
  /^(actor_rollout_ref|algorithm|trainer|data|critic|reward_model|reward_manager|reward|custom_reward_function|ray_kwargs|ray_init|global_profiler|transfer_queue|actor|algo|rollout|train|ref|ckpt|ds|vllm|eval|logger)$/;

/** Whether a map of this name is a part of verl's or OpenRLHF's settings, which are known by their whole path. */
export const isPath = (name: string): boolean => roots.test(name);

/**
 * @param name as it was written, in snake_case, perhaps with dots
 * @param ours the setting of this name, if there is one
 * @param other what else was given
 * @returns undefined if no known trainer has this name
 */
export function foreignSetting(
  name: string,
  value: unknown,
  ours: (name: string) => string | undefined,
  other: Lookup,
): Found | undefined {
  const found = (line: readonly [Trainer, Rule] | undefined): Found | undefined =>
    line && { trainer: line[0].name, outcome: line[1](value, other) };
  const whole = found(lineWhere(([pattern]) => pattern === name));
  if (whole) return whole;
  const last = name.slice(name.lastIndexOf(".") + 1);
  const astray = elsewhere.test(name) || (isPath(name.split(".")[0]!) && common.test(last));
  const own = last === name || astray ? undefined : ours(last);
  if (own !== undefined) return { trainer: null, outcome: refuse("settings have no path", [own, same(value)]) };
  return found(lineWhere(([pattern]) => pattern.includes("*") && matches(pattern, name))) ?? byEnd(name, found);
}

function lineWhere(is: (line: Line) => boolean): readonly [Trainer, Rule] | undefined {
  for (const trainer of trainers) {
    const line = trainer.lines.find(is);
    if (line) return [trainer, line[1]];
  }
  return undefined;
}

function matches(pattern: string, name: string): boolean {
  const star = pattern.indexOf("*");
  const [begin, end] = [pattern.slice(0, star), pattern.slice(star + 1)];
  const middle = end.indexOf("*");
  if (middle >= 0) return name.includes(end.slice(0, middle)) && name.startsWith(begin);
  return name.length >= begin.length + end.length && name.startsWith(begin) && name.endsWith(end);
}

/** A name without (all of) its path: `adv_estimator`, `filter_groups.enable`. */
function byEnd(name: string, found: (line: readonly [Trainer, Rule]) => Found | undefined): Found | undefined {
  const ends = trainers.flatMap((trainer) =>
    trainer.lines.filter(([pattern]) => pattern.endsWith(`.${name}`)).map((line) => [trainer, line] as const),
  );
  const [first] = ends;
  if (first === undefined) return undefined;
  const whole = ends.map(([, [pattern]]) => pattern);
  // The policy's own takes precedence over the critic's and the reference's.
  const main = ends.filter(([, [pattern]]) => !elsewhere.test(pattern));
  const chosen = ends.length === 1 ? first : main.length === 1 ? main[0]! : null;
  if (chosen) return found([chosen[0], chosen[1][1]]);
  return { trainer: first[0].name, outcome: refuse(`this may be ${whole.join(" or ")}: write the whole name`) };
}
