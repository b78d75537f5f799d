/**
 * Rollout files: one JSON object per line, one completion per object; lines of a group are adjacent and share their
 * prompt. Reads the format for `update` and `score`, and writes it for `train`; needs no model or tokenizer.
 *
 * A line has `group`, `prompt_ids`, `completion_ids`, `finished` and `reward`, and optionally `mask` (if some tokens of
 * the completion were not sampled), `old_logprobs`, `ref_logprobs`, `sampling_logprobs`, `advantages`, and `prompt` and
 * `completion` as text. To make the generation's steps reproducible, `train` also records `step` (the first that
 * learned from the line), `place` (in that step, if the generation was shuffled), `rewards` and `reward_weights` by
 * function name (if there are several) and `advantages` (if a critic made them). All of these are optional. `details` is
 * what the page shows of a completion; nothing here reads it.
 *
 * Logprobs are 32-bit floats in every engine that computes them: they are written with the fewest digits that read back
 * as the same 32-bit float. Rewards keep all 64 bits.
 */
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream";
import { createGunzip } from "node:zlib";
import { isTooDeep } from "../config/json-file.ts";
import { errorText, InputError } from "../errors.ts";
import { requireFile } from "../files/paths.ts";
import { weightedSum } from "../rewards/results.ts";
import { isReward, rewardCure } from "./advantages.ts";

export interface Completion {
  /** (R), R ≥ 1; includes the end-of-sequence token. */
  readonly completionIds: Int32Array;
  /** 1: sampled by the policy; 0: forced, such as a tool's answer, and not learned from. Absent: all 1. (R) */
  readonly mask?: Uint8Array;
  /** False: cut at the length limit. */
  readonly finished: boolean;
  /** null: not scored. */
  readonly reward: number | null;
  /** By reward function name; `reward` is their sum under the weights. Both or neither, on every line or on none. */
  readonly rewards?: Readonly<Record<string, number | null>>;
  readonly rewardWeights?: Readonly<Record<string, number>>;
  /** π_old (R); 32-bit float values, like the next two; any number where the mask is 0. */
  readonly oldLogprobs?: Float64Array;
  readonly refLogprobs?: Float64Array;
  /** Of the distribution actually sampled from. */
  readonly samplingLogprobs?: Float64Array;
  /** One for the whole completion, or one per token (R); overrides the estimate from rewards. */
  readonly advantages?: number | Float64Array;
  /** The first optimizer step that learns from it, from 1; lines with several steps are learned from step by step. */
  readonly step?: number;
  /** Place in that step's order, from 0, if that is not the file's; `bnpo`'s blocks are taken from it. */
  readonly place?: number;
  /** The completion as text, for readers only. */
  readonly text?: string;
  /** The stop string that ended it, for readers only. */
  readonly stop?: string;
  /** Columns that reward functions added, for readers only. */
  readonly extra?: Readonly<Record<string, unknown>>;
  /** What the page shows of it, for readers only. */
  readonly details?: TokenDetails;
}

/** With `save_token_details`: nothing that an update reads. */
export interface TokenDetails {
  /** The verifier's word: "equal", "different", "unparsed", "timeout"; null: there is none. */
  readonly verdict: string | null;
  /** The estimate that was learned from, one for the completion or one per token (R). */
  readonly advantage: number | ArrayLike<number>;
  /** Where each token ends in the text, in UTF-16 units. (R) */
  readonly ends: readonly number[];
  /** Of the policy before each token, in nats (R); null: not computed. */
  readonly entropies: ArrayLike<number> | null;
  /** (R); null without a reference. */
  readonly refLogprobs: ArrayLike<number> | null;
}

export interface RolloutGroup {
  readonly group: number;
  /** (P), P ≥ 1 */
  readonly promptIds: Int32Array;
  readonly promptText?: string;
  readonly completions: Completion[];
}

export interface ReadRolloutsOptions {
  /** Ids must be below this. */
  readonly vocabSize: number;
  /** Whether every line needs a `reward` (default true); if false, a missing one reads as null. */
  readonly requireReward?: boolean;
}

