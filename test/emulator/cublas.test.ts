// The reference cuBLAS compared with float64 products; what it rejects; and that its work is queued like any other. See
// README.md.
import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { buildEmulator } from "./build.ts";
import { CUDA, openCalls } from "./calls.ts";

setDefaultTimeout(180_000);

const { folder } = await buildEmulator();
const calls = openCalls(folder);
const { control, cu, blas, lt, out, made } = calls;

const [F32, F16, BF16] = [0, 2, 14];
const [COMPUTE_32F, COMPUTE_TF32] = [68, 77];
const STATUS = { NOT_INITIALIZED: 1, INVALID_VALUE: 7, NOT_SUPPORTED: 15 };
const size = (type: number) => (type === F32 ? 4 : 2);

let handle = 0;
/** Handles that devices of other test files lost with their context are still counted. */
const earlier = control.live();
beforeEach(() => {
  calls.restart();
  handle = made(blas.cublasCreate_v2(out.address));
});
afterEach(() => void blas.cublasDestroy_v2(handle));

/** A number, depending on the position, that is exact in bfloat16, TF32 and float16. */
const exact = (i: number) => (((i * 7919) % 31) - 15) / 8;

/** The 16 bits of an exact value. */
function bits16(value: number, type: number): number {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0]!;
  if (type === BF16) return bits >>> 16;
  if (value === 0) return 0;
  return ((bits >>> 16) & 0x8000) | ((((bits >>> 23) & 255) - 112) << 10) | ((bits >>> 13) & 1023);
}

function float(bits: number, type: number): number {
  if (type === BF16) return new Float32Array(new Uint32Array([bits << 16]).buffer)[0]!;
  const [exponent, mantissa] = [(bits >> 10) & 31, bits & 1023];
  const magnitude = exponent ? (1024 + mantissa) * 2 ** (exponent - 25) : mantissa * 2 ** -24;
  return bits & 0x8000 ? -magnitude : magnitude;
}

interface Operand {
  readonly address: number;
  at(row: number, column: number): number;
}

/** A column-major matrix on the device with NaN in its gaps. */
function operand(rows: number, columns: number, leading: number, type: number, seed: number): Operand {
  const address = calls.alloc((leading * (columns - 1) + rows) * size(type));
  const view = new DataView(bytesAt(address, (leading * (columns - 1) + rows) * size(type)));
  for (let j = 0; j < columns; j++) {
    for (let i = 0; i < rows; i++) {
      const value = exact(seed + i + j * rows);
      if (type === F32) view.setFloat32(4 * (i + j * leading), value, true);
      else view.setUint16(2 * (i + j * leading), bits16(value, type), true);
    }
  }
  return {
    address,
    at: (i, j) =>
      type === F32
        ? view.getFloat32(4 * (i + j * leading), true)
        : float(view.getUint16(2 * (i + j * leading), true), type),
  };
}

/** Addresses of alpha and beta. */
function scalars(alpha: number, beta: number): [number, number] {
  out.view.setFloat32(512, alpha, true);
  out.view.setFloat32(516, beta, true);
  return [out.address + 512, out.address + 516];
}

interface Case {
  m: number;
  n: number;
  k: number;
  ta: number;
  tb: number;
  types: [ab: number, c: number];
  alpha?: number;
  beta?: number;
  gap?: number;
}

const cases: Case[] = [
  { m: 3, n: 5, k: 7, ta: 0, tb: 0, types: [F32, F32] },
  { m: 33, n: 17, k: 70, ta: 1, tb: 0, types: [F32, F32], gap: 3 },
  { m: 16, n: 6, k: 300, ta: 0, tb: 1, types: [BF16, F32], beta: 1 },
  { m: 50, n: 40, k: 65, ta: 1, tb: 1, types: [BF16, BF16], alpha: 0.5, beta: -1, gap: 5 },
  { m: 1, n: 1, k: 1, ta: 0, tb: 0, types: [F16, F16] },
  { m: 40, n: 3, k: 0, ta: 0, tb: 0, types: [F32, F32], beta: 2 },
  { m: 20, n: 800, k: 130, ta: 1, tb: 0, types: [F16, F32] },
  { m: 300, n: 200, k: 100, ta: 1, tb: 0, types: [BF16, F32], alpha: 2, beta: 0.25 },
];

