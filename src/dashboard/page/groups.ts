/** The completions of a generation by group, with what filters and orders look at. Knows no elements. */
import type { CompletionLine } from "../protocol.ts";

export interface Listed extends CompletionLine {
  /** Its place in the file. */
  readonly index: number;
}

export interface Group {
  readonly group: number;
  readonly prompt: string;
  readonly members: readonly Listed[];
  /** Mean over scored members; null: none was. */
  readonly mean: number | null;
  /** All rewards are equal: nothing is learned from it. */
  readonly isFlat: boolean;
}

export const filters = ["all", "wrong", "right", "unparsed", "truncated", "flat"] as const;
export type Filter = (typeof filters)[number];

export const filterTexts: Readonly<Record<Filter, string>> = {
  all: "All completions",
  wrong: "A verifier found a wrong answer or none; without a verifier: the least reward that the generation has",
  right: "A verifier found the right answer; without a verifier: the largest reward that the generation has",
  unparsed: "No answer was found in it",
  truncated: "Cut at the length limit",
  flat: "In a group whose rewards are all equal: nothing is learned from it",
};

export const orders = ["file", "reward up", "reward down", "longest", "shortest"] as const;
export type Order = (typeof orders)[number];

/** In the order of the file; lines of a group are neighbours there. */
export function groupsOf(lines: readonly Listed[]): Group[] {
  const byGroup = Map.groupBy(lines, ({ group }) => group);
  return [...byGroup].map(([group, members]) => {
    const scored = members.map(({ reward }) => reward).filter((reward) => reward !== null);
    return {
      ...{ group, members, prompt: members[0]!.prompt },
      mean: scored.length === 0 ? null : scored.reduce((a, b) => a + b, 0) / scored.length,
      isFlat: members.length > 1 && scored.every((reward) => reward === scored[0]),
    };
  });
}

/** Whether a completion passes, by filter. */
export type Judge = (line: Listed, group: Group) => boolean;

export function judges(lines: readonly CompletionLine[]): Readonly<Record<Filter, Judge>> {
  const rewards = lines.map(({ reward }) => reward).filter((reward) => reward !== null);
  // Math.min(...) of 100,000 arguments is too much for some engines.
  const least = rewards.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  const most = rewards.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return {
    all: () => true,
    wrong: ({ verdict, reward }) =>
      verdict === null ? reward !== null && reward === least && least < most : verdict !== "equal",
    right: ({ verdict, reward }) =>
      verdict === null ? reward !== null && reward === most && least < most : verdict === "equal",
    unparsed: ({ verdict }) => verdict === "unparsed",
    truncated: ({ finished }) => !finished,
    flat: (_, { isFlat }) => isFlat,
  };
}

/** Groups with the members that pass; by another order than the file's, each completion is a group of its own. */
export function arranged(groups: readonly Group[], passes: Judge, order: Order): Group[] {
  const kept = groups.flatMap((group) => {
    const members = group.members.filter((line) => passes(line, group));
    return members.length === 0 ? [] : [{ ...group, members }];
  });
  if (order === "file") return kept;
  const value: Record<Exclude<Order, "file">, (line: Listed) => number> = {
    "reward up": ({ reward }) => reward ?? Number.POSITIVE_INFINITY,
    "reward down": ({ reward }) => -(reward ?? Number.NEGATIVE_INFINITY),
    longest: ({ tokens }) => -tokens,
    shortest: ({ tokens }) => tokens,
  };
  const by = value[order];
  return kept
    .flatMap((group) => group.members.map((line) => ({ ...group, members: [line] })))
    .sort((a, b) => by(a.members[0]!) - by(b.members[0]!));
}
