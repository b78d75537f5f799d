/**
 * `grpo verify`: judges the answers of a JSONL file with the verifiers that training uses, in the same processes with
 * the same deadline per answer. Streams: neither input nor output is ever held whole. Reward functions of one's own and
 * models are not run here.
 */
import { createReadStream, createWriteStream, existsSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { createGunzip } from "node:zlib";
import type { Reason, Verdict } from "../answers/verify.ts";
import { requireFreeFile } from "../checkpoint/output-folder.ts";
import { choice, text } from "../config/settings/kinds.ts";
import { fileOverwriteSettings } from "../config/settings/output.ts";
import { rewardTimeoutSettings } from "../config/settings/rollout.ts";
import { errorText, InputError } from "../errors.ts";
import { requireFile } from "../files/paths.ts";
import { temporaryBeside } from "../files/temporary.ts";
import { createRewardPool, type RewardPool } from "../rewards/pool/pool.ts";
import type { Item } from "../rewards/pool/protocol.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";

const settings = {
  input: text(null, "FILE")`The answers, one JSON object per line; .gz works too.`,
  output: text(null, "FILE")`Where the verdicts go. null: stdout.`,
  verifier: choice(["gsm8k", "math"], null)`
    How answers are compared. null: gsm8k if the gold answer is a number, otherwise math.`,
  extraction: choice(["lenient", "strict"], "lenient")`
    lenient: find the answer as a reader would; strict: only after #### or in \\boxed{}.`,
  ...fileOverwriteSettings,
  reward_timeout: rewardTimeoutSettings.reward_timeout,
};

/** Lines judged as one batch, and how many batches are under way at a time. */
const BATCH = 512;
const BATCHES_AHEAD = 4;

export const verify: Command = {
  flags: settings,
  usage: `Usage: grpo verify --input F.jsonl [--output O.jsonl] [--verifier gsm8k|math]

Each line is {"gold": "18", "response": "… the answer is 18."}, or has "pred" (an answer already extracted) instead of
"response". If the gold is a whole solution, what follows its #### or is inside its last \\boxed{} counts.
Each output line is {"reward": 0 or 1, "answer": text or null, "reason": "equal", "different", "unparsed" or "timeout"}.
A summary goes to stderr; if the lines have a boolean "label" (or "equal"), it includes the agreement with it.

${describeFlags(settings)}
Example: grpo verify --input answers.jsonl.gz --output verdicts.jsonl`,
  async run(argv) {
    const { flags } = readFlags("verify", settings, argv);
    if (flags.input === null)
      throw new InputError("--input is missing; give the file of answers, one JSON object a line");
    requireFreeFile(flags.output, flags.overwrite, { input: flags.input });
    const pool = createRewardPool({ functions: [], timeoutMs: flags.rewardTimeout * 1000 });
    const out = openOutput(flags.output);
    const tally = new Tally();
    try {
      const verifier = flags.verifier === null ? {} : { verifier: flags.verifier };
      for await (const [rows, verdicts] of judged(pool, readRows(flags.input), verifier, flags.extraction)) {
        await out.write(verdicts.map((verdict) => `${JSON.stringify(verdict)}\n`).join(""));
        for (const [i, verdict] of verdicts.entries()) tally.add(rows[i]!, verdict);
      }
      await out.commit();
    } finally {
      out.discard();
      await pool.close();
    }
    process.stderr.write(tally.text());
  },
};

interface Row {
  readonly item: Item;
  /** What the row says the verdict should be, where it does. */
  readonly label: boolean | null;
}

/** Batches with their verdicts, in the input's order, several of them under way at a time. */
async function* judged(
  pool: RewardPool,
  rows: AsyncIterable<Row>,
  verifier: Pick<Item, "verifier">,
  extraction: "lenient" | "strict",
): AsyncGenerator<readonly [readonly Row[], readonly Verdict[]]> {
  const ahead: { readonly rows: Row[]; readonly verdicts: Promise<readonly Verdict[]> }[] = [];
  const submit = (batch: Row[]): void => {
    const items = batch.map(({ item }) => ({ ...item, ...verifier }));
    const verdicts = pool.verify(items, extraction);
    verdicts.catch(() => {}); // Met again where it is awaited, unless a bad line ends the run before.
    ahead.push({ rows: batch, verdicts });
  };
  let batch: Row[] = [];
  for await (const row of rows) {
    batch.push(row);
    if (batch.length < BATCH) continue;
    submit(batch);
    batch = [];
    if (ahead.length < BATCHES_AHEAD) continue;
    const first = ahead.shift()!;
    yield [first.rows, await first.verdicts];
  }
  if (batch.length > 0) submit(batch);
  for (const { rows: judgedRows, verdicts } of ahead) yield [judgedRows, await verdicts];
}

async function* readRows(path: string): AsyncGenerator<Row> {
  let number = 0;
  for await (const line of readLines(path)) {
    number++;
    if (line.trim() !== "") yield parseRow(line, `${path}, line ${number}`);
  }
}

function parseRow(line: string, where: string): Row {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (error) {
    throw new InputError(`${where}: not JSON (${errorText(error)}); each line must be one JSON object`);
  }
  if (typeof row !== "object" || row === null || Array.isArray(row)) {
    throw new InputError(`${where}: not a JSON object; write {"gold": "…", "response": "…"}`);
  }
  const { gold, response, pred, label, equal } = row as Record<string, unknown>;
  if (typeof gold !== "string") {
    throw new InputError(
      `${where}: "gold" ${gold === undefined ? "is missing" : "is not a string"}; give the right answer`,
    );
  }
  if ((response === undefined) === (pred === undefined)) {
    const wrong = response === undefined ? 'neither "response" nor "pred"' : 'both "response" and "pred"';
    throw new InputError(`${where}: ${wrong}; give the model's text, or the answer already extracted`);
  }
  const text = response ?? pred;
  if (typeof text !== "string") {
    throw new InputError(`${where}: "${pred === undefined ? "response" : "pred"}" is not a string; put it in quotes`);
  }
  const expected = label ?? equal;
  return {
    item: pred === undefined ? { gold, response: text } : { gold, pred: text },
    label: typeof expected === "boolean" ? expected : null,
  };
}

/** The lines of a text file, decompressed where its name ends in .gz. */
async function* readLines(path: string): AsyncGenerator<string> {
  requireFile(path, { once: true });
  const info = existsSync(path) ? statSync(path) : null;
  if (info === null) throw new InputError(`${path} does not exist; give --input a file of JSON lines`);
  if (info.isDirectory()) throw new InputError(`${path} is a folder; give --input a file of JSON lines`);
  const file = createReadStream(path, { highWaterMark: 1 << 18 });
  const bytes = path.endsWith(".gz") ? file.pipe(createGunzip()) : file;
  file.on("error", (error) => bytes.destroy(error));
  const decoder = new TextDecoder();
  let rest: string[] = [];
  try {
    for await (const chunk of bytes) {
      const lines = decoder.decode(chunk as Uint8Array, { stream: true }).split("\n");
      if (lines.length > 1) {
        yield rest.join("") + lines[0];
        yield* lines.slice(1, -1);
        rest = [];
      }
      rest.push(lines.at(-1)!);
    }
  } catch (error) {
    throw new InputError(`${path} cannot be read (${errorText(error)}); is it complete, and a .gz file really gzip?`);
  }
  const last = rest.join("") + decoder.decode();
  if (last !== "") yield last;
}

interface Output {
  write(text: string): Promise<void>;
  /** Makes a file appear under its name; until then there is only a temporary one beside it. */
  commit(): Promise<void>;
  /** Removes what was not committed. */
  discard(): void;
}

function openOutput(path: string | null): Output {
  if (path === null) return { write: (text) => written(process.stdout, text), commit: async () => {}, discard() {} };
  if (!existsSync(dirname(path)))
    throw new InputError(`--output ${path}: there is no folder ${dirname(path)}; create it first`);
  const info = existsSync(path) ? statSync(path) : undefined;
  if (info?.isDirectory()) throw new InputError(`--output ${path} is a folder; name a file`);
  // What is no file (/dev/stdout, a pipe) is written to as it is.
  const partial = info === undefined || info.isFile() ? temporaryBeside(path) : path;
  // Opened at once: opened later, a file could appear after `discard`.
  const stream = createWriteStream(partial, partial === path ? {} : { fd: opened(partial, path) });
  let failure: Error | null = null;
  stream.on("error", (error) => {
    failure = error;
  });
  const check = (): void => {
    if (failure !== null) throw new InputError(`--output ${path} cannot be written (${errorText(failure)})`);
  };
  return {
    async write(text) {
      await written(stream, text);
      check();
    },
    async commit() {
      await new Promise((resolve) => stream.end(resolve));
      check();
      if (partial !== path) renameSync(partial, path);
    },
    discard() {
      stream.destroy();
      if (partial !== path) rmSync(partial, { force: true });
    },
  };
}

function opened(partial: string, path: string): number {
  try {
    return openSync(partial, "w");
  } catch (error) {
    throw new InputError(`--output ${path} cannot be written (${errorText(error)})`);
  }
}

const written = (stream: NodeJS.WritableStream, text: string): Promise<void> =>
  new Promise((resolve) => {
    if (stream.write(text)) resolve();
    else {
      stream.once("drain", () => resolve());
      stream.once("error", () => resolve());
    }
  });

/** Counts for the summary. */
class Tally {
  private readonly counts: Record<Reason, number> = { equal: 0, different: 0, unparsed: 0, timeout: 0 };
  private labelled = 0;
  private agreed = 0;
  private readonly started = performance.now();

  add({ label }: Row, { reward, reason }: Verdict): void {
    this.counts[reason]++;
    if (label === null) return;
    this.labelled++;
    if (label === (reward === 1)) this.agreed++;
  }

  text(): string {
    const total = Object.values(this.counts).reduce((sum, n) => sum + n, 0);
    const seconds = (performance.now() - this.started) / 1000;
    const counts = Object.entries(this.counts).map(([reason, n]) => `${n} ${reason}`);
    const lines = [`${total} answers in ${seconds.toFixed(1)} s: ${counts.join(", ")}`];
    if (this.labelled > 0) {
      const share = ((100 * this.agreed) / this.labelled).toFixed(2);
      lines.push(`agreement with the labels: ${this.agreed} of ${this.labelled} (${share} %)`);
    }
    return `${lines.join("\n")}\n`;
  }
}
