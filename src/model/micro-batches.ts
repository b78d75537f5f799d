/**
 * A step's groups → packed micro-batches under a token budget: the tokens of a forward pass, what each may attend to,
 * and where the LM head reads a completion's logprobs. Pure layout: no device, no weights.
 *
 * A group's prompt is packed once (once per part if the group is split), followed by its completions, each without its
 * last token, from which nothing is predicted. So a part of a group is P + Σ(R − 1) tokens.
 */

import { placeRoutes, type RouteShape, type TokenRoutes, tokenRoutes } from "./routes.ts";

export interface PackedCompletion {
  /** (R), R ≥ 1 */
  readonly completionIds: Int32Array;
  /** Experts that the tokens of prompt and completion go to; missing or null: the model's router chooses. */
  readonly routes?: TokenRoutes | null | undefined;
}

export interface PackedGroup {
  /** (P), P ≥ 1 */
  readonly promptIds: Int32Array;
  readonly completions: readonly PackedCompletion[];
}

/** One forward pass. T tokens, S segments, H head rows, E completion tokens, C completions. */
export interface MicroBatch {
  /** (T) */
  readonly tokens: Int32Array;
  /** Position in prompt + completion, from 0. (T) */
  readonly positions: Int32Array;
  /**
   * (S, 4): start, length, prefixStart, prefixLength, in rows of `tokens`. A row attends to the rows of its prefix and
   * of its own segment up to itself. A prompt has no prefix (0, 0); a completion's prefix is its prompt. A completion
   * of one token has no segment.
   */
  readonly segments: Int32Array;
  /** The rows whose hidden state the LM head needs, ascending; a prompt's last row serves all its completions. (H) */
  readonly headRows: Int32Array;
  /**
   * For every completion token, completion after completion: the index into `headRows` of the row that predicts it. (E)
   */
  readonly entryRows: Int32Array;
  /** For every completion token: its id. (E) */
  readonly entryTargets: Int32Array;
  /** Indices of the completions in the step, counted over all groups in order. (C) */
  readonly completions: Int32Array;
  /** Completion c has the entries from `entryStarts[c]` to `entryStarts[c + 1]`. (C + 1) */
  readonly entryStarts: Int32Array;
  /** Completions whose token a row is: a prompt's rows belong to all of its completions. (T) */
  readonly rowWeights: Float32Array;
  /** Given experts (layers, T, perToken); null: the model's router chooses. */
  readonly routes: Int32Array | null;
}

/** Consecutive completions of one group, after one copy of its prompt. */
interface Part {
  readonly group: PackedGroup;
  readonly first: number;
  readonly end: number;
  /** Index in the step of the completion `first`. */
  readonly firstOfStep: number;
}

/**
 * Splits the groups into micro-batches, in order. A part costs P + ΣR tokens. A group that fits the budget stays whole,
 * and joins the current micro-batch if it fits there. A larger group is split between completions, as rarely as can be;
 * its first part joins the current micro-batch if that takes no more parts, each of which costs the prompt. A completion
 * that exceeds the budget with its prompt becomes a part of its own.
 *
 * @param budget `micro_batch_tokens`
 */
export function cutMicroBatches(groups: readonly PackedGroup[], budget: number): MicroBatch[] {
  const batches: Part[][] = [];
  let open: Part[] = [];
  let used = 0;
  const close = (): void => {
    if (open.length > 0) batches.push(open);
    open = [];
    used = 0;
  };
  let firstOfStep = 0;
  for (const group of groups) {
    const lengths = group.completions.map(({ completionIds }) => completionIds.length);
    const prompt = group.promptIds.length;
    const whole = lengths.reduce((sum, length) => sum + length, prompt);
    const joins =
      whole <= budget
        ? used + whole <= budget
        : partsFrom(budget - used, prompt, lengths, budget) <= partsFrom(budget, prompt, lengths, budget);
    if (!joins) close();
    let first = 0;
    let cost = prompt;
    for (const [i, length] of lengths.entries()) {
      if (used + cost + length > budget) {
        if (i > first) open.push({ group, first, end: i, firstOfStep: firstOfStep + first });
        close();
        first = i;
        cost = prompt;
      }
      cost += length;
    }
    if (lengths.length > 0) {
      open.push({ group, first, end: lengths.length, firstOfStep: firstOfStep + first });
      used += cost;
    }
    firstOfStep += lengths.length;
  }
  close();
  return batches.map(packParts);
}

/** Parts of a group, if the first may cost `room` tokens and the others the whole budget. */
function partsFrom(room: number, prompt: number, lengths: readonly number[], budget: number): number {
  let parts = 1;
  let left = room - prompt;
  for (const [i, length] of lengths.entries()) {
    if (length > left && i > 0) parts++;
    left = length > left ? budget - prompt - length : left - length;
  }
  return parts;
}

/**
 * Upper bound of a micro-batch's tokens, segments, head rows and completion tokens, for the memory plan.
 *
 * @param limits.budget `micro_batch_tokens`
 * @param limits.groups, limits.completions of the step, if known: a small step does not need the whole budget
 */
