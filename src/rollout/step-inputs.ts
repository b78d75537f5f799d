/**
 * The inputs and outputs of a decode step: a block of integers on the device with its copy on the host, and the sampled
 * tokens. There is one transfer each way per step, whatever the number of fields. Rows beyond the sequences are
 * padding: they write keys to a page that nobody reads, and attend to none.
 */
import { PAGE_TOKENS, SAMPLE_COUNTERS } from "../device/device.ts";
import { elementCount, rows, type Tensor, tensor } from "../tensor/tensor.ts";
import type { CachedSequence } from "./sequence.ts";

/** Named int32 fields in one planned buffer, (elements). */
export interface IntegerBlock<Name extends string> {
  /** The whole block on the host. */
  readonly host: Int32Array;
  readonly block: Tensor;
  readonly tensors: Readonly<Record<Name, Tensor>>;
  /** The parts of `host` that `tensors` are copies of. */
  readonly fields: Readonly<Record<Name, Int32Array>>;
}

type Shapes<Name extends string> = Readonly<Record<Name, readonly number[]>>;

/** Fields begin at multiples of this, to allow wide loads. */
const ALIGNED_ELEMENTS = 32;

function aligned(elements: number): number {
  return Math.ceil(elements / ALIGNED_ELEMENTS) * ALIGNED_ELEMENTS;
}

/** Elements of a block with these fields. */
export function blockElements(shapes: Shapes<string>): number {
  return Object.values(shapes).reduce((sum, shape) => sum + aligned(elementCount(shape)), 0);
}

/** The fields in a buffer of `blockElements` integers. */
export function integerBlock<Name extends string>(block: Tensor, shapes: Shapes<Name>): IntegerBlock<Name> {
  const host = new Int32Array(elementCount(block.shape));
  const tensors = {} as Record<Name, Tensor>;
  const fields = {} as Record<Name, Int32Array>;
  let at = 0;
  for (const name in shapes) {
    const elements = elementCount(shapes[name]);
    tensors[name] = tensor(`${block.name}: ${name}`, block.address + 4 * at, "int32", shapes[name]);
    fields[name] = host.subarray(at, at + elements);
    at += aligned(elements);
  }
  return { host, block, tensors, fields };
}

/** A decode step's inputs for at most `sequences` sequences and `width` pages of each. */
export function stepShapes(sequences: number, width: number) {
  return {
    tokens: [sequences],
    from: [sequences], // the row of the last step that sampled the token, -1: it is in `tokens`
    positions: [sequences],
    page: [sequences],
    offset: [sequences],
    promptLengths: [sequences],
    completionLengths: [sequences],
    promptSlot: [sequences], // rows of promptHidden that first tokens are sampled from
    logitRow: [sequences],
    counters: [sequences, SAMPLE_COUNTERS],
    pageTable: [sequences, width],
  } as const;
}

export type StepInputs = IntegerBlock<keyof ReturnType<typeof stepShapes>>;

/** Inputs of a step that are the same for all its rows. */
export interface StepPlace {
  /** Training step: part of the random numbers' key. */
  readonly step: number;
  /** Rows that the layers compute, padding included. */
  readonly rows: number;
  /** A page and a slot that belong to no sequence. */
  readonly sparePage: number;
  readonly spareSlot: number;
}

/** Tokens of a completion, the one that a queued step samples included. */
export function tokenCount({ ids, row }: CachedSequence): number {
  return ids.length + (row >= 0 ? 1 : 0);
}

/** Fills the host's copy for a step that appends a token to running sequences. */
export function fillStep(
  { fields, tensors }: StepInputs,
  sequences: readonly CachedSequence[],
  { step, rows: count, sparePage, spareSlot }: StepPlace,
): void {
  const { tokens, from, positions, page, offset, promptLengths, completionLengths, logitRow, pageTable } = fields;
  const width = tensors.pageTable.rowStride;
  for (let i = 0; i < sequences.length; i++) {
    const s = sequences[i]!;
    const { pages: promptPages, request } = s.prompt;
    const P = request.promptIds.length;
    const length = tokenCount(s);
    const newest = length - 1; // index of the newest token in the completion
    const known = newest < s.ids.length ? s.ids[newest] : s.forced[0];
    tokens[i] = known ?? 0;
    from[i] = known === undefined ? s.row : -1;
    positions[i] = P + newest;
    page[i] = s.pages[Math.floor(newest / PAGE_TOKENS)]!;
    offset[i] = newest % PAGE_TOKENS;
    promptLengths[i] = P;
    completionLengths[i] = length;
    logitRow[i] = i;
    pageTable.set(promptPages, i * width);
    pageTable.set(s.pages, i * width + promptPages.length);
    setCounters(fields.counters, i, length, s.sample, request.prompt, step, s.slot);
  }
  for (let i = sequences.length; i < count; i++) {
    tokens[i] = 0;
    from[i] = -1;
    positions[i] = 0;
    page[i] = sparePage;
    offset[i] = (i - sequences.length) % PAGE_TOKENS;
    promptLengths[i] = 0;
    completionLengths[i] = 0;
    logitRow[i] = i;
    pageTable.fill(sparePage, i * width, (i + 1) * width);
    setCounters(fields.counters, i, 0, 0, 0, step, spareSlot);
  }
}

/**
 * Fills the sampler's rows from row `at` on for the first tokens of new sequences, whose prompts' rows of logits follow
 * those of running sequences.
 *
 * @returns how many prompts they have
 */
export function fillFirst({ fields }: StepInputs, fresh: readonly CachedSequence[], at: number, step: number): number {
  let prompts = 0;
  for (let i = 0; i < fresh.length; i++) {
    const { prompt, sample, slot } = fresh[i]!;
    // Samples are admitted prompt by prompt.
    if (prompt !== fresh[i - 1]?.prompt) fields.promptSlot[prompts++] = prompt.slot;
    fields.logitRow[at + i] = at + prompts - 1;
    setCounters(fields.counters, at + i, 0, sample, prompt.request.prompt, step, slot);
  }
  return prompts;
}

/** A row's random numbers, and the slot whose marks the repetition penalty reads. */
function setCounters(
  counters: Int32Array,
  row: number,
  position: number,
  sample: number,
  prompt: number,
  step: number,
  slot: number,
): void {
  const at = row * SAMPLE_COUNTERS;
  counters[at] = position;
  counters[at + 1] = sample;
  counters[at + 2] = prompt;
  counters[at + 3] = step;
  counters[at + 4] = slot;
}

/** The outputs of `sample`, in one buffer (3, rows) for a single read. */
export interface SampledOutputs {
  readonly all: Tensor; // int32 (3, rows)
  readonly ids: Tensor; // int32 (rows)
  readonly logprob: Tensor; // float32 (rows)
  readonly samplingLogprob: Tensor; // float32 (rows)
}

export function sampledOutputs(all: Tensor): SampledOutputs {
  const row = (r: number, dtype: "int32" | "float32") =>
    tensor(all.name, rows(all, r, 1).address, dtype, [all.rowStride]);
  return { all, ids: row(0, "int32"), logprob: row(1, "float32"), samplingLogprob: row(2, "float32") };
}
