/**
 * Sums as tensor cores form them (runtime/truncate.h): values computed by hand from the definition, and the definition itself
 * in integers, compared with `mma` and the emulated cuBLAS; and how truncation differs from rounding.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { randomFrom } from "../../bench/ops/random.ts";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { bfloat16ToNumber, numberToBfloat16 } from "../../src/tensor/dtype.ts";
import { buildEmulator } from "./build.ts";
import { openCalls } from "./calls.ts";
import type { Accumulation, Truncating } from "./control.ts";
import { openSession, type Session } from "./planted/session.ts";

setDefaultTimeout(180_000); // the emulator may have to be compiled first

const { folder } = await buildEmulator();
const ways: readonly Truncating[] = ([8, 16] as const).flatMap((products) =>
  ([0, 1, 2] as const).map((extraBits) => ({ products, extraBits })),
);
const named = ways.map((way) => [`${way.products} products, ${way.extraBits} extra bits`, way] as const);

// --- the definition, in integers: a value is `whole` · 2^(exponent − 200)

const ORIGIN = 200n;

/** A finite float32 as a multiple of 2^-200, and the exponent of its leading digit. */
function exact(value: number): { readonly whole: bigint; readonly exponent: number } {
  const exponent = value === 0 ? 0 : Math.floor(Math.log2(Math.abs(value)));
  const mantissa = value / 2 ** exponent;
  return { whole: BigInt(mantissa * 2 ** 23) << (ORIGIN + BigInt(exponent) - 23n), exponent };
}

const cut = (whole: bigint, unit: bigint) => (whole / unit) * unit; // BigInt division truncates

function step(sum: number, a: readonly number[], b: readonly number[], extraBits: number): number {
  const products = a.map((x, i) => {
    const [p, q] = [exact(x), exact(b[i]!)];
    return { whole: (p.whole * q.whole) >> ORIGIN, exponent: p.exponent + q.exponent };
  });
  const terms = [exact(sum), ...products].filter(({ whole }) => whole !== 0n);
  if (terms.length === 0) return 0;
  const largest = Math.max(...terms.map(({ exponent }) => exponent));
  const unit = 1n << (ORIGIN + BigInt(largest - 23 - extraBits));
  const total = terms.reduce((so, { whole }) => so + cut(whole, unit), 0n);
  const digits = (total < 0n ? -total : total).toString(2).length;
  const kept = digits > 24 ? cut(total, 1n << BigInt(digits - 24)) : total;
  const drop = BigInt(Math.max(0, digits - 53));
  return Number(kept >> drop) * 2 ** (Number(drop) - Number(ORIGIN));
}

function defined(sum: number, a: readonly number[], b: readonly number[], { products, extraBits }: Truncating): number {
  let so = sum;
  for (let k = 0; k < a.length; k += products)
    so = step(so, a.slice(k, k + products), b.slice(k, k + products), extraBits);
  return so;
}

// --- one mma of 16 × 8 × 16

type Matrix = readonly (readonly number[])[];
const lanes = Array.from({ length: 32 }, (_, lane) => lane);
const pair = (low: number, high: number) => numberToBfloat16(low) | (numberToBfloat16(high) << 16);

const mmaPtx = `.version 8.0
.target sm_80
.address_size 64
.visible .entry multiply(.param .u64 p)
{
.reg .b32 %t, %a<4>, %b<2>;
.reg .f32 %c<4>;
.reg .b64 %at, %o;
ld.param.u64 %at, [p];
mov.u32 %t, %tid.x;
mul.wide.u32 %o, %t, 48;
add.u64 %at, %at, %o;
ld.global.v4.b32 {%a0, %a1, %a2, %a3}, [%at];
ld.global.v2.b32 {%b0, %b1}, [%at+16];
ld.global.v4.f32 {%c0, %c1, %c2, %c3}, [%at+32];
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%c0, %c1, %c2, %c3}, {%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1, %c2, %c3};
st.global.v4.f32 [%at+32], {%c0, %c1, %c2, %c3};
ret;
}
`;

