/**
 * A run on files in other trainers' formats: verl's nested columns, a column of mixed types, numbers that JSON.parse would
 * change.
 */
import { afterAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { convertToArrow } from "../../src/data/convert.ts";
import { reward, train, workFolder } from "./runs.ts";

const work = workFolder();
afterAll(() => work.remove());

test("trains on it, and passes the rows' values to reward functions", async () => {
  const rows = Array.from({ length: 12 }, (_, i) => {
    const question = `"prompt": [{"role": "user", "content": "What is ${i} + 1?"}]`;
    const answer = `"reward_model": {"style": "rule", "ground_truth": ${i === 7 ? "null" : `"${i + 1}"`}}`;
    const others = `"level": ${i % 2 === 0 ? '"hard"' : i}, "big": 9007199254740993, "score": ${i % 2 === 0 ? "NaN" : i / 4}`;
    return `{${question}, ${answer}, "extra_info": {"i": ${i}}, ${others}, "twice": 1, "twice": 2}\n`;
  });
  writeFileSync(work.at("verl.jsonl"), rows.join(""));
  // As the loader does, but not in the cache, which also holds the compiled kernels.
  const dataset = work.at("verl.arrow");
  await convertToArrow(work.at("verl.jsonl"), dataset, { keepAll: true });
  const { notes, steps } = await train(work.at("out"), {
    dataset,
    reward_funcs: `${reward("sees_columns")},gsm8k`,
    max_completion_length: 4,
    max_steps: 3,
  });
  expect(steps).toHaveLength(3);
  for (const step of steps) expect(step).toMatchObject({ "rewards/sees_columns/mean": 1 });
  const said = notes.join("\n");
  expect(said).toContain("gold answers are taken from reward_model.ground_truth, as verl's files have them");
  expect(said).toMatch(/1 of 12 rows of .*verl\.arrow has no gold answer in reward_model\.ground_truth .*\(row 7\)/);
  expect(said).toMatch(/rows come without a column: .*line 1 has the key "twice" twice/);
});
