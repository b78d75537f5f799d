/**
 * Tensor-core instructions against the manual's layouts ("Matrix Fragments for mma", figures of ldmatrix): matrices with
 * distinct elements are scattered into the lanes' registers by the manual's formulas and multiplied plainly, and the result is
 * gathered by its formulas again.
 */
import { add, decode, encode, formats, multiply, type Value } from "./exact.ts";
import { type Bits, byWarp, type Form } from "./form.ts";

const lanes = Array.from({ length: 32 }, (_, lane) => lane);

type Place = readonly [row: number, column: number];

interface Shape {
  readonly name: string;
  readonly k: number;
  readonly type: "bf16" | "f16" | "tf32";
  /** Elements of a lane in order, as [row, column] of A (16×k), B (k×8), C and D (16×8). */
  readonly a: (lane: number) => Place[];
  readonly b: (lane: number) => Place[];
}

const indices = (count: number) => Array.from({ length: count }, (_, i) => i);

/** The manual's formulas: g = lane / 4, t = lane % 4. */
const shapes: readonly Shape[] = [
  {
    name: "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    k: 16,
    type: "bf16",
    a: (lane) =>
      indices(8).map((i) => [
        (lane >> 2) + ((i >= 0 && i < 2) || (i >= 4 && i < 6) ? 0 : 8),
        (lane % 4) * 2 + (i & 1) + (i < 4 ? 0 : 8),
      ]),
    b: (lane) => indices(4).map((i) => [(lane % 4) * 2 + (i & 1) + (i < 2 ? 0 : 8), lane >> 2]),
  },
  {
    name: "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32",
    k: 8,
    type: "bf16",
    a: (lane) => indices(4).map((i) => [(lane >> 2) + (i < 2 ? 0 : 8), (lane % 4) * 2 + (i & 1)]),
    b: (lane) => indices(2).map((i) => [(lane % 4) * 2 + i, lane >> 2]),
  },
  {
    name: "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    k: 16,
    type: "f16",
    a: (lane) =>
      indices(8).map((i) => [
        (lane >> 2) + ((i >= 0 && i < 2) || (i >= 4 && i < 6) ? 0 : 8),
        (lane % 4) * 2 + (i & 1) + (i < 4 ? 0 : 8),
      ]),
    b: (lane) => indices(4).map((i) => [(lane % 4) * 2 + (i & 1) + (i < 2 ? 0 : 8), lane >> 2]),
  },
  {
    name: "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
    k: 8,
    type: "tf32",
    a: (lane) => indices(4).map((i) => [(lane >> 2) + (i % 2 === 0 ? 0 : 8), (lane % 4) + (i < 2 ? 0 : 4)]),
    b: (lane) => indices(2).map((i) => [(lane % 4) + (i === 0 ? 0 : 4), lane >> 2]),
  },
];

const accumulator = (lane: number): Place[] =>
  indices(4).map((i) => [(lane >> 2) + (i < 2 ? 0 : 8), (lane % 4) * 2 + (i & 1)]);

type Matrix = (row: number, column: number) => number;

function bitsOf(type: Shape["type"] | "f32", x: number): Bits {
  const wide = BigInt(new Uint32Array(new Float32Array([x]).buffer)[0]!);
  return type === "f32" || type === "tf32" ? wide : encode(formats[type], decode(formats.f32, wide));
}

/** Two 16-bit elements per register, the first in its lower half; one for tf32. */
function registers(type: Shape["type"], matrix: Matrix, places: readonly Place[]): Bits[] {
  const elements = places.map(([row, column]) => bitsOf(type, matrix(row, column)));
  if (type === "tf32") return elements;
  return indices(elements.length / 2).map((i) => elements[2 * i]! | (elements[2 * i + 1]! << 16n));
}

interface Product {
  readonly a: Matrix;
  readonly b: Matrix;
  readonly c: Matrix;
}

/** Integers small enough for every sum to be exact in any order; no two rows or columns are equal. */
const scattered: readonly Product[] = [
  {
    a: (i, k) => ((i * 7 + k * 3 + i * k) % 29) - 14,
    b: (k, j) => ((k * 5 + j * 11 + k * j) % 31) - 15,
    c: (i, j) => i * 100 + j,
  },
  { a: (i, k) => i * 16 + k, b: (k, j) => k * 8 + j, c: () => 0 },
  { a: (i, k) => (k === 3 ? i + 1 : 0), b: (k, j) => (k === 3 ? j - 3 : 0), c: (i, j) => -i - j / 2 },
];

/** One element of A at a time, so that row i of the result is row k of B. */
function single(k: number): Product[] {
  return indices(16 * k).map((element) => ({
    a: (i, kk) => (i * k + kk === element ? 1 : 0),
    b: (kk, j) => kk * 8 + j + 1,
    c: () => 0,
  }));
}