const LOGPROB_KEYS = {
  old_logprobs: "oldLogprobs",
  ref_logprobs: "refLogprobs",
  sampling_logprobs: "samplingLogprobs",
} as const;

/**
 * All groups of a file, in order.
 *
 * @param path JSON lines, gzipped if the name ends in `.gz`
 * @throws InputError naming file, line and cure: unreadable, not JSON, a key missing or of the wrong type, an id
 *   outside the vocabulary, logprobs not as long as the completion, a group in two places or with two prompts, an empty
 *   file
 */
export async function readRollouts(path: string, options: ReadRolloutsOptions): Promise<RolloutGroup[]> {
  const groups: RolloutGroup[] = [];
  for await (const group of streamRollouts(path, options)) groups.push(group);
  return groups;
}

/** Like `readRollouts`, one group at a time, so only one group is in memory. */
export async function* streamRollouts(path: string, options: ReadRolloutsOptions): AsyncGenerator<RolloutGroup> {
  const seen = new Set<number>();
  let current: RolloutGroup | undefined;
  let lineNumber = 0;
  for await (const line of textLines(path)) {
    lineNumber++;
    if (line.trim() === "") continue;
    const where = `${path}:${lineNumber}`;
    const row = parseLine(line, where);
    const group = integer(row, "group", where);
    const promptIds = ids(row, "prompt_ids", options.vocabSize, where);
    const completion = readCompletion(row, options, where);
    if (current?.group === group) {
      if (!sameIds(current.promptIds, promptIds)) {
        throw new InputError(
          `${where}: "prompt_ids" differ from the lines above of group ${group}; give another prompt its own group`,
        );
      }
      current.completions.push(completion);
      continue;
    }
    if (seen.has(group)) {
      throw new InputError(`${where}: group ${group} has lines further up too; put all lines of a group together`);
    }
    seen.add(group);
    if (current) yield current;
    const promptText = row.prompt;
    current = { group, promptIds, ...(typeof promptText === "string" && { promptText }), completions: [completion] };
  }
  if (!current) throw new InputError(`${path}: has no rollouts; give a file with one JSON object per line`);
  yield current;
}

/**
 * One line, without its newline. `readRollouts` reads it back as the same completion.
 *
 * @throws RangeError if a logprob or the reward is not finite, which JSON cannot represent
 */
export function formatRollout(group: Omit<RolloutGroup, "completions">, completion: Completion): string {
  const fields = [
    `"group":${group.group}`,
    `"prompt_ids":[${group.promptIds.join(",")}]`,
    `"completion_ids":[${completion.completionIds.join(",")}]`,
    ...(completion.mask ? [`"mask":[${completion.mask.join(",")}]`] : []),
    `"finished":${completion.finished}`,
    `"reward":${completion.reward === null ? "null" : finite(completion.reward)}`,
  ];
  const { rewards, rewardWeights, step, place } = completion;
  if (rewards && rewardWeights) {
    fields.push(`"rewards":${namedNumbers(rewards)}`, `"reward_weights":${namedNumbers(rewardWeights)}`);
  }
  for (const [key, property] of Object.entries(LOGPROB_KEYS)) {
    const values = completion[property];
    if (values) fields.push(`"${key}":[${Array.from(values, shortestFloat32).join(",")}]`);
  }
  const { advantages } = completion;
  if (advantages !== undefined) {
    const numbers =
      typeof advantages === "number" ? finite(advantages) : `[${Array.from(advantages, finite).join(",")}]`;
    fields.push(`"advantages":${numbers}`);
  }
  if (step !== undefined) fields.push(`"step":${step}`);
  if (place !== undefined) fields.push(`"place":${place}`);
  if (group.promptText !== undefined) fields.push(`"prompt":${JSON.stringify(group.promptText)}`);
  if (completion.stop !== undefined) fields.push(`"stop":${JSON.stringify(completion.stop)}`);
  if (completion.extra !== undefined) fields.push(`"extra":${JSON.stringify(completion.extra)}`);
  if (completion.details !== undefined) fields.push(`"details":${detailsText(completion.details)}`);
  if (completion.text !== undefined) fields.push(`"completion":${JSON.stringify(completion.text)}`);
  return `{${fields.join(",")}}`;
}