/** A (16, 16) · B (16, 8) + C (16, 8), with operands in the lanes' registers as the manual lays them out. */
function multiply(session: Session, a: Matrix, b: Matrix, c: Matrix): number[][] {
  const words = new Uint32Array(32 * 12);
  const floats = new Float32Array(words.buffer);
  const place = (lane: number, i: number) => [(lane >> 2) + 8 * (i >> 1), 2 * (lane % 4) + (i & 1)] as const;
  for (const lane of lanes) {
    const [group, two] = [lane >> 2, 2 * (lane % 4)];
    for (let i = 0; i < 4; i++) {
      const [row, column] = [group + 8 * (i % 2), two + 8 * (i >> 1)];
      words[12 * lane + i] = pair(a[row]![column]!, a[row]![column + 1]!);
    }
    for (let i = 0; i < 2; i++) words[12 * lane + 4 + i] = pair(b[two + 8 * i]![group]!, b[two + 1 + 8 * i]![group]!);
    for (let i = 0; i < 4; i++) {
      const [row, column] = place(lane, i);
      floats[12 * lane + 8 + i] = c[row]![column]!;
    }
  }
  const buffer = session.buffer(words);
  session.launch(session.kernelOf(mmaPtx, "multiply"), 1, 32, 0, [buffer]);
  const results = new Float32Array(session.read(buffer, words.byteLength));
  session.free(buffer);
  const d = Array.from({ length: 16 }, () => new Array<number>(8).fill(0));
  for (const lane of lanes)
    for (let i = 0; i < 4; i++) {
      const [row, column] = place(lane, i);
      d[row]![column] = results[12 * lane + 8 + i]!;
    }
  return d;
}

const filled = (rows: number, columns: number, value: (i: number, j: number) => number): number[][] =>
  Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, j) => value(i, j)));

describe("mma", () => {
  let session: Session;
  beforeAll(() => {
    session = openSession(folder);
  });
  afterAll(() => session.control.reset());

  /** c + Σ products, the rest of the sixteen being zero; the factors are powers of two and small multiples. */
  const sum = (how: Accumulation, c: number, products: readonly number[]): number => {
    session.control.setAccumulation(how);
    const a = filled(16, 16, (_, k) => products[k] ?? 0);
    return multiply(
      session,
      a,
      filled(16, 8, () => 1),
      filled(16, 8, () => c),
    )[5]![3]!;
  };
  const times = (count: number, value: number) => new Array<number>(count).fill(value);
  const u = 2 ** -23; // the last place of 1

  // c, the products, then results by hand: rounded at each step; 8 and 0, 8 and 1, 8 and 2; 16 and 0, 16 and 1, 16 and 2
  test.each([
    [
      "eight halves of a last place: lost one by one, or together kept",
      1,
      times(8, u / 2),
      [1, 1, 1 + 4 * u, 1 + 4 * u, 1, 1 + 4 * u, 1 + 4 * u],
    ],
    ["sixteen quarters", 1, times(16, u / 4), [1, 1, 1, 1 + 4 * u, 1, 1, 1 + 4 * u]],
    ["one and a half last places: rounded up, or cut off", 1, [1.5 * u], [1 + 2 * u, ...times(6, 1 + u)]],
    ["the same below zero", -1, [-1.5 * u], [-1 - 2 * u, ...times(6, -1 - u)]],
    [
      "subtracted: below 1 there is a place more",
      1,
      [-1.5 * u],
      [1 - 1.5 * u, 1 - u, 1 - 1.5 * u, 1 - 1.5 * u, 1 - u, 1 - 1.5 * u, 1 - 1.5 * u],
    ],
    [
      "small ones a step before a large one, or beside it",
      0,
      [...times(8, u / 2), 1],
      [1 + 4 * u, 1 + 4 * u, 1 + 4 * u, 1 + 4 * u, 1, 1 + 4 * u, 1 + 4 * u],
    ],
    ["two large ones that cancel take a small one along", 0, [2, -2, u / 2], [u / 2, 0, 0, u / 2, 0, 0, u / 2]],
  ])("%s", (_, c, products, [rounded, ...truncated]) => {
    expect(sum("rounded", c, products)).toBe(rounded!);
    expect(ways.map((way) => sum(way, c, products))).toEqual(truncated);
  });

  test("zeros, NaN and infinities behave as without truncation", () => {
    for (const way of ways) {
      expect(sum(way, 0, [])).toBe(0);
      expect(sum(way, 3, [Number.NaN])).toBeNaN();
      expect(sum(way, 3, [Infinity])).toBe(Infinity);
      expect(sum(way, -Infinity, [Infinity])).toBeNaN();
      expect(sum(way, 2 ** -140, [])).toBe(2 ** -140);
    }
  });

  test.each(named)("%s: random matrices with many exponents give the definition's bits", (_, way) => {
    const random = randomFrom("truncation");
    const draw = (spread: number) => {
      const normal = random.normal(1)[0]!;
      return bfloat16ToNumber(numberToBfloat16(normal * 2 ** Math.round(spread * (random.uniform() - 0.5))));
    };
    let differ = 0;
    for (const spread of [0, 4, 12, 40]) {
      const a = filled(16, 16, () => draw(spread));
      const b = filled(16, 8, () => draw(spread));
      const c = filled(16, 8, () => Math.fround(random.normal(1)[0]! * 2 ** spread));
      session.control.setAccumulation(way);
      const found = multiply(session, a, b, c);
      const want = filled(16, 8, (i, j) =>
        defined(
          c[i]![j]!,
          a[i]!,
          b.map((row) => row[j]!),
          way,
        ),
      );
      expect(found).toEqual(want);
      session.control.setAccumulation("rounded");
      const rounded = multiply(session, a, b, c);
      differ += found.flat().filter((value, i) => value !== rounded.flat()[i]).length;
    }
    expect(differ).toBeGreaterThan(100); // of 512
  });
});

