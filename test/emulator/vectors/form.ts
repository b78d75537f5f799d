/**
 * A vector: a piece of PTX with named inputs and outputs, inputs to run it on, and the outputs that the manual's definition
 * requires. Each form becomes one kernel; a thread runs one case, a warp form's 32 lanes run one case together.
 */
import { type Format, formats } from "./exact.ts";

/** Bit patterns, unsigned. */
export type Bits = bigint;

/** Size in bytes of the global memory that a `ptr` input is an offset into; byte i is `scratchByte(i)` before the kernel. */
export const scratchBytes = 65536;

export function scratchByte(offset: number): number {
  return (offset * 37 + (offset >> 8) * 11 + 5) & 0xff;
}

/** `bytes` bytes of that memory as a little-endian number. */
export function scratchValue(offset: number, bytes: number): Bits {
  let value = 0n;
  for (let i = bytes; i-- > 0; ) value = (value << 8n) | BigInt(scratchByte(offset + i));
  return value;
}

export interface Form {
  /** PTX lines; `{a} {b} {c} {e}` are the inputs in order, `{d}` or `{d0} {d1} …` the outputs. */
  readonly code: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Inputs of each thread. Those of a warp form come in groups of 32. */
  readonly cases: readonly (readonly Bits[])[];
  /** Outputs of each thread, in the order of `cases`; null if the manual leaves a value open. Computed on demand. */
  readonly expected: () => readonly (readonly (Bits | null)[])[];
  /** Blocks have 32 threads, so that each case is a warp. */
  readonly warp?: boolean;
  /** Allowed error of a finite result: relative, and absolute. */
  readonly tolerance?: { readonly relative: number; readonly absolute?: number };
}

/** Names of the inputs in `code`. */
export const inputNames = ["a", "b", "c", "e", "f", "g", "h", "i", "j", "k", "l", "m"];

export function widthOf(type: string): number {
  if (type === "pred") return 1;
  if (type === "ptr") return 64;
  if (/x2$/.test(type)) return 32;
  return Number(type.replace(/^bf/, "f").replace(/^[a-z]+/, ""));
}

/** Width of the register for a type: at least 16 bits. */
export function registerWidth(type: string): number {
  return Math.max(16, widthOf(type.split(":").at(-1)!));
}

export function formatOf(type: string): Format | undefined {
  return Object.hasOwn(formats, type) ? formats[type as keyof typeof formats] : undefined;
}

export function mask(bits: number): bigint {
  return (1n << BigInt(bits)) - 1n;
}

/** Two's complement. */
export function signed(value: Bits, bits: number): bigint {
  return BigInt.asIntN(bits, value);
}

export function unsigned(value: bigint, bits: number): Bits {
  return BigInt.asUintN(bits, value);
}

export function minimum(a: bigint, b: bigint): bigint {
  if (b < a) return b;
  return a;
}

export function maximum(a: bigint, b: bigint): bigint {
  if (a < b) return b;
  return a;
}

/** Every combination of the lists' elements. */
export function product(...lists: readonly (readonly Bits[])[]): Bits[][] {
  return lists.reduce<Bits[][]>((rows, list) => rows.flatMap((row) => list.map((x) => [...row, x])), [[]]);
}

interface Signature {
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

/** "u32 u32 -> u32 pred" */
function parse(signature: string): Signature {
  const [inputs, outputs] = signature.split("->").map((side) => side.trim().split(/\s+/).filter(Boolean));
  return { inputs: inputs!, outputs: outputs! };
}

/** `op d, a, b, …;` unless the code is given. */
function codeOf(op: string, { inputs, outputs }: Signature): string {
  if (op.includes("{")) return op;
  const results = outputs.length === 1 ? "{d}" : outputs.map((_, i) => `{d${i}}`).join("|");
  return `${op} ${[results, ...inputs.map((_, i) => `{${inputNames[i]}}`)].join(", ")};`;
}

/**
 * A form with expected values from the manual's formula, written as `reference` on bit patterns.
 *
 * @param op an opcode, or PTX lines with braces if its operands are not simply outputs and inputs
 */
export function byFormula(
  op: string,
  signature: string,
  cases: readonly (readonly Bits[])[],
  reference: (...inputs: Bits[]) => Bits | null | readonly (Bits | null)[],
  more: Pick<Form, "tolerance"> = {},
): Form {
  const types = parse(signature);
  const expected = () =>
    cases.map((inputs) => {
      const result = reference(...inputs);
      const results = result === null || typeof result === "bigint" ? [result] : result;
      return results.map((bits, i) => (bits === null ? null : unsigned(bits, registerWidth(types.outputs[i]!))));
    });
  return { code: codeOf(op, types), ...types, cases, expected, ...more };
}

/** A form with written-out cases: one "3f800000 40000000 -> 40400000" per line, with remarks after `#`. */
export function byHand(op: string, signature: string, text: string, more: Pick<Form, "tolerance"> = {}): Form {
  const types = parse(signature);
  const lines = text.split("\n").map((line) => line.replace(/#.*/, "").trim());
  const rows = lines.filter(Boolean).map((line) => {
    const [inputs, outputs] = line.split("->").map((side) => side.trim().split(/\s+/).filter(Boolean));
    if (inputs?.length !== types.inputs.length || outputs?.length !== types.outputs.length) {
      throw new Error(`${op}: a line that does not fit its signature: ${line}`);
    }
    return { inputs: inputs.map((x) => BigInt(`0x${x}`)), outputs: outputs.map((x) => BigInt(`0x${x}`)) };
  });
  const cases = rows.map((row) => row.inputs);
  return { code: codeOf(op, types), ...types, cases, expected: () => rows.map((row) => row.outputs), ...more };
}

/** A form that 32 lanes run together: `reference` gets the inputs of all, `lanes[lane][input]`. */
export function byWarp(
  op: string,
  signature: string,
  warps: readonly (readonly (readonly Bits[])[])[],
  reference: (lanes: readonly (readonly Bits[])[], warp: number) => readonly (readonly (Bits | null)[])[],
): Form {
  const types = parse(signature);
  return {
    code: codeOf(op, types),
    ...types,
    cases: warps.flat(),
    expected: () => warps.flatMap(reference),
    warp: true,
  };
}
