/** The check of answers before a run: rows without one, answers that the verifier cannot read. */
import { expect, test } from "bun:test";
import { verify } from "../../src/answers/verify.ts";
import { goldRemarks } from "../../src/api/golds.ts";
import { findColumns } from "../../src/data/columns.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { InputError } from "../../src/errors.ts";
import type { RewardPool } from "../../src/rewards/pool/pool.ts";
import type { ProblemSource } from "../../src/run/prompts.ts";

let asked = 0;
const pool: Pick<RewardPool, "verify"> = {
  async verify(items, extraction) {
    asked += items.length;
    return items.map((item) => verify({ ...item, extraction }));
  },
};

function source(numRows: number, answer: (row: number) => unknown): ProblemSource {
  const dataset: Dataset = {
    path: "set.arrow",
    numRows,
    columns: ["question", "answer"].map((name) => ({ name, type: "string" })),
    shards: [],
    row: (row) => ({ question: "?", answer: answer(row) }),
    close() {},
  };
  return { dataset, columns: findColumns(dataset), remarks: ["a remark"] } as unknown as ProblemSource;
}

test("there is no message if every row is fine, or no answer is needed", async () => {
  const well = source(50, (row) => (row % 2 === 0 ? "#### 7" : "\\boxed{x+1}"));
  expect(await goldRemarks(["auto"], well, pool)).toEqual(["a remark"]);
  expect(
    await goldRemarks(
      ["think_format"],
      source(5, () => null),
      pool,
    ),
  ).toEqual(["a remark"]);
});

test("rows without an answer are counted and named", async () => {
  const some = source(40, (row) => (row % 4 === 1 ? " " : row));
  expect((await goldRemarks(["auto"], some, pool)).slice(1)).toEqual([
    "10 of 40 rows of set.arrow have no gold answer in answer and will not be scored (rows 1, 5, 9, 13, 17, …)",
  ]);
  const one = await goldRemarks(
    ["math"],
    source(3, (row) => (row === 2 ? null : "1")),
    pool,
  );
  expect(one[1]).toBe("1 of 3 rows of set.arrow has no gold answer in answer and will not be scored (row 2)");
});

test("answers that the verifier reads in no completion are counted and named", async () => {
  const torn = source(10, (row) => (row === 4 ? "\\frac{1}{2" : "#### 3"));
  expect((await goldRemarks(["math"], torn, pool))[1]).toMatch(
    /^1 of 10 gold answers looked at in answer cannot be read by the math verifier.*\(row 4: "\\\\frac/,
  );
});

test("only part of a large set is checked, which is reported", async () => {
  asked = 0;
  const large = source(50_000, (row) => (row < 30 ? null : "5"));
  expect((await goldRemarks(["gsm8k"], large, pool))[1]).toContain(
    "30 of the first 20000 rows of set.arrow have no gold",
  );
  expect(asked).toBe(1000);
  const none = () =>
    goldRemarks(
      ["auto"],
      source(50_000, () => null),
      pool,
    );
  expect(none).toThrow(InputError);
  expect(none).toThrow(/none of the first 20000 rows has a gold answer in answer.*--answer_column/);
});
