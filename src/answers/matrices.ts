/**
 * Sums, multiples, products, powers and transposes of matrices, entry by entry, as expressions: nothing is simplified,
 * evaluate.ts computes the entries. Sizes are bounded, since entries grow with every product.
 */
import type { Expression } from "./tree.ts";

export type Rows = readonly (readonly Expression[])[];

/** Most rows or columns of a matrix in a product or a determinant. */
const MAX_SIDE = 4;
/** Most products of two matrices in one answer. */
const MAX_PRODUCTS = 4;

const sum = (items: readonly Expression[]): Expression => (items.length === 1 ? items[0]! : { kind: "sum", items });
const product = (items: readonly Expression[]): Expression => ({ kind: "product", items });
const negative = (of: Expression): Expression => ({ kind: "negative", of });

/** Whether it contains a matrix where arithmetic could reach it. */
const holdsMatrix = (x: Expression): boolean => {
  switch (x.kind) {
    case "matrix":
      return true;
    case "sum":
    case "product":
      return x.items.some(holdsMatrix);
    case "negative":
      return holdsMatrix(x.of);
    case "power":
      return holdsMatrix(x.base);
    default:
      return false;
  }
};

/** A sum, product or power of matrices as one matrix, unevaluated; null for anything else or sizes that do not match. */
export function matrixOf(x: Expression): Rows | null {
  if (x.kind === "matrix") return x.rows;
  return holdsMatrix(x) ? compute(x, { products: MAX_PRODUCTS }) : null;
}

function compute(x: Expression, left: { products: number }): Rows | null {
  switch (x.kind) {
    case "matrix":
      return x.rows;
    case "negative":
      return map(compute(x.of, left), negative);
    case "sum": {
      const terms = x.items.map((item) => compute(item, left));
      const first = terms[0];
      if (first === null || first === undefined || !terms.every((term) => term !== null && sameSize(term, first)))
        return null;
      return first.map((row, i) => row.map((_, j) => sum(terms.map((term) => term![i]![j]!))));
    }
    case "product": {
      const factors = x.items.filter((item) => !holdsMatrix(item));
      let result: Rows | null = null;
      for (const item of x.items.filter(holdsMatrix)) {
        const next = compute(item, left);
        if (next === null) return null;
        result = result === null ? next : times(result, next, left);
        if (result === null) return null;
      }
      return factors.length === 0 ? result : map(result, (entry) => product([...factors, entry]));
    }
    case "power": {
      const base = compute(x.base, left);
      if (base === null) return null;
      if (x.exponent.kind === "symbol" && /^(?:T|top|intercal)$/.test(x.exponent.name)) return transposed(base);
      const exponent = x.exponent.kind === "number" && x.exponent.value.d === 1n ? Number(x.exponent.value.n) : 0;
      if (exponent < 1 || exponent > MAX_PRODUCTS) return null;
      let result: Rows | null = base;
      for (let i = 1; i < exponent && result !== null; i++) result = times(result, base, left);
      return result;
    }
    default:
      return null;
  }
}

const map = (rows: Rows | null, change: (entry: Expression) => Expression): Rows | null =>
  rows?.map((row) => row.map(change)) ?? null;

const isRectangle = (rows: Rows): boolean => rows.every((row) => row.length === rows[0]!.length);

const sameSize = (a: Rows, b: Rows): boolean =>
  isRectangle(a) && isRectangle(b) && a.length === b.length && a[0]!.length === b[0]!.length;

const transposed = (rows: Rows): Rows | null =>
  isRectangle(rows) ? rows[0]!.map((_, j) => rows.map((row) => row[j]!)) : null;

function times(a: Rows, b: Rows, left: { products: number }): Rows | null {
  if (!isRectangle(a) || !isRectangle(b) || a[0]!.length !== b.length || left.products-- <= 0) return null;
  if (Math.max(a.length, b.length, b[0]!.length) > MAX_SIDE) return null;
  return a.map((row) => b[0]!.map((_, j) => sum(row.map((entry, k) => product([entry, b[k]![j]!])))));
}

/** The determinant, expanded along its first row, unevaluated; null if the matrix is not square or too large. */
export function determinant(rows: Rows): Expression | null {
  if (rows.length > MAX_SIDE || rows.some((row) => row.length !== rows.length)) return null;
  if (rows.length === 1) return rows[0]![0]!;
  const terms = rows[0]!.map((entry, j) => {
    const minor = determinant(rows.slice(1).map((row) => row.filter((_, k) => k !== j)))!;
    return j % 2 === 0 ? product([entry, minor]) : negative(product([entry, minor]));
  });
  return sum(terms);
}

/** The entries of a tuple, or of a matrix of one row or column. */
export function vectorOf(x: Expression): readonly Expression[] | null {
  if (x.kind === "tuple") return x.items;
  if (x.kind !== "matrix") return null;
  if (x.rows.length === 1) return x.rows[0]!;
  return x.rows.every((row) => row.length === 1) ? x.rows.map((row) => row[0]!) : null;
}
