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
    positions: [sequences],
    page: [sequences],
    offset: [sequences],
    promptLengths: [sequences],
    completionLengths: [sequences],
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
  /** Rows that are computed, padding included. */
  readonly rows: number;
  /** A page and a slot that belong to no sequence. */
  readonly sparePage: number;
  readonly spareSlot: number;
}

/** Fills the host's copy for one decode step. */
export function fillStep(
  { fields, tensors }: StepInputs,
  sequences: readonly CachedSequence[],
  place: StepPlace,
): void {
  const { tokens, positions, page, offset, promptLengths, completionLengths, logitRow, pageTable } = fields;
  const width = tensors.pageTable.rowStride;
  for (let i = 0; i < sequences.length; i++) {
    const s = sequences[i]!;
    const newest = s.ids.length - 1; // index of the newest token in the completion
    tokens[i] = s.ids[newest]!;
    positions[i] = s.prompt.request.promptIds.length + newest;
    page[i] = s.pages[Math.floor(newest / PAGE_TOKENS)]!;
    offset[i] = newest % PAGE_TOKENS;
    promptLengths[i] = s.prompt.request.promptIds.length;
    completionLengths[i] = s.ids.length;
    logitRow[i] = i;
    pageTable.set(s.prompt.pages, i * width);
    pageTable.set(s.pages, i * width + s.prompt.pages.length);
  }
  for (let i = sequences.length; i < place.rows; i++) {
    tokens[i] = 0;
    positions[i] = 0;
    page[i] = place.sparePage;
    offset[i] = (i - sequences.length) % PAGE_TOKENS;
    promptLengths[i] = 0;
    completionLengths[i] = 0;
    logitRow[i] = i;
    pageTable.fill(place.sparePage, i * width, (i + 1) * width);
  }
  fillCounters(fields.counters, sequences, place);
}

/** Fills the random numbers' counters, and the slots whose marks the repetition penalty reads. */
export function fillCounters(
  counters: Int32Array,
  sequences: readonly CachedSequence[],
  { step, rows: count, spareSlot }: StepPlace,
): void {
  for (let i = 0; i < count; i++) {
    const at = i * SAMPLE_COUNTERS;
    const s = sequences[i];
    counters[at] = s ? s.ids.length : 0;
    counters[at + 1] = s ? s.sample : 0;
    counters[at + 2] = s ? s.prompt.request.prompt : 0;
    counters[at + 3] = step;
    counters[at + 4] = s ? s.slot : spareSlot;
  }
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
