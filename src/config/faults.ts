/** Collects what is wrong, so that everything is told at once and not one thing after the other. */
import { InputError, InputErrors } from "../errors.ts";

export class Faults {
  private readonly found: InputError[] = [];

  add(message: string): void {
    this.found.push(new InputError(message));
  }

  /** What `run` gives; undefined where it refuses, which is kept. Any other failure goes on. */
  attempt<T>(run: () => T): T | undefined {
    try {
      return run();
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      this.found.push(error);
      return undefined;
    }
  }

  /** Puts what begins with one of these places into their order; the rest comes after. */
  order(places: readonly string[]): void {
    const at = ({ message }: InputError): number => {
      const found = places.findIndex((place) => message.startsWith(`${place}:`) || message.startsWith(`${place} `));
      return found < 0 ? places.length : found;
    };
    this.found.sort((a, b) => at(a) - at(b));
  }

  /** @throws InputError with a line for each thing that is wrong */
  throwAny(): void {
    const [first, ...others] = this.found;
    if (first === undefined) return;
    if (others.length === 0) throw first;
    throw new InputErrors(this.found);
  }
}