/** Four digits that count are more than a colour shows. */
const rounded = (values: ArrayLike<number>): string =>
  `[${Array.from(values, (value) => Math.round(value * 1e4) / 1e4).join(",")}]`;

function detailsText({ verdict, advantage, ends, entropies, refLogprobs }: TokenDetails): string {
  const fields = [
    ...(verdict === null ? [] : [`"verdict":${JSON.stringify(verdict)}`]),
    `"advantage":${typeof advantage === "number" ? Math.round(advantage * 1e6) / 1e6 : rounded(advantage)}`,
    `"ends":[${ends.join(",")}]`,
    ...(entropies === null ? [] : [`"entropies":${rounded(entropies)}`]),
    ...(refLogprobs === null ? [] : [`"ref_logprobs":${rounded(refLogprobs)}`]),
  ];
  return `{${fields.join(",")}}`;
}

function namedNumbers(values: Readonly<Record<string, number | null>>): string {
  for (const value of Object.values(values)) if (value !== null) finite(value);
  return JSON.stringify(values);
}

/** The fewest significant digits that round to the same 32-bit float. */
function shortestFloat32(value: number): string {
  const float = Math.fround(finite(value));
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(float.toPrecision(digits));
    if (Math.fround(short) === float) return String(short);
  }
  return String(Number(float.toPrecision(9)));
}

function finite(value: number): number {
  if (!Number.isFinite(value)) throw new RangeError(`a rollout holds ${value}, which JSON cannot`);
  return value;
}

/** Lines of a UTF-8 file without their newlines; a gzip file is decompressed while reading. */
async function* textLines(path: string): AsyncGenerator<string> {
  requireFile(path, { once: true });
  const file = createReadStream(path, { highWaterMark: 1 << 18 });
  // pipeline, not pipe: it forwards the file's errors to the reader, so the loop below throws them.
  const bytes = path.endsWith(".gz") ? pipeline(file, createGunzip(), () => {}) : file;
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let rest: string[] = [];
  try {
    for await (const chunk of bytes) {
      const pieces = decoder.decode(chunk as Uint8Array, { stream: true }).split("\n");
      rest.push(pieces[0]!);
      for (let i = 1; i < pieces.length; i++) {
        yield rest.join("");
        rest = [pieces[i]!];
      }
    }
    rest.push(decoder.decode());
  } catch (error) {
    throw new InputError(`${path}: ${readFailure(error)}`);
  } finally {
    file.destroy();
  }
  if (rest.some((piece) => piece !== "")) yield rest.join("");
}

function readFailure(error: unknown): string {
  const code = (error as { code?: string } | null)?.code ?? "";
  if (code === "ENOENT") return "there is no such file; check the path";
  if (code === "EISDIR") return "is a folder; name the rollouts file in it";
  if (code === "EACCES") return "cannot be read; check its permissions";
  if (code.startsWith("Z_") || code === "ERR_BUFFER_OUT_OF_BOUNDS")
    return "is not a complete gzip file; copy it again, or unpack it";
  if (error instanceof TypeError) return "is not UTF-8 text; a gzip file needs a name that ends in .gz";
  return `cannot be read: ${errorText(error)}`;
}

type Row = Record<string, unknown>;

function parseLine(line: string, where: string): Row {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (error) {
    const cure = /\b(NaN|Infinity)\b/.test(line)
      ? "NaN and Infinity are not JSON; leave such completions out, or give reward null"
      : "write one whole JSON object per line";
    throw new InputError(`${where}: not JSON (${errorText(error)}); ${cure}`);
  }
  if (isTooDeep(row)) throw new InputError(`${where}: nested without end; leave the line out`);
  if (typeof row !== "object" || row === null || Array.isArray(row)) {
    throw new InputError(
      `${where}: not a JSON object; write {"group": …, "prompt_ids": …, "completion_ids": …} a line`,
    );
  }
  return row as Row;
}

