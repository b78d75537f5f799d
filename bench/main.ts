/**
 * `grpo bench [SUITE …]`: the suites and how they are run. Results go to stdout, as tables or as JSON; progress goes to stderr.
 * Without a suite's name, those that together take about two minutes.
 */
import { describeShape } from "../src/config/help.ts";
import { InputError } from "../src/errors.ts";
import { compare } from "./compare.ts";
import { readCommandLine, settings } from "./flags.ts";
import { data } from "./suites/data.ts";
import { ffi } from "./suites/ffi.ts";
import { ops } from "./suites/ops.ts";
import { peaks } from "./suites/peaks.ts";
import { rollout } from "./suites/rollout.ts";
import { roofline } from "./suites/roofline.ts";
import { startup } from "./suites/startup.ts";
import { step } from "./suites/step.ts";
import type { Suite } from "./suites/suite.ts";
import { update } from "./suites/update.ts";
import { verify } from "./suites/verify.ts";

export const suites: Readonly<Record<string, Suite>> = {
  peaks,
  rollout,
  update,
  step,
  data,
  verify,
  startup,
  ffi,
  ops,
  roofline,
};

export const suiteNames = Object.keys(suites);

export const usage = `Usage: grpo bench [SUITE ...] [--key value ...]

Suites; by default those marked *, which take about two minutes:
${Object.entries(suites)
  .map(([name, { summary, usual }]) => `${usual ? "*" : " "} ${name.padEnd(8)}  ${summary}`)
  .join("\n")}

step and startup also take every setting of train (grpo train --help).

${describeShape(settings)}
Examples: grpo bench
          grpo bench rollout update --shape Qwen3-0.6B
          grpo bench step --model M --dataset D --num_generations 8 --max_completion_length 256
          grpo bench ops --filter matmul --dtype bfloat16 --compare HEAD~1`;

/**
 * One run of `grpo bench`.
 *
 * @throws InputError for an unknown suite, flag or path; RunError for a wrong result or kernels that cannot be built
 */
export async function main(argv: readonly string[]): Promise<void> {
  if (argv.includes("--help") || argv.includes("-h")) {
    process.stdout.write(`${usage}\n`);
    return;
  }
  const { names, flags } = readCommandLine(argv, suites);
  const print = (text: string): void => void process.stdout.write(`${text}\n`);
  const line = flags.json ? () => {} : print;
  if (flags.compare !== null) {
    const [name] = names;
    if (name === undefined || names.length > 1)
      throw new InputError("--compare: takes exactly one suite, such as grpo bench ops --compare HEAD~1");
    const report = await compare(name, flags, line);
    if (flags.json) print(JSON.stringify(report));
    return;
  }
  const reports: Record<string, unknown> = {};
  for (const [i, name] of names.entries()) {
    if (i > 0) line("");
    reports[name] = await suites[name]!.run(flags, line);
  }
  if (flags.json) print(JSON.stringify(names.length === 1 ? reports[names[0]!] : { suites: reports }));
}
