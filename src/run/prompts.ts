/**
 * Rows of a dataset → tokenized prompts with their golds, one at a time and on demand. Also how long prompts get, which
 * the memory plan must know before the first of them is sampled.
 */
import { type ColumnSettings, type Example, type ExampleColumns, exampleAt, findColumns } from "../data/columns.ts";
import type { Dataset } from "../data/dataset.ts";
import { loadDataset } from "../data/load.ts";
import { InputError } from "../errors.ts";
import type { PromptOptions, Tokenizer } from "../tokenizer/tokenizer.ts";

export interface Problem {
  readonly row: number;
  readonly promptIds: Int32Array; // (P)
  readonly example: Example;
}

/** A completion of a problem as reward functions take it. */
export interface Answer {
  readonly problem: Problem;
  /** The same number for answers to one prompt. */
  readonly group: number;
  readonly completionIds: Int32Array; // (R)
  readonly text: string;
}

export interface ProblemSource {
  readonly dataset: Dataset;
  readonly columns: ExampleColumns;
  /** What a user should know of the columns: where golds come from, what rows come without. */
  readonly remarks: readonly string[];
  /** @throws InputError for a row whose prompt is empty or no prompt at all */
  problem(row: number): Problem;
  /** Tokens of the longest prompt, found by tokenizing the rows that are longest as text. */
  longestPrompt(): number;
  close(): void;
}

export interface ProblemSettings extends ColumnSettings, PromptOptions {
  readonly path: string;
  readonly config?: string | null;
  readonly split: string;
}

/** Rows whose text lengths are looked at; a larger set is sampled evenly. */
const SCANNED_ROWS = 20_000;
/** Rows that are tokenized to find the longest prompt. */
const TOKENIZED_ROWS = 32;
/** What a row outside of the scan may be longer by. */
const MARGIN = 1.1;

/** @throws InputError where the dataset or a column is not there, or a file is damaged */
export async function openProblems(tokenizer: Tokenizer, settings: ProblemSettings): Promise<ProblemSource> {
  const dataset = await loadDataset(settings.path, { split: settings.split, config: settings.config });
  const columns = findColumns(dataset, settings);
  const { systemPrompt, chatTemplateKwargs } = settings;
  const problem = (row: number): Problem => {
    const example = exampleAt(dataset, columns, row);
    const promptIds = Int32Array.from(tokenizer.encodePrompt(example.prompt, { systemPrompt, chatTemplateKwargs }));
    if (promptIds.length === 0)
      throw new InputError(
        `${dataset.path}: row ${row}: the prompt is empty; remove the row or name another prompt_column`,
      );
    return { row, promptIds, example };
  };
  const unread = dataset.columns.flatMap(({ unread }) => unread ?? []);
  return {
    dataset,
    columns,
    remarks: [...columns.remarks, ...unread.map((reason) => `rows come without a column: ${reason}`)],
    problem,
    longestPrompt() {
      const stride = Math.max(1, Math.ceil(dataset.numRows / SCANNED_ROWS));
      const lengths: { row: number; length: number }[] = [];
      for (let row = 0; row < dataset.numRows; row += stride) {
        const { prompt } = exampleAt(dataset, columns, row);
        lengths.push({ row, length: Buffer.byteLength(typeof prompt === "string" ? prompt : JSON.stringify(prompt)) });
      }
      lengths.sort((a, b) => b.length - a.length || a.row - b.row);
      const longest = Math.max(1, ...lengths.slice(0, TOKENIZED_ROWS).map(({ row }) => problem(row).promptIds.length));
      return Math.ceil(longest * MARGIN);
    },
    close: () => dataset.close(),
  };
}
