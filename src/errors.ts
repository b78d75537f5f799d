/**
 * The two kinds of failure a user meets, and how the program ends on each.
 * Anything else that is thrown is a bug of ours and shows its stack trace.
 */

/**
 * Bad usage or bad input: exit status 2.
 *
 * The message is one line that says what is wrong, where (file, field, value), and the cure; several such lines where
 * several things are wrong with the settings.
 */
export class InputError extends Error {
  override readonly name = "InputError";
  readonly exitCode = 2;

  /** One line for each thing that is wrong. */
  get lines(): readonly string[] {
    return [errorText(this)];
  }
}

/** Several things that are wrong, told at once. */
export class InputErrors extends InputError {
  private readonly errors: readonly InputError[];

  constructor(errors: readonly InputError[]) {
    super(errors.flatMap((error) => error.lines).join("\n"));
    this.errors = errors;
  }

  override get lines(): readonly string[] {
    return this.errors.flatMap((error) => error.lines);
  }
}

/** The work itself failed (a full disk, a NaN, a library that is missing): exit status 1, one line with the cure. */
export class RunError extends Error {
  override readonly name = "RunError";
  readonly exitCode = 1;
}

/** Longer ones are cut in their middle: a damaged file's own words may stand in a message. */
const MAX_TEXT = 4000;

/**
 * One line out of whatever was thrown, for messages that wrap another failure. Nothing in it is obeyed by a terminal: what
 * a file holds may stand in it.
 */
export function errorText(error: unknown): string {
  const text = (error instanceof Error ? error.message : String(error)).replace(/\s*[\n\r]\s*/g, " ").trim();
  const plain = text.replace(/\p{Cc}/gu, (c) => (c === "\t" ? " " : "\ufffd"));
  const half = MAX_TEXT / 2;
  return plain.length <= MAX_TEXT ? plain : `${plain.slice(0, half)} … ${plain.slice(-half)}`;
}
