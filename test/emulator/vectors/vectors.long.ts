/**
 * The PTX engine against the manual: every vector, and a vector for every opcode that the recorded kernels use. The expected
 * results are in the tables beside this file.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { buildEmulator } from "../build.ts";
import { vectors } from "./all.ts";
import { add, decode, divide, encode, formats, multiply, squareRoot } from "./exact.ts";
import { opcodesOf, testedOpcodes } from "./module.ts";
import type { RefusalOutcome, SectionOutcome } from "./run.ts";

const minutes = 60_000;

async function run<T>(...args: string[]): Promise<T[]> {
  const { folder } = await buildEmulator();
  const command = [process.execPath, join(import.meta.dir, "run.ts"), folder, ...args];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "ignore" });
  const [text] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  return text
    .trim()
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as T);
}

describe("the engine computes what the manual defines", () => {
  let outcomes: Promise<SectionOutcome[]> | undefined;
  for (const [section, forms] of Object.entries(vectors)) {
    test(
      `${section}: ${forms.length} forms`,
      async () => {
        outcomes ??= run<SectionOutcome>();
        const found = (await outcomes).filter((each) => each.section === section);
        const cases = forms.reduce((sum, form) => sum + form.cases.length, 0);
        const sound = { section, forms: forms.length, cases, mismatches: [], reports: [] };
        expect(found).toEqual([
          { ...sound, check: true },
          { ...sound, check: false },
        ]);
      },
      10 * minutes,
    );
  }

  test(
    "an opcode that it does not know, or a modifier of one, stops the translation by name",
    async () => {
      const outcomes = await run<RefusalOutcome>("--refusals");
      expect(outcomes.length).toBeGreaterThan(60);
      expect(outcomes.filter(({ opcode, reason }) => !reason.includes(opcode))).toEqual([]);
    },
    10 * minutes,
  );
});

/** Opcodes that according to the manual change no value, or that every kernel contains, so that every vector runs them. */
const skeleton = new Set(["ret", "exit", "bra", "bra.uni", "trap"]);

/** Instructions that several warps carry out together: whole kernels test them, in these files. */
const kernels = ["../warpgroup.test.ts", "../runtime/engine.test.ts"]
  .map((name) => readFileSync(join(import.meta.dir, name), "utf8"))
  .join("\n");
const inKernels = (opcode: string) =>
  /^(wgmma|mbarrier|setmaxnreg|cp\.async\.bulk|fence\.proxy|bar\.arrive|cvta\.param)\b/.test(opcode) &&
  // biome-ignore lint/suspicious/noTemplateCurlyInString: the text of a template
  kernels.includes(`${opcode.replace(/m64n\d+k16/, "m64n${N}k16")}`);

/** Types of equal width that only name how a register is moved. */
function plain(opcode: string): string {
  return /^(ld\.param|mov|selp|st|ld)\b/.test(opcode) ? opcode.replace(/\.[bu](8|16|32|64)$/, ".b$1") : opcode;
}

test("every opcode of the recorded kernels has a vector", () => {
  const folder = join(import.meta.dir, "../../golden/ptx");
  const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".ptx.gz")) : [];
  expect(files.length).toBeGreaterThan(0);
  const tested = new Set([...testedOpcodes(Object.values(vectors).flat())].map(plain));
  const untested = new Map<string, string>();
  for (const name of files) {
    for (const opcode of opcodesOf(gunzipSync(readFileSync(join(folder, name))).toString())) {
      if (skeleton.has(opcode) || opcode.startsWith("ld.param.") || tested.has(plain(opcode)) || inKernels(opcode))
        continue;
      untested.set(opcode, name);
    }
  }
  expect([...untested].sort()).toEqual([]);
});

// The expected values depend on exact.ts, which is compared with the machine's own arithmetic where that is known to be exact.
test("exact arithmetic agrees with the processor's in float32 and float64", () => {
  const floats = new Float32Array(1);
  const bits = new Uint32Array(floats.buffer);
  const doubles = new Float64Array(1);
  const words = new BigUint64Array(doubles.buffer);
  let state = 12345n;
  const random = (width: number) => {
    state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
    return state >> BigInt(64 - width);
  };
  const float = (x: bigint) => {
    bits[0] = Number(x);
    return floats[0]!;
  };
  const double = (x: bigint) => {
    words[0] = x;
    return doubles[0]!;
  };
  const bitsOf = (x: number) => {
    floats[0] = x;
    return BigInt(bits[0]!);
  };
  const wordOf = (x: number) => {
    doubles[0] = x;
    return words[0]!;
  };
  for (let i = 0; i < 3000; i++) {
    // Exponents close enough to each other that sums round.
    const [a, b] = [(random(32) & 0x83ffffffn) | 0x3c000000n, (random(32) & 0x83ffffffn) | 0x3c000000n];
    const [x, y] = [decode(formats.f32, a), decode(formats.f32, b)];
    expect(encode(formats.f32, add(x, y))).toBe(bitsOf(float(a) + float(b)));
    expect(encode(formats.f32, multiply(x, y))).toBe(bitsOf(float(a) * float(b)));
    expect(encode(formats.f32, divide(x, y))).toBe(bitsOf(float(a) / float(b)));
    expect(encode(formats.f32, squareRoot(decode(formats.f32, a & 0x7fffffffn)))).toBe(
      bitsOf(Math.sqrt(float(a & 0x7fffffffn))),
    );
    const [c, e] = [random(62) | (random(1) << 63n), random(62) | (random(1) << 63n)];
    const [u, v] = [decode(formats.f64, c), decode(formats.f64, e)];
    expect(encode(formats.f64, add(u, v))).toBe(wordOf(double(c) + double(e)));
    expect(encode(formats.f64, multiply(u, v))).toBe(wordOf(double(c) * double(e)));
    expect(encode(formats.f64, divide(u, v))).toBe(wordOf(double(c) / double(e)));
    expect(encode(formats.f32, u)).toBe(bitsOf(Math.fround(double(c))));
  }
});
