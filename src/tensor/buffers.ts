/**
 * Buffers declared in a table with the name, type and shape of each. The table is used to plan them, to find them after
 * allocation, and to view them in the shapes of another table.
 */
import { bytesPerElement, type DType } from "./dtype.ts";
import { aligned, type PlanBuilder, type PlannedBuffer, type Stage } from "./plan.ts";
import { elementCount, reshape, type Tensor } from "./tensor.ts";

/** `stages`: those of a pass in which the buffer is live, if not all. */
export type BufferTable<Field extends string> = Readonly<
  Record<Field, readonly [name: string, dtype: DType, shape: readonly number[], stages?: readonly Stage[]]>
>;

/** The tensors of a table, or of a function that returns one, by field. */
export type BuffersOf<T> = { readonly [K in keyof (T extends (...args: never) => infer R ? R : T)]: Tensor };

/** Finds planned buffers after allocation. */
export type Bind<T> = (tensors: ReadonlyMap<string, Tensor>) => T;

/** How a table's buffers are planned. */
export interface BufferPlace {
  /** The line of the printed plan that they are added to. */
  readonly group: string;
  /** Prefix of their names. */
  readonly prefix: string;
  readonly lifetime?: PlannedBuffer["lifetime"];
  /** Nothing else runs during the passes that use them, so those of different stages share memory. */
  readonly staged?: boolean;
}

/** Adds a table's buffers to the plan, in order. Fields with the same name share a buffer. */
export function planBuffers<Field extends string>(
  plan: PlanBuilder,
  { group, prefix, lifetime, staged = false }: BufferPlace,
  table: BufferTable<Field>,
): Bind<Readonly<Record<Field, Tensor>>> {
  const planned = new Map<string, string>();
  for (const field in table) {
    const [name, dtype, shape, stages] = table[field];
    const within = staged ? stages : undefined;
    if (!planned.has(name))
      planned.set(name, plan.add(group, `${prefix}/${name}`, dtype, shape, lifetime, within).name);
  }
  return (tensors) => {
    const found = {} as Record<Field, Tensor>;
    for (const field in table) {
      const name = planned.get(table[field][0])!;
      const buffer = tensors.get(name);
      if (!buffer) throw new Error(`${name} is not in the memory plan`);
      found[field] = buffer;
    }
    return found;
  };
}

/** Bytes that a table's buffers take in the plan. */
export function tableBytes<Field extends string>(table: BufferTable<Field>): number {
  const buffers = new Map(Object.values<BufferTable<Field>[Field]>(table).map((buffer) => [buffer[0], buffer]));
  let bytes = 0;
  for (const [, dtype, shape] of buffers.values()) bytes += aligned(elementCount(shape) * bytesPerElement(dtype));
  return bytes;
}

/** The same memory in the shapes of another table, which may be smaller. */
export function reshapeTo<Field extends string>(
  buffers: Readonly<Record<NoInfer<Field>, Tensor>>,
  table: BufferTable<Field>,
): Readonly<Record<Field, Tensor>> {
  const shaped = {} as Record<Field, Tensor>;
  for (const field in table) shaped[field] = reshape(buffers[field], table[field][2]);
  return shaped;
}