/** NaN and infinity spread along their row; subnormal numbers of the narrow type are kept. */
const special: readonly Product[] = [
  { a: (i, k) => (i === 2 && k === 1 ? Infinity : 1), b: (k, j) => (k === 1 && j === 3 ? 0 : 1), c: () => 0 },
  { a: (i) => (i === 9 ? Number.NaN : 2), b: () => 3, c: () => 0 },
  { a: (i) => (i === 1 ? 2 ** -130 : 0), b: () => 2 ** 10, c: () => 0 },
];

function products(shape: Shape): Form {
  const cases = [...scattered, ...single(shape.k), ...(shape.type === "bf16" ? special : [])];
  const counts = {
    a: shape.a(0).length / (shape.type === "tf32" ? 1 : 2),
    b: shape.b(0).length / (shape.type === "tf32" ? 1 : 2),
  };
  const names = ["a", "b", "c", "e", "f", "g", "h", "i", "j", "k"].map((name) => `{${name}}`);
  const [a, b, c] = [
    names.slice(0, counts.a),
    names.slice(counts.a, counts.a + counts.b),
    names.slice(counts.a + counts.b, counts.a + counts.b + 4),
  ];
  const d = ["{d0}", "{d1}", "{d2}", "{d3}"];
  const inputs = [...a.map(() => "b32"), ...b.map(() => "b32"), ...c.map(() => "f32")];
  const warps = cases.map((product) =>
    lanes.map((lane) => [
      ...registers(shape.type, product.a, shape.a(lane)),
      ...registers(shape.type, product.b, shape.b(lane)),
      ...accumulator(lane).map(([i, j]) => bitsOf("f32", product.c(i, j))),
    ]),
  );
  const element = (product: Product, i: number, j: number): Bits => {
    const wide = (x: number): Value => decode(formats.f32, bitsOf("f32", x));
    let sum = wide(product.c(i, j));
    for (let k = 0; k < shape.k; k++) sum = add(sum, multiply(wide(product.a(i, k)), wide(product.b(k, j))));
    return encode(formats.f32, sum);
  };
  return byWarp(
    `${shape.name} {${d}}, {${a}}, {${b}}, {${c}};`,
    `${inputs.join(" ")} -> f32 f32 f32 f32`,
    warps,
    (_, warp) => {
      const product = cases[warp]!;
      return lanes.map((lane) => accumulator(lane).map(([i, j]) => element(product, i, j)));
    },
  );
}

/**
 * Rows of 16 bytes in shared memory, one per lane; inputs are the row that the lane names and the two halves of its own row.
 * Lane 8m + r names row r of matrix m. From each matrix a lane gets row lane / 4, elements 2 (lane % 4) and the next; from a
 * transposed one, rows 2 (lane % 4) and the next of column lane / 4.
 */
function loads(count: 1 | 2 | 4, transposed: boolean, space: ".shared" | ""): Form {
  const element = (row: number, column: number) => BigInt(0x8000 + row * 0x101 + column * 0x13) & 0xffffn;
  const half = (row: number, from: number) =>
    indices(4).reduce((bits, i) => bits | (element(row, from + i) << BigInt(16 * i)), 0n);
  const orders: readonly ((lane: number) => number)[] = [
    (lane) => lane,
    (lane) => 31 - lane,
    (lane) => (lane * 5 + 7) % 32,
    () => 9,
  ];
  const outputs = indices(count);
  const address = space === "" ? "cvta.shared.u64 generic, wide;\n" : "";
  const code = `.shared .align 16 .b8 tile[512];
.reg .b32 lane, own, row, start;
.reg .b64 wide, generic;
mov.u32 lane, %laneid;
mov.u32 start, tile;
mad.lo.u32 own, lane, 16, start;
st.shared.v2.b64 [own], {{b}, {c}};
bar.warp.sync 0xffffffff;
mad.lo.u32 row, {a}, 16, start;
cvt.u64.u32 wide, row;
${address}ldmatrix.sync.aligned.m8n8.x${count}${transposed ? ".trans" : ""}${space}.b16 {${outputs.map((i) => `{d${i}}`)}}, [${space === "" ? "generic" : "row"}];`;
  return byWarp(
    code,
    `u32 b64 b64 -> ${outputs.map(() => "b32").join(" ")}`,
    orders.map((order) => lanes.map((lane) => [BigInt(order(lane)), half(lane, 0), half(lane, 4)])),
    (inputs) =>
      lanes.map((lane) =>
        outputs.map((matrix) => {
          const at = (row: number, column: number) => element(Number(inputs[matrix * 8 + row]![0]), column);
          const [outer, inner] = [lane >> 2, (lane % 4) * 2];
          return transposed
            ? at(inner, outer) | (at(inner + 1, outer) << 16n)
            : at(outer, inner) | (at(outer, inner + 1) << 16n);
        }),
      ),
  );
}

export const matrixForms: readonly Form[] = [
  ...shapes.map(products),
  ...([1, 2, 4] as const).flatMap((count) => [loads(count, false, ".shared"), loads(count, true, ".shared")]),
  loads(4, false, ""),
];