function readCompletion(row: Row, options: ReadRolloutsOptions, where: string): Completion {
  const completionIds = ids(row, "completion_ids", options.vocabSize, where);
  const finished = row.finished ?? true;
  if (typeof finished !== "boolean")
    throw new InputError(`${where}: "finished" is ${shown(finished)}; give true or false`);
  const completion: { -readonly [K in keyof Completion]: Completion[K] } = {
    completionIds,
    finished,
    reward: readReward(row, options.requireReward ?? true, where),
  };
  if (row.mask !== undefined && row.mask !== null) completion.mask = readMask(row.mask, completionIds.length, where);
  for (const [key, property] of Object.entries(LOGPROB_KEYS)) {
    if (row[key] !== undefined && row[key] !== null)
      completion[property] = logprobs(row, key, completionIds.length, where);
  }
  if (row.advantages !== undefined && row.advantages !== null)
    completion.advantages = readAdvantages(row.advantages, completionIds.length, where);
  for (const [key, least] of [
    ["step", 1],
    ["place", 0],
  ] as const) {
    if (row[key] === undefined || row[key] === null) continue;
    completion[key] = integer(row, key, where);
    if (completion[key] < least) throw new InputError(`${where}: "${key}" is ${row[key]}; it counts from ${least}`);
  }
  Object.assign(completion, readNamedRewards(row, completion.reward, where));
  if (typeof row.completion === "string") completion.text = row.completion;
  if (typeof row.stop === "string") completion.stop = row.stop;
  if (typeof row.extra === "object" && row.extra !== null) completion.extra = row.extra as Record<string, unknown>;
  return completion;
}

function readMask(value: unknown, length: number, where: string): Uint8Array {
  const cure = "give one number per token: 1 if the policy sampled it, 0 if it was inserted";
  if (!Array.isArray(value)) throw new InputError(`${where}: "mask" is ${shown(value)}; ${cure}`);
  if (value.length !== length)
    throw new InputError(
      `${where}: "mask" has ${value.length} numbers for ${length} tokens of "completion_ids"; ${cure}`,
    );
  const broken = value.findIndex((own) => own !== 0 && own !== 1);
  if (broken >= 0) throw new InputError(`${where}: "mask"[${broken}] is ${shown(value[broken])}; ${cure}`);
  return Uint8Array.from(value as number[]);
}

const cureOf = (reward: unknown): string => (isFiniteNumber(reward) ? rewardCure(reward) : "give a finite number");

function readReward(row: Row, required: boolean, where: string): number | null {
  const { reward } = row;
  if (reward === undefined && required) throw missing("reward", "give a number, or null for not scored", where);
  if (reward === undefined || reward === null) return null;
  if (!isReward(reward)) {
    throw new InputError(`${where}: "reward" is ${shown(reward)}; ${cureOf(reward)}, or null for not scored`);
  }
  return reward;
}

/** A line's `rewards` and `reward_weights`, if it has both. Their sum must be its `reward`. */
function readNamedRewards(
  row: Row,
  reward: number | null,
  where: string,
): Pick<Completion, "rewards" | "rewardWeights"> {
  // Another trainer's file may use `rewards` for something else, so it is ignored without the weights.
  if (row.rewards === undefined || row.rewards === null || row.reward_weights === undefined) return {};
  const rewards = numbersByName(row, "rewards", where);
  const rewardWeights = numbersByName(row, "reward_weights", where);
  const names = Object.keys(rewards);
  const unweighted = names.find((name) => (rewardWeights[name] ?? null) === null);
  if (unweighted !== undefined)
    throw new InputError(
      `${where}: "reward_weights" has no "${unweighted}", which "rewards" has; give each its weight`,
    );
  const [sum = null] = weightedSum(
    names.map((name) => [rewards[name]!]),
    names.map((name) => rewardWeights[name]!),
    1,
  );
  const off =
    sum === null || reward === null ? sum !== reward : Math.abs(sum - reward) > 1e-9 * Math.max(1, Math.abs(sum));
  if (off)
    throw new InputError(
      `${where}: "reward" is ${reward}, and "rewards" by "reward_weights" are ${sum}; change both, or leave "rewards" and "reward_weights" out`,
    );
  return { rewards, rewardWeights: rewardWeights as Record<string, number> };
}