test.each(cases)(
  "m=$m n=$n k=$k ta=$ta tb=$tb types=$types",
  ({ m, n, k, ta, tb, types, alpha = 1, beta = 0, gap = 0 }) => {
    const [ab, ct] = types;
    const [ar, ac] = ta ? [k, m] : [m, k];
    const [br, bc] = tb ? [n, k] : [k, n];
    const [lda, ldb, ldc] = [Math.max(1, ar) + gap, Math.max(1, br) + gap, m + gap];
    const a = operand(Math.max(1, ar), Math.max(1, ac), lda, ab, 1);
    const b = operand(Math.max(1, br), Math.max(1, bc), ldb, ab, 1000);
    const c = operand(m, n, ldc, ct, 5);
    const expected: number[] = [];
    for (let j = 0; j < n; j++) {
      for (let i = 0; i < m; i++) {
        let sum = 0;
        for (let p = 0; p < k; p++) sum += (ta ? a.at(p, i) : a.at(i, p)) * (tb ? b.at(j, p) : b.at(p, j));
        expected.push(alpha * sum + (beta ? beta * c.at(i, j) : 0));
      }
    }
    const [alphaAt, betaAt] = scalars(alpha, beta);
    const gemm = [handle, ta, tb, m, n, k, alphaAt, a.address, ab, lda, b.address, ab, ldb, betaAt, c.address, ct, ldc];
    expect(blas.cublasGemmEx(...gemm, COMPUTE_32F, -1)).toBe(0);
    expect(cu.cuStreamSynchronize(0)).toBe(0);
    const unit = ct === F32 ? 2 ** -20 : ct === BF16 ? 2 ** -8 : 2 ** -11;
    let worst = 0;
    for (let j = 0; j < n; j++) {
      for (let i = 0; i < m; i++) {
        const [is, should] = [c.at(i, j), expected[i + j * m]!];
        worst = Math.max(worst, Number.isNaN(is) ? Infinity : Math.abs(is - should) / Math.max(1, Math.abs(should)));
      }
    }
    expect(worst).toBeLessThan(unit);
    expect(control.reports()).toEqual([]);
  },
);

test("TF32 rounds float32 operands to 10 bits, plain float32 does not", () => {
  const c = calls.alloc(4);
  const [a, b] = [operand(1, 1, 1, F32, 0), operand(1, 1, 1, F32, 0)];
  new DataView(bytesAt(a.address, 4)).setFloat32(0, 1 + 2 ** -12, true);
  new DataView(bytesAt(b.address, 4)).setFloat32(0, 1, true);
  const [alphaAt, betaAt] = scalars(1, 0);
  const results = [COMPUTE_32F, COMPUTE_TF32].map((compute) => {
    const ab = [a.address, F32, 1, b.address, F32, 1];
    expect(blas.cublasGemmEx(handle, 0, 0, 1, 1, 1, alphaAt, ...ab, betaAt, c, F32, 1, compute, -1)).toBe(0);
    return new DataView(bytesAt(c, 4)).getFloat32(0, true);
  });
  expect(results).toEqual([1 + 2 ** -12, 1]);
});

