/**
 * Dataset rows → tokenized prompts with their golds, one at a time on demand. Also estimates the longest prompt, which
 * the memory plan needs before sampling starts.
 */
import {
  type ColumnSettings,
  type Example,
  type ExampleColumns,
  exampleAt,
  findColumns,
  promptAt,
} from "../data/columns.ts";
import type { Dataset } from "../data/dataset.ts";
import { loadDataset } from "../data/load.ts";
import { InputError } from "../errors.ts";
import type { PromptOptions, Tokenizer } from "../tokenizer/tokenizer.ts";

export interface Problem {
  readonly row: number;
  readonly promptIds: Int32Array; // (P)
  readonly example: Example;
}

/** A completion of a problem, as passed to reward functions. */
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
  /** Notes for the user about columns: where golds come from, which columns could not be read. */
  readonly remarks: readonly string[];
  /** @throws InputError for a row whose prompt is empty or not a prompt */
  problem(row: number): Problem;
  /** Tokens of the longest prompt, estimated by tokenizing the rows with the longest text. */
  longestPrompt(): number;
  close(): void;
}

interface ProblemSettings extends ColumnSettings, PromptOptions {
  readonly path: string;
  readonly config?: string | null;
  readonly split: string;
}

/** Says what takes long: a download, a conversion. */
type Note = (text: string) => void;

/** Rows whose text lengths are compared; larger datasets are sampled evenly. */
const SCANNED_ROWS = 20_000;
/** Rows that are tokenized to find the longest prompt. */
const TOKENIZED_ROWS = 32;
/** Allowance for longer rows outside the scan. */
const MARGIN = 1.1;

/** @throws InputError if the dataset or a column is missing, or a file is damaged */
async function openProblems(tokenizer: Tokenizer, settings: ProblemSettings, note: Note): Promise<ProblemSource> {
  const { path, split, config } = settings;
  const dataset = await loadDataset(path, { split, config, onProgress: note });
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
        const prompt = promptAt(dataset, columns, row);
        lengths.push({ row, length: Buffer.byteLength(typeof prompt === "string" ? prompt : JSON.stringify(prompt)) });
      }
      lengths.sort((a, b) => b.length - a.length || a.row - b.row);
      const longest = Math.max(1, ...lengths.slice(0, TOKENIZED_ROWS).map(({ row }) => problem(row).promptIds.length));
      return Math.ceil(longest * MARGIN);
    },
    close: () => dataset.close(),
  };
}

/** The settings of a command that say how its rows become prompts. */
interface PromptConfig {
  readonly promptColumn: string | null;
  readonly answerColumn: string | null;
  readonly systemPrompt: string | null;
  readonly chatTemplateKwargs: PromptOptions["chatTemplateKwargs"];
  readonly datasetConfig: string | null;
  readonly datasetSplit: string;
}

/** Opens the dataset at `path` under a command's settings. @throws InputError like `openProblems` */
export function openDatasetProblems(
  tokenizer: Tokenizer,
  path: string,
  config: PromptConfig,
  note: Note,
): Promise<ProblemSource> {
  const { promptColumn, answerColumn, chatTemplateKwargs, datasetConfig, datasetSplit } = config;
  const systemPrompt = config.systemPrompt ?? undefined;
  const columns = { promptColumn, answerColumn, chatTemplateKwargs, systemPrompt };
  return openProblems(tokenizer, { ...columns, path, config: datasetConfig, split: datasetSplit }, note);
}

/**
 * Opens the rows to train on and those to evaluate on, if any.
 *
 * @throws InputError like `openProblems`; nothing is left open then
 */
export async function openTrainingProblems(
  tokenizer: Tokenizer,
  { dataset, evalDataset }: { readonly dataset: string; readonly evalDataset: string | null },
  config: PromptConfig & { readonly evalSplit: string },
  note: Note,
): Promise<{ readonly problems: ProblemSource; readonly evalProblems: ProblemSource | null }> {
  const problems = await openDatasetProblems(tokenizer, dataset, config, note);
  if (evalDataset === null) return { problems, evalProblems: null };
  try {
    const datasetConfig = evalDataset === dataset ? config.datasetConfig : null;
    const settings = { ...config, datasetConfig, datasetSplit: config.evalSplit };
    return { problems, evalProblems: await openDatasetProblems(tokenizer, evalDataset, settings, note) };
  } catch (error) {
    problems.close();
    throw error;
  }
}
