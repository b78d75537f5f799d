/**
 * The two kinds of failure a user meets, and how the program ends on each.
 * Anything else that is thrown is a bug of ours and shows its stack trace.
 */

/**
 * Bad usage or bad input: exit status 2.
 *
 * The message is one line that says what is wrong, where (file, field, value), and the cure.
 */
export class InputError extends Error {
  override readonly name = "InputError";
  readonly exitCode = 2;
}

/** The work itself failed (a full disk, a NaN, a library that is missing): exit status 1, one line with the cure. */
export class RunError extends Error {
  override readonly name = "RunError";
  readonly exitCode = 1;
}

/** One line out of whatever was thrown, for messages that wrap another failure. */
export function errorText(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s*\n\s*/g, " ").trim();
}
