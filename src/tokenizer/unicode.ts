/** Classes of characters as Rust's regular expressions have them. */

/** `\w`. */
export const wordCharacter = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";

const space = /\p{White_Space}/u;

/** `char::is_whitespace` and `\s`: U+0085 is one, U+FEFF is none, where JavaScript says the opposite. */
export function isSpaceAt(text: string, index: number): boolean {
  return space.test(text[index] ?? "");
}
