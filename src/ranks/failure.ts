/** How a run of several ranks fails: one rank is the cause, one line names it, and every rank ends. */
import { errorText, InputError, RunError } from "../errors.ts";

/** A failure as ranks tell each other. */
export interface Cause {
  /** The rank that failed or is gone. */
  readonly rank: number;
  /** Where it runs. */
  readonly host: string;
  readonly text: string;
  readonly exitCode: number;
  /** The rank has told its user. */
  readonly told: boolean;
}

/** Thrown by a rank when another has failed. */
export class RanksFailure extends RunError {
  /** That of the rank that failed. */
  override readonly exitCode: number;
  override readonly isTold: boolean;

  /** @param isTold another rank says it: this one ends without a word */
  constructor({ rank, host, text, exitCode }: Cause, isTold: boolean) {
    // What ranks find in what all have gathered names a rank by itself.
    super(/^rank \d+ /.test(text) ? text : `rank ${rank} (${host}): ${text}`);
    this.exitCode = exitCode;
    this.isTold = isTold;
  }
}

export const causeOf = (rank: number, host: string, error: unknown): Omit<Cause, "told"> => ({
  ...{ rank, host, text: error instanceof InputError ? error.lines.join("; ") : errorText(error) },
  exitCode: error instanceof InputError ? error.exitCode : 1,
});
