/**
 * Buffers that are told once: a table with the name, type and shape of each. From it they are planned, found again in what was
 * allocated, and taken in the shapes of another table.
 */
import type { DType } from "./dtype.ts";
import type { PlanBuilder, PlannedBuffer } from "./plan.ts";
import { reshape, type Tensor } from "./tensor.ts";

export type BufferTable<Field extends string> = Readonly<
  Record<Field, readonly [name: string, dtype: DType, shape: readonly number[]]>
>;

/** The tensors of a table, or of the function that makes one, by its fields. */
export type BuffersOf<T> = { readonly [K in keyof (T extends (...args: never) => infer R ? R : T)]: Tensor };

/** Finds what was planned in what was allocated. */
export type Bind<T> = (tensors: ReadonlyMap<string, Tensor>) => T;

/** Where a table's buffers go. */
export interface BufferPlace {
  /** What the printed plan adds them up under. */
  readonly group: string;
  /** Begins their names. */
  readonly prefix: string;
  readonly lifetime?: PlannedBuffer["lifetime"];
}

/** Adds a table's buffers to the plan, in its order. Fields of one name are one buffer. */
export function planBuffers<Field extends string>(
  plan: PlanBuilder,
  { group, prefix, lifetime }: BufferPlace,
  table: BufferTable<Field>,
): Bind<Readonly<Record<Field, Tensor>>> {
  const planned = new Map<string, string>();
  for (const field in table) {
    const [name, dtype, shape] = table[field];
    if (!planned.has(name)) planned.set(name, plan.add(group, `${prefix}/${name}`, dtype, shape, lifetime).name);
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

/** The same memory in the shapes of another table, which may take less of it. */
export function reshapeTo<Field extends string>(
  buffers: Readonly<Record<NoInfer<Field>, Tensor>>,
  table: BufferTable<Field>,
): Readonly<Record<Field, Tensor>> {
  const shaped = {} as Record<Field, Tensor>;
  for (const field in table) shaped[field] = reshape(buffers[field], table[field][2]);
  return shaped;
}