function numbersByName(row: Row, key: string, where: string): Record<string, number | null> {
  const values = row[key];
  if (typeof values !== "object" || values === null || Array.isArray(values))
    throw new InputError(`${where}: "${key}" is ${shown(values)}; give an object of numbers by the functions' names`);
  for (const [name, value] of Object.entries(values)) {
    if (value === null || isReward(value)) continue;
    throw new InputError(`${where}: "${key}" has ${shown(value)} for "${name}"; ${cureOf(value)}`);
  }
  return values as Record<string, number | null>;
}

function readAdvantages(value: unknown, length: number, where: string): number | Float64Array {
  if (isFiniteNumber(value)) return value;
  if (!Array.isArray(value))
    throw new InputError(
      `${where}: "advantages" is ${shown(value)}; give a finite number, or an array with one per token`,
    );
  if (value.length !== length)
    throw new InputError(
      `${where}: "advantages" has ${value.length} numbers for ${length} tokens of "completion_ids"; give one per token`,
    );
  const broken = value.findIndex((advantage) => !isFiniteNumber(advantage));
  if (broken >= 0)
    throw new InputError(`${where}: "advantages"[${broken}] is ${shown(value[broken])}; give a finite number`);
  return Float64Array.from(value as number[]);
}

function integer(row: Row, key: string, where: string): number {
  const value = row[key];
  if (value === undefined) throw missing(key, "give an integer", where);
  if (!Number.isSafeInteger(value)) throw new InputError(`${where}: "${key}" is ${shown(value)}; give an integer`);
  return value as number;
}

function ids(row: Row, key: string, vocabSize: number, where: string): Int32Array {
  const values = row[key];
  if (values === undefined) throw missing(key, "give an array of token ids", where);
  if (!Array.isArray(values))
    throw new InputError(`${where}: "${key}" is ${shown(values)}; give an array of token ids`);
  if (values.length === 0)
    throw new InputError(`${where}: "${key}" is empty; give at least one token, or drop the line`);
  for (const [i, id] of values.entries()) {
    if (!Number.isInteger(id) || id < 0) {
      throw new InputError(`${where}: "${key}"[${i}] is ${shown(id)}; token ids are integers from 0`);
    }
    if (id >= vocabSize) {
      throw new InputError(
        `${where}: "${key}"[${i}] is ${id}, and the model has ids from 0 to ${vocabSize - 1}; use the model that made the rollouts`,
      );
    }
  }
  return Int32Array.from(values);
}

function logprobs(row: Row, key: string, length: number, where: string): Float64Array {
  const values = row[key];
  if (!Array.isArray(values)) throw new InputError(`${where}: "${key}" is ${shown(values)}; give an array of numbers`);
  if (values.length !== length) {
    throw new InputError(
      `${where}: "${key}" has ${values.length} numbers for ${length} tokens of "completion_ids"; give one per token`,
    );
  }
  const floats = new Float64Array(length);
  for (const [i, value] of values.entries()) {
    floats[i] = isFiniteNumber(value) ? Math.fround(value) : Number.NaN;
    if (!Number.isFinite(floats[i])) {
      throw new InputError(
        `${where}: "${key}"[${i}] is ${shown(value)}; give a finite number, the natural log of a probability`,
      );
    }
  }
  return floats;
}

function missing(key: string, cure: string, where: string): InputError {
  return new InputError(`${where}: has no "${key}"; ${cure}`);
}

function isFiniteNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function sameIds(a: Int32Array, b: Int32Array): boolean {
  return a.length === b.length && a.every((id, i) => id === b[i]);
}

/** A value as written in the file, short enough for one line. */
function shown(value: unknown): string {
  const text = typeof value === "number" ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 40 ? `${text.slice(0, 37)}...` : text;
}
