/**
 * A hundred hostile answers through the graders used in training: the pool of processes, and `grpo verify`. Each gets a verdict
 * in time, none is right, and the processes keep working. Also the speed of judging ordinary answers.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { verify } from "../../src/answers/verify.ts";
import { verify as command } from "../../src/cli/verify.ts";
import { createRewardPool } from "../../src/rewards/pool/pool.ts";
import { hostileAnswers } from "./hostile-answers.ts";

const answers = hostileAnswers();
const names = Object.keys(answers);
const golds = ["18", "\\frac{1}{2}", "x^2+1"] as const;
/** One answer's deadline in these tests, in seconds: a tenth of the default. */
const DEADLINE = 1;

const folder = mkdtempSync(join(tmpdir(), "grpo-hostile-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** `grpo verify` on the rows, without its summary. */
async function grade(rows: readonly object[], ...flags: string[]): Promise<{ reward: number; reason: string }[]> {
  const [input, output] = [join(folder, "in.jsonl"), join(folder, "out.jsonl")];
  writeFileSync(input, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const write = process.stderr.write;
  process.stderr.write = () => true;
  try {
    await command.run(["--input", input, "--output", output, "--overwrite", ...flags]);
  } finally {
    process.stderr.write = write;
  }
  return readFileSync(output, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
}

test("there are a hundred of them", () => expect(names.length).toBeGreaterThanOrEqual(100));

test("in the pool, as in a training step: right answers between them stay right", async () => {
  const pool = createRewardPool({ functions: ["math"], timeoutMs: DEADLINE * 1000, size: 2 });
  try {
    const completions = names.flatMap((name) => [answers[name]!, "so it is \\boxed{0.5}"]);
    const { perFunction } = await pool.score({
      prompts: completions.map(() => ""),
      completions,
      completionIds: completions.map(() => []),
      golds: completions.map(() => "\\frac{1}{2}"),
      columns: {},
    });
    const { rewards, reasons, timeouts } = perFunction[0]!;
    for (const [i, name] of names.entries()) {
      expect([name, rewards[2 * i], rewards[2 * i + 1]]).toEqual([name, 0, 1]);
      expect([name, ["different", "unparsed"].includes(reasons![2 * i]!)]).toEqual([name, true]);
    }
    expect(timeouts).toBe(0);
  } finally {
    await pool.close();
  }
}, 60_000);

describe("grpo verify", () => {
  for (const verifier of ["math", "gsm8k"]) {
    test(`--verifier ${verifier}`, async () => {
      const rows = names.map((name, i) => ({ gold: golds[i % golds.length], response: answers[name] }));
      const verdicts = await grade(
        [...rows, { gold: "18", response: "#### 18" }],
        ...["--verifier", verifier, "--reward_timeout", String(DEADLINE)],
      );
      for (const [i, name] of names.entries()) {
        expect([name, verdicts[i]!.reward]).toEqual([name, 0]);
        expect([name, ["different", "unparsed"].includes(verdicts[i]!.reason)]).toEqual([name, true]);
      }
      expect(verdicts.at(-1)).toMatchObject({ reward: 1, reason: "equal" });
    }, 60_000);
  }

  test("as gold and as an answer already extracted", async () => {
    const rows = names.flatMap((name) => [
      { gold: answers[name], pred: answers[name] },
      { gold: answers[name], response: "\\boxed{18}" },
      { gold: "18", pred: answers[name] },
    ]);
    const verdicts = await grade(rows, "--verifier", "math", "--reward_timeout", String(DEADLINE));
    for (const [i, verdict] of verdicts.entries()) {
      const name = names[Math.floor(i / 3)]!;
      expect([name, i % 3, verdict.reason !== "timeout"]).toEqual([name, i % 3, true]);
      if (i % 3 > 0) expect([name, i % 3, verdict.reward]).toEqual([name, i % 3, 0]);
    }
  }, 60_000);
});

test("each takes a fraction of the deadline", () => {
  for (const name of names) {
    const before = performance.now();
    verify({ gold: "x^2+1", response: answers[name]!, extraction: "lenient", verifier: "math" });
    expect([name, performance.now() - before < 800]).toEqual([name, true]);
  }
});

/** An invented solution of about 1,200 characters. */
const prose = (i: number): string =>
  Array.from({ length: 12 }, (_, k) => `Step ${k}: with $x_${k} = \\frac{${i}}{${k + 2}}$ we get ${i + k} of ${k * i}.`)
    .join("\n")
    .padEnd(1100, " and so on");

test.each([
  ["gsm8k", 5000, (i: number) => ({ gold: String(i), response: `${prose(i)}\n#### ${i + (i % 2)}` })],
  [
    "math",
    500,
    (i: number) => ({
      gold: i % 3 === 0 ? `\\frac{${i}}{7}x^2 - \\sqrt{${i}}` : `(\\frac{${i}}{3}, ${i}\\pi)`,
      response: `${prose(i)} \\boxed{${i % 3 === 0 ? `-\\sqrt{${i + (i % 2)}} + ${i}x^2/7` : `(${i}/3, ${i + (i % 2)}\\pi)`}}`,
    }),
  ],
] as const)(
  "%s: at least %p answers a second, starting the processes included",
  async (verifier, rate, row) => {
    const count = 20_000;
    const rows = Array.from({ length: count }, (_, i) => row(i + 2));
    const before = performance.now();
    const verdicts = await grade(rows, "--verifier", verifier);
    const seconds = (performance.now() - before) / 1000;
    expect(verdicts.filter(({ reward }) => reward === 1).length).toBe(count / 2);
    expect(count / seconds).toBeGreaterThan(rate);
  },
  120_000,
);