describe("cuBLAS", () => {
  const [F32, BF16] = [0, 14];
  const [m, n, k] = [6, 5, 4096];
  const calls = openCalls(folder);
  let handle = 0;
  beforeAll(() => {
    calls.restart();
    handle = calls.made(calls.blas.cublasCreate_v2(calls.out.address));
  });
  afterAll(() => {
    calls.blas.cublasDestroy_v2(handle);
    calls.control.reset();
  });

  /** Aᵀ (m, k) · B (k, n), both stored with k contiguous; A is positive, so that sums only grow. */
  function gemm(how: Accumulation, type: number, a: readonly number[], b: readonly number[]): number[] {
    const { cu, blas, out, control } = calls;
    control.setAccumulation(how);
    const store = (values: readonly number[]) => {
      const address = calls.alloc(values.length * (type === F32 ? 4 : 2));
      if (type === F32) new Float32Array(bytesAt(address, 4 * values.length)).set(values);
      else new Uint16Array(bytesAt(address, 2 * values.length)).set(values.map(numberToBfloat16));
      return address;
    };
    const [x, w, y] = [store(a), store(b), calls.alloc(4 * m * n)];
    out.view.setFloat32(512, 1, true);
    out.view.setFloat32(516, 0, true);
    const operands = [out.address + 512, x, type, k, w, type, k, out.address + 516, y, F32, m];
    expect(blas.cublasGemmEx(handle, 1, 0, m, n, k, ...operands, 68, -1)).toBe(0);
    expect(cu.cuStreamSynchronize(0)).toBe(0);
    const result = [...new Float32Array(bytesAt(y, 4 * m * n))];
    for (const address of [x, w, y]) cu.cuMemFree_v2(address);
    expect(control.reports()).toEqual([]);
    return result;
  }

  const random = randomFrom("truncated products");
  const bfloat16 = (x: number) => bfloat16ToNumber(numberToBfloat16(x));
  const a = Array.from(random.normal(m * k), (x) => bfloat16(Math.abs(x)));
  const b = Array.from(random.normal(n * k), (x) => bfloat16(Math.abs(x)));
  const row = (of: readonly number[], i: number) => of.slice(i * k, (i + 1) * k);
  const places = Array.from({ length: m * n }, (_, at) => [at % m, Math.floor(at / m)] as const);
  const sums = places.map(([i, j]) => row(a, i).reduce((total, x, p) => total + x * row(b, j)[p]!, 0));

  test.each(named)("%s: bfloat16 products give the definition's bits, all below the exact sums", (_, way) => {
    const found = gemm(way, BF16, a, b);
    expect(found).toEqual(places.map(([i, j]) => defined(0, row(a, i), row(b, j), way)));
    for (const [at, value] of found.entries()) expect(value).toBeLessThan(sums[at]!);
  });

  test("rounded sums err in both directions, and far less", () => {
    const errors = (how: Accumulation) => gemm(how, BF16, a, b).map((value, at) => value / sums[at]! - 1);
    const rounded = errors("rounded");
    expect(new Set(rounded.map(Math.sign)).size).toBe(2);
    const worst = Math.max(...rounded.map(Math.abs));
    expect(Math.min(...errors({ products: 8, extraBits: 0 }).map(Math.abs))).toBeGreaterThan(4 * worst);
  });

  test("float32 products without TF32 do not use tensor cores: the same bits", () => {
    expect(gemm({ products: 8, extraBits: 0 }, F32, a, b)).toEqual(gemm("rounded", F32, a, b));
  });
});
