/** Character classes of Rust's regular expressions. */

/** `\w`. */
export const wordCharacter = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";

const space = /\p{White_Space}/u;

/** `char::is_whitespace` and `\s`: unlike in JavaScript, U+0085 is white space and U+FEFF is not. */
export function isSpaceAt(text: string, index: number): boolean {
  return space.test(text[index] ?? "");
}
