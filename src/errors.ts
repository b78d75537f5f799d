/**
 * The two kinds of failure that users see, with their exit statuses. Anything else that is thrown is a bug and shows
 * its stack trace.
 */

/**
 * Bad usage or bad input: exit status 2.
 *
 * The message is one line: what is wrong, where (file, field, value), and the cure. Several wrong settings give one
 * such line each.
 */
export class InputError extends Error {
  override readonly name = "InputError";
  readonly exitCode = 2;
  /** The setting that it is about, in camelCase; null if it is about something else, such as a file. The API sets it. */
  field: string | null = null;

  /** Each problem by itself. */
  get errors(): readonly InputError[] {
    return [this];
  }

  /** One line per problem. */
  get lines(): readonly string[] {
    return [errorText(this)];
  }
}

/** Several problems reported at once. */
export class InputErrors extends InputError {
  private readonly all: readonly InputError[];

  constructor(errors: readonly InputError[]) {
    super(errors.flatMap((error) => error.lines).join("\n"));
    this.all = errors;
  }

  override get errors(): readonly InputError[] {
    return this.all;
  }

  override get lines(): readonly string[] {
    return this.all.flatMap((error) => error.lines);
  }
}

/** The work itself failed (a full disk, a NaN, a missing library): exit status 1, one line with the cure. */
export class RunError extends Error {
  override readonly name = "RunError";
  readonly exitCode: number = 1;
  /** Another process of the run tells the user. */
  readonly isTold: boolean = false;
}

/** Longer texts are cut in the middle: a message may quote a damaged file. */
const MAX_TEXT = 4000;

/** Without tokens of the hub: a message may quote an argument or a file. */
export const withoutTokens = (text: string): string => text.replace(/\bhf_(?:oauth_)?[A-Za-z0-9]{20,}/g, "hf_…");

/**
 * Any thrown value as one line, for messages that wrap another failure. Control characters are replaced, since it may
 * quote a file.
 */
export function errorText(error: unknown): string {
  const text = (error instanceof Error ? error.message : String(error)).replace(/\s*[\n\r]\s*/g, " ").trim();
  const plain = withoutTokens(text).replace(/\p{Cc}/gu, (c) => (c === "\t" ? " " : "\ufffd"));
  const half = MAX_TEXT / 2;
  return plain.length <= MAX_TEXT ? plain : `${plain.slice(0, half)} … ${plain.slice(-half)}`;
}