describe("refused", () => {
  const [m, n, k] = [4, 5, 6];
  const call = (change: Record<number, number>, compute = COMPUTE_32F) => {
    const a = calls.alloc(4 * m * k);
    const b = calls.alloc(4 * k * n);
    const c = calls.alloc(4 * m * n);
    const [alphaAt, betaAt] = scalars(1, 0);
    const gemm = [handle, 0, 0, m, n, k, alphaAt, a, F32, m, b, F32, k, betaAt, c, F32, m, compute, -1];
    for (const [at, value] of Object.entries(change)) gemm[Number(at)]! += value;
    return blas.cublasGemmEx(...gemm);
  };
  test.each([
    ["an invalid handle", { 0: 8 }, STATUS.NOT_INITIALIZED],
    ["a negative size", { 3: -8 }, STATUS.INVALID_VALUE],
    ["lda below m", { 9: -1 }, STATUS.INVALID_VALUE],
    ["ldb below k", { 12: -1 }, STATUS.INVALID_VALUE],
    ["ldc below m", { 16: -1 }, STATUS.INVALID_VALUE],
    ["an address between elements", { 7: 2 }, STATUS.INVALID_VALUE],
    ["A of float32 with B of bfloat16", { 11: BF16 }, STATUS.NOT_SUPPORTED],
    ["A and B of float32 with C of bfloat16", { 15: BF16 }, STATUS.NOT_SUPPORTED],
    ["an unknown transposition", { 1: 3 }, STATUS.INVALID_VALUE],
    ["an unknown algorithm", { 18: 60 }, STATUS.INVALID_VALUE],
  ])("%s", (_, change, status) => {
    expect(call(change as Record<number, number>)).toBe(status);
  });

  test("TF32 for bfloat16", () => {
    expect(call({ 8: BF16, 11: BF16 }, COMPUTE_TF32)).toBe(STATUS.NOT_SUPPORTED);
  });

  test.each([
    ["A", { 7: 4 }],
    ["C", { 16: 1 }],
  ])("an extent of %s past its allocation ends the context", (operand, change) => {
    expect(call(change as Record<number, number>)).toBe(0);
    expect(cu.cuStreamSynchronize(0)).toBe(CUDA.ILLEGAL_ADDRESS);
    expect(control.reports()[0]?.text).toContain(`: ${operand === "C" ? "D" : operand},`);
  });
});

test("work is queued on the handle's stream and captured with it", () => {
  control.setStreams("lazy");
  const stream = calls.stream();
  const workspace = calls.alloc(1024);
  blas.cublasSetStream_v2(handle, stream);
  expect(blas.cublasSetWorkspace_v2(handle, workspace + 8, 512)).toBe(STATUS.INVALID_VALUE);
  expect(blas.cublasSetWorkspace_v2(handle, workspace, 1024)).toBe(0);
  const [a, b, c] = [operand(2, 2, 2, F32, 3), operand(2, 2, 2, F32, 9), operand(2, 2, 2, F32, 1)];
  const [alphaAt, betaAt] = scalars(1, 0);
  const product = () => {
    const ab = [a.address, F32, 2, b.address, F32, 2];
    return blas.cublasGemmEx(handle, 0, 0, 2, 2, 2, alphaAt, ...ab, betaAt, c.address, F32, 2, COMPUTE_32F, -1);
  };
  const before = c.at(1, 1);
  const after = a.at(1, 0) * b.at(0, 1) + a.at(1, 1) * b.at(1, 1);
  product();
  expect(c.at(1, 1)).toBe(before);
  cu.cuStreamSynchronize(stream);
  expect(c.at(1, 1)).toBe(after);
  cu.cuMemsetD32Async(c.address, 0, 4, stream);
  cu.cuStreamBeginCapture_v2(stream, 0);
  expect(product()).toBe(0);
  const graph = made(cu.cuStreamEndCapture(stream, out.address));
  const executable = made(cu.cuGraphInstantiateWithFlags(out.address, graph, 0));
  cu.cuGraphLaunch(executable, stream);
  cu.cuStreamSynchronize(stream);
  expect([c.at(1, 1), control.reports()]).toEqual([after, []]);
  // Setting the stream resets the workspace.
  blas.cublasSetStream_v2(handle, stream);
  cu.cuStreamBeginCapture_v2(stream, 0);
  product();
  cu.cuStreamEndCapture(stream, out.address);
  expect(control.reports().map(({ kind }) => kind)).toEqual(["no-workspace"]);
});

test("handles are counted", () => {
  const others = earlier.cublas ?? 0;
  expect(control.live().cublas).toBe(others + 1);
  expect(blas.cublasDestroy_v2(handle)).toBe(0);
  expect(blas.cublasDestroy_v2(handle)).toBe(STATUS.NOT_INITIALIZED);
  expect(control.live().cublas).toBe(others);
});

