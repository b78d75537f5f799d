/**
 * Runs the opcode vectors on the emulated driver, one module per section, and prints the differences as one line of JSON per
 * section. Arguments: the folder of the emulated libraries, then optional names of sections.
 */
import { errorText } from "../../../src/errors.ts";
import { openSession, type Session } from "../planted/session.ts";
import { vectors } from "./all.ts";
import { decode, toNumber } from "./exact.ts";
import { type Bits, type Form, formatOf, mask, registerWidth, scratchByte, scratchBytes } from "./form.ts";
import { kernelName, opcodesOf, ptxModule, slotBytes, threadsOf } from "./module.ts";

export interface SectionOutcome {
  readonly section: string;
  /** Whether memory and barriers were checked: without checks the engine takes different paths. */
  readonly check: boolean;
  readonly forms: number;
  readonly cases: number;
  /** Wrong results in words; the first of each form. */
  readonly mismatches: readonly string[];
  /** The emulator's findings. */
  readonly reports: readonly string[];
}

/** Whether a result is as expected: equal bits, any NaN for a NaN, or close enough if the form allows it. */
function agrees(form: Form, type: string, expected: Bits, actual: Bits): boolean {
  const cut = type === "pred" ? 1n : mask(registerWidth(type));
  if ((expected & cut) === (actual & cut)) return true;
  const packed = type.endsWith("x2");
  const format = formatOf(packed ? type.slice(0, -2) : type);
  if (!format) return false;
  if (packed) {
    const half = { ...form, outputs: [type.slice(0, -2)] };
    return [0n, 16n].every((at) =>
      agrees(half, half.outputs[0]!, (expected >> at) & 0xffffn, (actual >> at) & 0xffffn),
    );
  }
  const [wanted, got] = [decode(format, expected & mask(format.bits)), decode(format, actual & mask(format.bits))];
  if (wanted.kind === "nan") return got.kind === "nan";
  if (!form.tolerance || wanted.kind !== "finite" || got.kind !== "finite") return false;
  if (wanted.magnitude === 0n && form.tolerance.absolute === undefined) return false;
  const [x, y] = [toNumber(wanted), toNumber(got)];
  const { relative, absolute = 0 } = form.tolerance;
  return Math.abs(x - y) <= Math.max(absolute, relative * Math.abs(x));
}

/** The contents, before each form, of the memory that `ptr` inputs point into. */
const scratchContent = Uint8Array.from({ length: scratchBytes }, (_, i) => scratchByte(i));

function runForm(session: Session, form: Form, kernel: number): string[] {
  const scratch = form.inputs.includes("ptr") ? session.buffer(scratchContent) : 0;
  const { length } = form.cases;
  const inputs = new BigUint64Array(Math.max(1, length * form.inputs.length));
  for (const [i, row] of form.cases.entries()) {
    for (const [k, bits] of row.entries())
      inputs[i * form.inputs.length + k] = form.inputs[k] === "ptr" ? bits + BigInt(scratch) : bits;
  }
  const width = form.outputs.length;
  const [input, output] = [session.buffer(inputs), session.buffer(new Uint8Array(length * width * slotBytes))];
  const threads = threadsOf(form);
  session.launch(kernel, Math.ceil(length / threads), threads, 0, [output, input, { i32: length }]);
  session.synchronize();
  const results = new BigUint64Array(session.read(output, length * width * slotBytes));
  for (const address of [input, output, ...(scratch ? [scratch] : [])]) session.free(address);
  const hex = (bits: Bits) => bits.toString(16);
  const faults: string[] = [];
  for (const [i, row] of form.expected().entries()) {
    for (const [k, expected] of row.entries()) {
      const actual = results[i * width + k]!;
      if (expected === null || agrees(form, form.outputs[k]!, expected, actual)) continue;
      const lane = form.warp ? ` (warp ${Math.floor(i / 32)}, lane ${i % 32})` : "";
      const code =
        form.code
          .trim()
          .split("\n")
          .find((line) => line.includes("{d")) ?? form.code;
      faults.push(
        `${code} of ${form.cases[i]!.map(hex).join(" ")}${lane}: output ${k} is ${hex(actual)}, not ${hex(expected)}`,
      );
    }
  }
  return faults;
}

function runSection(folder: string, section: string, forms: readonly Form[], check: boolean): SectionOutcome {
  const session = openSession(folder);
  session.control.setCheck(check);
  const mismatches: string[] = [];
  let cases = 0;
  try {
    const ptx = ptxModule(forms);
    for (const [i, form] of forms.entries()) {
      const faults = runForm(session, form, session.kernelOf(ptx, kernelName(i)));
      cases += form.cases.length;
      if (faults.length > 0)
        mismatches.push(faults.length > 1 ? `${faults[0]} (and ${faults.length - 1} more)` : faults[0]!);
    }
  } catch (error) {
    mismatches.push(errorText(error));
  }
  // Vectors test values: how well their accesses are coalesced does not matter.
  const advice = new Set(["bank-conflict", "uncoalesced"]);
  const reports = session.control.reports().filter(({ kind }) => !advice.has(kind));
  return { section, check, forms: forms.length, cases, mismatches, reports: reports.map(({ text }) => text) };
}

/** The outcome of loading a form: the engine's reason, or "accepted". */
function refusal(folder: string, form: Form): string {
  try {
    openSession(folder).kernelOf(ptxModule([form]), kernelName(0));
    return "accepted";
  } catch (error) {
    return errorText(error);
  }
}

export interface RefusalOutcome {
  readonly opcode: string;
  readonly reason: string;
}

/** Nonexistent opcodes: one of each mnemonic of the vectors with an extra modifier, and some invented ones. */
function refusals(folder: string): RefusalOutcome[] {
  const binary = { inputs: ["u32", "u32"], outputs: ["u32"], cases: [], expected: () => [] };
  const madeUp = ["frobnicate.u32", "mul24.sideways.u32", "add.u31"].map((opcode) => ({
    opcode,
    form: { ...binary, code: `${opcode} {d}, {a}, {b};` },
  }));
  const seen = new Set<string>();
  const modified = Object.values(vectors)
    .flat()
    .flatMap((form) =>
      [...opcodesOf(form.code)].flatMap((opcode) => {
        const mnemonic = opcode.split(".")[0]!;
        if (seen.has(mnemonic)) return [];
        seen.add(mnemonic);
        const changed = opcode.replace(mnemonic, `${mnemonic}.bogus`);
        return [
          {
            opcode: changed,
            form: { ...form, code: form.code.replace(opcode, changed), cases: [], expected: () => [] },
          },
        ];
      }),
    );
  return [...madeUp, ...modified].map(({ opcode, form }) => ({ opcode, reason: refusal(folder, form) }));
}

if (import.meta.main) {
  const [folder, ...names] = process.argv.slice(2);
  if (names[0] === "--refusals") for (const outcome of refusals(folder!)) console.log(JSON.stringify(outcome));
  else {
    for (const [section, forms] of Object.entries(vectors)) {
      if (names.length > 0 && !names.includes(section)) continue;
      for (const check of [true, false]) console.log(JSON.stringify(runSection(folder!, section, forms, check)));
    }
  }
}
