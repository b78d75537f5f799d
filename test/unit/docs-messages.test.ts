/** docs/troubleshooting.md: its warnings and messages are the program's own words, and every warning of a run is in it. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { configFor } from "../../src/config/load.ts";
import { type Seen, traps } from "../../src/grpo/traps.ts";

const page = readFileSync(join(import.meta.dir, "../../docs/troubleshooting.md"), "utf8");

/** Numbers and the page's "…" stand for any number. */
const plain = (text: string): string =>
  text.replace(/…|\d+(?:\.\d+)?(?:e[+-]\d+)?/g, "N").replace(/^note: step N: /, "");
const warnings = page
  .split("\n")
  .filter((line) => line.startsWith("note: step …: "))
  .map(plain);

/** What each warning says of a run of 60 steps in which everything is wrong. */
function said(): string[] {
  const lengths = Array.from({ length: 60 }, (_, i) => 20 + i);
  const values: Record<string, number[]> = {
    "completions/mean_length": lengths,
    reward: lengths,
    "completions/clipped_ratio": lengths.map(() => 1),
    kl: lengths.map(() => 0.55),
    entropy: lengths.map(() => 0.001),
  };
  const seen: Seen = {
    record: { reward: 0, "completions/clipped_ratio": 1, "clip_ratio/region_mean": 0.6 },
    flat: true,
    accuracies: [0.23, 0.05],
    last: (name, count) => (values[name] ?? []).slice(-count),
    first: (name) => (values[name] ?? []).slice(0, 5),
  };
  return traps.map((trap) => trap.text(seen));
}

test("every warning is there in its own words", () => {
  expect(warnings.toSorted()).toEqual(said().map(plain).toSorted());
});

test("what is said to wrong settings is what the page shows", () => {
  const told = (argv: string[]): string => {
    try {
      configFor("train", argv);
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };
  for (const line of told(["--num_generations", "none", "--beta", "-1", "--loss_type", "gpro"]).split("\n"))
    expect(page).toContain(`grpo train: ${line}`);
  expect(page).toContain(told(["--learning_rat", "1e-5"]));
  const batch = told(["--num_generations", "8", "--per_device_train_batch_size", "20"]);
  expect(page).toContain(batch.slice(batch.indexOf("= 20 completions")));
  expect(page).toContain(told(["--report_to", "mlflow"]).split("; ")[0]!);
});