export function maxMicroBatchTokens(limits: {
  readonly budget: number;
  readonly longestPrompt: number;
  readonly longestCompletion: number;
  readonly groups?: number;
  readonly completions?: number;
}): number {
  const { budget, longestPrompt, longestCompletion, groups = Infinity, completions = Infinity } = limits;
  const step = groups * longestPrompt + completions * longestCompletion;
  return Math.max(longestPrompt + longestCompletion, Math.min(budget, step));
}

function packParts(parts: readonly Part[]): MicroBatch {
  const size = measure(parts);
  const tokens = new Int32Array(size.tokens);
  const positions = new Int32Array(size.tokens);
  const segments = new Int32Array(size.segments * 4);
  const headRows = new Int32Array(size.headRows);
  const entryRows = new Int32Array(size.entries);
  const entryTargets = new Int32Array(size.entries);
  const completions = new Int32Array(size.completions);
  const entryStarts = new Int32Array(size.completions + 1);
  const rowWeights = new Float32Array(size.tokens).fill(1);
  const routes = routesRoom(parts, size.tokens);
  let row = 0;
  let segment = 0;
  let headRow = 0;
  let entry = 0;
  let completion = 0;

  for (const { group, first, end, firstOfStep } of parts) {
    const prompt = group.promptIds;
    const promptStart = row;
    tokens.set(prompt, row);
    rowWeights.fill(end - first, row, row + prompt.length);
    routes?.place(row, group.completions[first]!.routes!.prompt);
    for (let p = 0; p < prompt.length; p++) positions[row++] = p;
    segments.set([promptStart, prompt.length, 0, 0], 4 * segment++);
    const promptHead = headRow;
    headRows[headRow++] = row - 1;
    for (let i = first; i < end; i++) {
      const { completionIds: ids, routes: own } = group.completions[i]!;
      routes?.place(row, own!.completion);
      if (ids.length > 1) segments.set([row, ids.length - 1, promptStart, prompt.length], 4 * segment++);
      for (const [t, id] of ids.entries()) {
        entryTargets[entry] = id;
        entryRows[entry++] = t === 0 ? promptHead : headRow - 1;
        if (t === ids.length - 1) continue;
        tokens[row] = id;
        positions[row] = prompt.length + t;
        headRows[headRow++] = row++;
      }
      completions[completion++] = firstOfStep + i - first;
      entryStarts[completion] = entry;
    }
  }
  return {
    ...{ tokens, positions, segments, headRows, entryRows, entryTargets, completions, entryStarts, rowWeights },
    routes: routes?.all ?? null,
  };
}

/** Room for given routes of T tokens; null if none are given. @throws Error if some are and some are not */
function routesRoom(parts: readonly Part[], T: number) {
  const given = parts.flatMap(({ group, first, end }) =>
    group.completions.slice(first, end).map(({ routes }) => routes ?? null),
  );
  const shape = given[0]?.shape;
  if (!shape && given.every((routes) => routes === null)) return null;
  if (!shape || given.includes(null)) throw new Error("some completions have routes and some have none");
  const all = new Int32Array(shape.layers * T * shape.perToken);
  return { all, place: (row: number, routes: Uint16Array) => placeRoutes(all, shape, T, row, routes) };
}

/** The routes of each completion of a pass, whatever chose them. @param all (layers, T, perToken) */
export function routesByCompletion(
  { tokens, segments, headRows, entryRows, entryStarts, completions }: MicroBatch,
  all: Int32Array,
  shape: RouteShape,
): TokenRoutes[] {
  const T = tokens.length;
  const prompts = new Map<number, Uint16Array>(); // by last row
  for (let s = 0; s < segments.length; s += 4) {
    const [start, length, , prefix] = segments.subarray(s, s + 4) as unknown as [number, number, number, number];
    if (prefix === 0) prompts.set(start + length - 1, tokenRoutes(all, shape, T, start, length));
  }
  return Array.from(completions, (_, c) => {
    const [first, end] = [entryStarts[c]!, entryStarts[c + 1]!];
    const row = (entry: number) => headRows[entryRows[entry]!]!;
    const count = end - first - 1;
    const completion = count > 0 ? tokenRoutes(all, shape, T, row(first + 1), count) : new Uint16Array();
    return { shape, prompt: prompts.get(row(first))!, completion };
  });
}

function measure(
  parts: readonly Part[],
): Record<"tokens" | "segments" | "headRows" | "entries" | "completions", number> {
  const size = { tokens: 0, segments: parts.length, headRows: parts.length, entries: 0, completions: 0 };
  for (const { group, first, end } of parts) {
    if (group.promptIds.length === 0) throw new Error("a group has an empty prompt: nothing predicts its first token");
    size.tokens += group.promptIds.length;
    for (let i = first; i < end; i++) {
      const length = group.completions[i]!.completionIds.length;
      if (length === 0) throw new Error("a completion has no tokens");
      if (length > 1) size.segments++;
      size.tokens += length - 1;
      size.headRows += length - 1;
      size.entries += length;
      size.completions++;
    }
  }
  return size;
}
