/**
 * One rule between the two spellings of a setting: `num_generations` in TOML, flags, logs and checkpoints,
 * `numGenerations` in TypeScript. The rule is the same for types and for values.
 */

/** `num_generations` → `numGenerations`, in the type system. */
export type Camel<S extends string> = S extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<Camel<Tail>>}` : S;

/** An object type with its keys in camelCase. */
export type CamelKeys<T> = { readonly [K in keyof T as K extends string ? Camel<K> : never]: T[K] };

/** `num_generations` → `numGenerations`. */
export function toCamel(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

/**
 * `numGenerations` → `num_generations`: the inverse of `toCamel` for names whose words begin with a letter, or are a number and
 * letters (`loadIn4bit`).
 */
export function toSnake(name: string): string {
  return name.replace(/[A-Z]|\d+(?=[a-z])/g, (begin) => `_${begin.toLowerCase()}`);
}
