/** What a suite is, and how it reports. */
import type { Device } from "../../src/device/device.ts";
import { type Figure, figureLine, type SuiteReport } from "../figures.ts";
import type { BenchFlags, Taking } from "../flags.ts";

export interface Suite extends Taking {
  readonly summary: string;
  /**
   * Checks results, then measures; `line` takes the lines of its table.
   *
   * @returns the report for --json
   * @throws InputError for flags that contradict each other, RunError for a wrong result
   */
  run(flags: BenchFlags, line: (text: string) => void): Promise<unknown>;
}

/** Prints the figures, and returns them as a report. */
export function reportOf<Details extends object>(
  suite: string,
  { description }: Pick<Device, "description">,
  checked: string | null,
  figures: readonly Figure[],
  line: (text: string) => void,
  details: Details = {} as Details,
): SuiteReport & { readonly device: string } & Details {
  line(`${suite}: ${description}`);
  if (checked !== null) line(`  checked: ${checked}`);
  for (const figure of figures) line(figureLine(figure));
  return { suite, device: description, checked, figures, ...details };
}
