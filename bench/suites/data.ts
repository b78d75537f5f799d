/**
 * `bench data`: rows from files, as a run reads them: JSON Lines converted to Arrow, rows in order and shuffled, prompts as
 * tokens. The files are generated; what is read is compared with what was written, row for row.
 */

import { once } from "node:events";
import { createWriteStream, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundledModel } from "../../src/api/bundled.ts";
import { resolveModel } from "../../src/checkpoint/hub.ts";
import { convertToArrow } from "../../src/data/convert.ts";
import { openDataset } from "../../src/data/dataset.ts";
import { createSampler } from "../../src/data/order.ts";
import { openSource } from "../../src/data/source/source.ts";
import { RunError } from "../../src/errors.ts";
import { openDatasetProblems } from "../../src/run/prompts.ts";
import { loadTokenizer } from "../../src/tokenizer/tokenizer.ts";
import { type Figure, more } from "../figures.ts";
import { randomFrom } from "../ops/random.ts";
import { reportOf, type Suite } from "./suite.ts";

export interface Row {
  readonly question: string;
  readonly answer: string;
}

const things = "apples pens books coins stamps cards birds trees boats stones".split(" ");

/** A word problem of the usual length, 200 to 500 characters with its solution; different for every index. */
export function generatedRow(index: number): Row {
  const random = randomFrom(`row ${index}`);
  const steps = 2 + random.integer(5);
  const thing = things[random.integer(things.length)]!;
  let total = 10 + random.integer(90);
  const question = [`Question ${index}: a box holds ${total} ${thing}.`];
  const answer: string[] = [];
  for (let i = 0; i < steps; i++) {
    const count = 1 + random.integer(50);
    question.push(`On day ${i + 1} somebody adds ${count} more ${thing} to it.`);
    answer.push(`${total}+${count}=${total + count}`);
    total += count;
  }
  return {
    question: [...question, `How many ${thing} does it hold now?`].join(" "),
    answer: [...answer, `#### ${total}`].join("\n"),
  };
}

/** A sum over rows that does not depend on their order: what was read is what was written. */
export function checksum(): { add(row: Row): void; readonly rows: number; readonly sum: bigint } {
  let [rows, sum] = [0, 0n];
  return {
    add({ question, answer }) {
      rows++;
      sum = BigInt.asUintN(64, sum + BigInt(Bun.hash(`${question}\0${answer}`)));
    },
    get rows() {
      return rows;
    },
    get sum() {
      return sum;
    },
  };
}

type Checksum = ReturnType<typeof checksum>;

/** @throws RunError if rows are missing or changed */
export function requireSame(what: string, got: Checksum, want: Checksum): void {
  if (got.rows !== want.rows) throw new RunError(`data: wrong result: ${what} gave ${got.rows} of ${want.rows} rows`);
  if (got.sum !== want.sum) throw new RunError(`data: wrong result: ${what} gave rows that differ from those written`);
}

async function writeRows(path: string, count: number): Promise<Checksum> {
  const written = checksum();
  const file = createWriteStream(path);
  for (let index = 0; index < count; index++) {
    const row = generatedRow(index);
    written.add(row);
    if (!file.write(`${JSON.stringify(row)}\n`)) await once(file, "drain");
  }
  file.end();
  await once(file, "finish");
  return written;
}

/** Tokenizing is slower than reading, so fewer rows do. */
const TOKENIZED = 2000;

export const data: Suite = {
  summary: "rows/s and MB/s of JSON Lines and Arrow files, prompts/s as tokens",
  usual: true,
  takes: ["model", "quick"],
  async run({ quick, model }, line) {
    const folder = mkdtempSync(join(tmpdir(), "grpo-bench-"));
    try {
      const rows = quick ? 20_000 : 100_000;
      const [json, arrow] = [join(folder, "rows.jsonl"), join(folder, "rows.arrow")];
      const written = await writeRows(json, rows);
      const figures: Figure[] = [];
      const timed = async (name: string, bytes: number, count: number, work: () => Promise<void>) => {
        const start = performance.now();
        await work();
        const seconds = (performance.now() - start) / 1000;
        figures.push(
          more(`${name}`, count / seconds, "rows/s"),
          more(`${name}, of the file`, bytes / seconds / 1e6, "MB/s"),
        );
      };
      const jsonBytes = statSync(json).size;
      await timed("JSON Lines to Arrow", jsonBytes, rows, async () => void (await convertToArrow(json, arrow)));
      const arrowBytes = statSync(arrow).size;

      // What is read is checked outside of the time.
      await timed("JSON Lines, in order", jsonBytes, rows, async () => {
        const source = await openSource(json);
        if (!("batches" in source)) throw new RunError(`data: wrong result: ${json} is read as ${source.format}`);
        for await (const batch of source.batches(["question", "answer"])) keep(batch.rows as unknown as Row[]);
      });
      requireSame("JSON Lines", taken(), written);
      const dataset = openDataset(arrow);
      const sampler = createSampler({ numRows: rows, seed: 1, shuffle: true, position: 0 });
      const orders = { "in order": (i: number) => i, shuffled: () => sampler.next().row } as const;
      for (const [name, order] of Object.entries(orders)) {
        await timed(`Arrow, ${name}`, arrowBytes, rows, async () => {
          for (let i = 0; i < rows; i++) keep([dataset.row(order(i)) as unknown as Row]);
        });
        requireSame(`Arrow, ${name},`, taken(), written);
      }
      dataset.close();

      const note = (text: string) => void process.stderr.write(`${text}\n`);
      const tokenizer = loadTokenizer(model === null ? bundledModel() : await resolveModel(model, { note }));
      const problems = await openDatasetProblems(tokenizer, arrow, columns, note);
      let tokens = 0;
      const count = Math.min(rows, TOKENIZED);
      const start = performance.now();
      for (let row = 0; row < count; row++) tokens += problems.problem(row).promptIds.length;
      const seconds = (performance.now() - start) / 1000;
      figures.push(
        more("prompts as tokens", count / seconds, "rows/s"),
        more("their tokens", tokens / seconds, "tokens/s"),
      );
      for (const row of [0, count - 1]) requirePrompt(tokenizer.decode([...problems.problem(row).promptIds]), row);
      problems.close();
      const checked = `${rows} rows read in three ways are those written; prompts decode to their questions`;
      return reportOf("data", { description: "files in a temporary folder" }, checked, figures, line, { rows });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

const columns = {
  ...{ promptColumn: null, answerColumn: null, systemPrompt: null, chatTemplateKwargs: undefined },
  ...{ datasetConfig: null, datasetSplit: "train" },
};

let kept: Row[] = [];
function keep(rows: readonly Row[]): void {
  for (const row of rows) kept.push(row);
}
function taken(): Checksum {
  const sum = checksum();
  for (const row of kept) sum.add(row);
  kept = [];
  return sum;
}

function requirePrompt(text: string, row: number): void {
  if (!text.includes(generatedRow(row).question))
    throw new RunError(`data: wrong result: the tokens of row ${row} decode to ${JSON.stringify(text)}`);
}
