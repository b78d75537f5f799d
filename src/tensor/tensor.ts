/**
 * A tensor is an address, a type and a shape: a view of memory that a device owns. It owns no memory itself and is
 * never freed; only the arena is.
 */
import { bytesPerElement, type DType } from "./dtype.ts";

export interface Tensor {
  readonly name: string;
  /** Device address of element 0. */
  readonly address: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Elements between the starts of two rows (the first dimension); the product of the other dimensions when packed. */
  readonly rowStride: number;
}

/** Number of elements of a shape; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

export function tensor(name: string, address: number, dtype: DType, shape: readonly number[]): Tensor {
  return { name, address, dtype, shape, rowStride: elementCount(shape.slice(1)) };
}

/** Elements in one row, as laid out when packed. */
export function rowElements(t: Tensor): number {
  return elementCount(t.shape.slice(1));
}

/** Rows `from` … `from + count − 1` of the first dimension. */
export function rows(t: Tensor, from: number, count: number): Tensor {
  const all = t.shape[0] ?? 0;
  if (from < 0 || count < 0 || from + count > all)
    throw new RangeError(`${t.name}: rows ${from}..${from + count} of ${all}`);
  return {
    ...t,
    address: t.address + from * t.rowStride * bytesPerElement(t.dtype),
    shape: [count, ...t.shape.slice(1)],
  };
}

/** The first `count` rows. */
export function firstRows(t: Tensor, count: number): Tensor {
  return rows(t, 0, count);
}

/** Columns `from` … `from + count − 1` of a matrix; the row stride stays the same. */
export function columns(t: Tensor, from: number, count: number): Tensor {
  const all = t.shape[1] ?? 0;
  if (t.shape.length !== 2 || from < 0 || from + count > all)
    throw new RangeError(`${t.name}: columns ${from}..${from + count} of ${t.shape.join("×")}`);
  return { ...t, address: t.address + from * bytesPerElement(t.dtype), shape: [t.shape[0] ?? 0, count] };
}

/** The same memory with another shape, which may be smaller; packed tensors only. */
export function reshape(t: Tensor, shape: readonly number[]): Tensor {
  if (t.rowStride !== rowElements(t)) throw new RangeError(`${t.name}: a view with gaps cannot be reshaped`);
  if (elementCount(shape) > elementCount(t.shape))
    throw new RangeError(`${t.name}: ${t.shape.join("×")} cannot hold ${shape.join("×")}`);
  return tensor(t.name, t.address, t.dtype, shape);
}

/** Bytes of all elements when packed. */
export function byteLength(t: Tensor): number {
  return elementCount(t.shape) * bytesPerElement(t.dtype);
}
