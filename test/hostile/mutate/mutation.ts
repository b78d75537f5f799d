/** A mutation: a way to turn a valid file into one that may be damaged, in itself and in its place in a folder. */
import type { Random } from "../random.ts";

/** Something other than a regular file in a file's place. */
export type Place = "absent" | "folder" | "pipe" | { readonly link: string };
export type Content = Uint8Array | Place;

export interface Mutation {
  readonly name: string;
  /** The program must give the same result as for the valid file. */
  readonly neutral?: boolean;
  /** The changed file; null if the mutation does not apply to it. */
  apply(bytes: Uint8Array, random: Random): Content | null;
}

export const utf8 = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
export const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

/** A mutation of a file's text. */
export function ofText(name: string, edit: (text: string, random: Random) => string | null, neutral = false): Mutation {
  return {
    name,
    neutral,
    apply(bytes, random) {
      const text = edit(utf8(bytes), random);
      return text === null ? null : bytesOf(text);
    },
  };
}

/** `linkTarget` is replaced by a file with the valid bytes. */
export const linkTarget = "\0sound";

/** Not a regular file, or no file. */
export const places: readonly Mutation[] = [
  ["absent", "absent"],
  ["a folder", "folder"],
  ["a pipe nobody writes to", "pipe"],
  ["a link to nothing", { link: "no-such-file" }],
  ["a link to itself", { link: "." }],
  ["a link to /dev/zero", { link: "/dev/zero" }],
  ["a link to /dev/null", { link: "/dev/null" }],
  ["a link to the file", { link: linkTarget }],
].map(([name, place]) => ({
  name: `is ${name as string}`,
  neutral: name === "a link to the file",
  apply: () => place as Place,
}));
