/** The summary of both parts of the suite: no failure or premature end may count as passed. */
import { expect, test } from "bun:test";
import { countsOf } from "../run.ts";

const summary = (lines: string) =>
  `(pass) 3 pass [0.1ms]\n\n${lines}\n 31 expect() calls\nRan 12 tests across 3 files. [1.20s]\n`;

test("uses the last lines' counts, coloured or not", () => {
  const counts = { pass: 9, skip: 2, todo: 0, fail: 1, error: 0, files: 3 };
  expect(countsOf(summary(" 9 pass\n 2 skip\n 1 fail"), 1)).toEqual(counts);
  expect(countsOf(summary("\x1b[32m 9 pass\x1b[0m\n 2 skip\n\x1b[31m 1 fail\x1b[0m"), 1)).toEqual(counts);
  expect(countsOf(summary(" 12 pass\n 0 fail\n 1 error"), 1)).toMatchObject({ pass: 12, fail: 0, error: 1 });
  expect(countsOf(summary(" 12 pass\n 0 fail"), 0)).toMatchObject({ pass: 12, fail: 0 });
});

test("no summary, no test at all, or an exit status without a reason is a failure", () => {
  expect(countsOf("(pass) one [0.1ms]\n", 0)).toMatchObject({ pass: 0, fail: 1 });
  expect(countsOf("panic: out of memory\n", 132)).toMatchObject({ fail: 1 });
  expect(countsOf(summary(" 0 pass\n 0 fail"), 0)).toMatchObject({ fail: 1 });
  expect(countsOf(summary(" 12 pass\n 0 fail"), 1)).toMatchObject({ pass: 12, fail: 1 });
});