describe("cublasLt", () => {
  const [TRANSA, EPILOGUE, BIAS_POINTER] = [3, 7, 8];
  const [m, n, k] = [20, 7, 33];

  /** D (bfloat16) = Aᵀ B + bias. */
  function product(biasEpilogue: boolean) {
    const set = (descriptor: number, attribute: number, write: (view: DataView) => void, bytes: number) => {
      write(new DataView(out.view.buffer, 256, 8));
      return lt.cublasLtMatmulDescSetAttribute(descriptor, attribute, out.address + 256, bytes);
    };
    const light = made(lt.cublasLtCreate(out.address));
    const descriptor = made(lt.cublasLtMatmulDescCreate(out.address, COMPUTE_32F, F32));
    const bias = operand(m, 1, m, BF16, 77);
    set(descriptor, TRANSA, (view) => view.setInt32(0, 1, true), 4);
    if (biasEpilogue) {
      set(descriptor, EPILOGUE, (view) => view.setUint32(0, 4, true), 4);
      set(descriptor, BIAS_POINTER, (view) => view.setBigUint64(0, BigInt(bias.address), true), 8);
    }
    const layout = (rows: number, columns: number) =>
      made(lt.cublasLtMatrixLayoutCreate(out.address, BF16, rows, columns, rows));
    const layouts = [layout(k, m), layout(k, n), layout(m, n)] as const;
    const preference = made(lt.cublasLtMatmulPreferenceCreate(out.address));
    const [la, lb, lc] = layouts;
    const results = out.address + 1024;
    expect(
      lt.cublasLtMatmulAlgoGetHeuristic(light, descriptor, la, lb, lc, lc, preference, 1, results, out.address),
    ).toBe(0);
    expect(out.i32()).toBe(1);
    const [a, b, d] = [operand(k, m, k, BF16, 4), operand(k, n, k, BF16, 50), operand(m, n, m, BF16, 8)];
    const [alphaAt, betaAt] = scalars(1, 0);
    const ab = [a.address, la, b.address, lb];
    const cd = [d.address, lc, d.address, lc];
    expect(lt.cublasLtMatmul(light, descriptor, alphaAt, ...ab, betaAt, ...cd, results, 0, 0, 0)).toBe(0);
    cu.cuStreamSynchronize(0);
    let worst = 0;
    for (let j = 0; j < n; j++) {
      for (let i = 0; i < m; i++) {
        let sum = biasEpilogue ? bias.at(i, 0) : 0;
        for (let p = 0; p < k; p++) sum += a.at(p, i) * b.at(p, j);
        worst = Math.max(worst, Math.abs(d.at(i, j) - sum) / Math.max(1, Math.abs(sum)));
      }
    }
    for (const each of layouts) lt.cublasLtMatrixLayoutDestroy(each);
    lt.cublasLtMatmulPreferenceDestroy(preference);
    lt.cublasLtMatmulDescDestroy(descriptor);
    lt.cublasLtDestroy(light);
    return worst;
  }

  test.each([false, true])("a product in bfloat16, with bias: %p", (bias) => {
    expect(product(bias)).toBeLessThan(2 ** -8);
    expect(control.live().cublasLt).toBe(earlier.cublasLt);
    expect(control.reports()).toEqual([]);
  });

  test("the heuristic finds nothing for other epilogues", () => {
    const light = made(lt.cublasLtCreate(out.address));
    const descriptor = made(lt.cublasLtMatmulDescCreate(out.address, COMPUTE_32F, F32));
    out.view.setUint32(256, 2, true); // ReLU
    lt.cublasLtMatmulDescSetAttribute(descriptor, EPILOGUE, out.address + 256, 4);
    const square = made(lt.cublasLtMatrixLayoutCreate(out.address, F32, 4, 4, 4));
    const preference = made(lt.cublasLtMatmulPreferenceCreate(out.address));
    const found = [light, descriptor, square, square, square, square, preference, 1, out.address + 1024, out.address];
    expect(lt.cublasLtMatmulAlgoGetHeuristic(...found)).toBe(STATUS.NOT_SUPPORTED);
    expect(out.i32()).toBe(0);
  });
});
