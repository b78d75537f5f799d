/**
 * The index of a file of completions: where each line begins, and what the list shows of it. The file is read once, in
 * slices between which the server answers others; a line is read again when it is looked at. Memory is bounded by the number
 * of lines, whatever the size of the file.
 */
import { readSync } from "node:fs";
import { type OpenFile, openInside } from "./inside.ts";
import type { CompletionLine, CompletionsMessage } from "./protocol.ts";

const SLICE = 1 << 20;
/** Longest line in bytes; 100,000 tokens with their logprobs have about 4 MB. */
const LONGEST = 16 << 20;
/** Most lines of one file. */
const LINES = 100_000;
/** Lines of one answer. */
const ANSWER = 5_000;
const EXCERPT = 160;
/** How long one slice of work may keep others waiting, in ms. */
const BUSY_MS = 8;

export interface CompletionsIndex {
  readonly version: string;
  /** Resolves when there is more than `from` lines, or the file is done, or after `patience` ms. */
  answer(from: number, patience?: number): Promise<CompletionsMessage>;
  /** The bytes of a line, as JSON; null if the file has changed or there is no such line. */
  line(index: number): Buffer | null;
  close(): void;
}

/** @returns null if there is no such file */
export function indexCompletions(
  folder: string,
  names: readonly string[],
  slice = SLICE,
  longest = LONGEST,
): CompletionsIndex | null {
  const file = openInside(folder, ...names);
  if (file === null) return null;
  const offsets: number[] = [];
  const lengths: number[] = [];
  const lines: CompletionLine[] = [];
  let omitted = 0;
  let complete = false;
  let closed = false;

  const take = (bytes: Buffer, offset: number): void => {
    const found = lines.length < LINES ? lineOf(bytes, lines.at(-1)?.group) : null;
    if (found === null) omitted++;
    else {
      offsets.push(offset);
      lengths.push(bytes.length);
      lines.push(found);
    }
  };
  const done = scan(
    file,
    slice,
    longest,
    take,
    () => omitted++,
    () => closed,
  ).finally(() => {
    complete = true;
    file.close();
  });
  // Whoever waits polls; nobody awaits a scan that fails, which ends as the file's end does.
  done.catch(() => {});

  return {
    version: file.version,
    async answer(from, patience = 250) {
      const until = performance.now() + patience;
      while (!complete && lines.length - from < ANSWER && performance.now() < until)
        await Promise.race([done.catch(() => {}), Bun.sleep(10)]);
      const some = lines.slice(from, from + ANSWER);
      return {
        version: file.version,
        complete: complete && from + some.length >= lines.length,
        omitted,
        from,
        lines: some,
      };
    },
    line(index) {
      const [offset, length] = [offsets[index], lengths[index]];
      if (offset === undefined || length === undefined) return null;
      const again = openInside(folder, ...names);
      if (again === null) return null;
      try {
        if (again.version !== file.version) return null;
        const bytes = Buffer.allocUnsafe(length);
        return readSync(again.fd, bytes, 0, length, offset) === length ? bytes : null;
      } finally {
        again.close();
      }
    },
    close() {
      closed = true;
    },
  };
}

/** Calls `take` with each line and its offset, `skip` for one that is too long. A last line without its end is a line too. */
async function scan(
  file: OpenFile,
  slice: number,
  longest: number,
  take: (line: Buffer, offset: number) => void,
  skip: () => void,
  isClosed: () => boolean,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(slice);
  let parts: Buffer[] = [];
  let partBytes = 0;
  let tooLong = false;
  let at = 0;
  let since = performance.now();
  const finish = (end: Buffer, offset: number): void => {
    const line = parts.length === 0 ? end : Buffer.concat([...parts, end]);
    if (tooLong || line.length > longest) skip();
    else if (line.length > 0) take(line, offset - partBytes);
    parts = [];
    partBytes = 0;
    tooLong = false;
  };
  while (!isClosed()) {
    const count = readSync(file.fd, buffer, 0, slice, at);
    if (count === 0) break;
    let from = 0;
    for (let end = buffer.indexOf(10); end >= 0 && end < count; end = buffer.indexOf(10, from)) {
      finish(buffer.subarray(from, end), at + from);
      from = end + 1;
      if (performance.now() - since < BUSY_MS) continue;
      await Bun.sleep(0);
      since = performance.now();
      if (isClosed()) return;
    }
    const rest = count - from;
    if (rest > 0) {
      tooLong ||= partBytes + rest > longest;
      if (tooLong) parts = [];
      else parts.push(Buffer.from(buffer.subarray(from, count)));
      partBytes += rest;
    }
    at += count;
    if (performance.now() - since >= BUSY_MS) {
      await Bun.sleep(0);
      since = performance.now();
    }
  }
  if (partBytes > 0 && !isClosed()) finish(Buffer.alloc(0), at);
}

const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
const excerpt = (value: unknown): string => (typeof value === "string" ? value.slice(0, EXCERPT) : "");

/** What the list shows of a line; null if it is no completion. */
function lineOf(bytes: Buffer, lastGroup: number | undefined): CompletionLine | null {
  let row: Record<string, unknown>;
  try {
    row = JSON.parse(bytes.toString("utf8"));
  } catch {
    return null;
  }
  if (typeof row !== "object" || row === null || !isNumber(row.group)) return null;
  const { group, completion_ids: ids, details } = row;
  const { advantage, verdict } = (typeof details === "object" && details !== null ? details : {}) as Record<
    string,
    unknown
  >;
  return {
    group,
    reward: isNumber(row.reward) ? row.reward : null,
    finished: row.finished !== false,
    tokens: Array.isArray(ids) ? ids.length : 0,
    advantage: meanOf(advantage ?? row.advantages),
    verdict: typeof verdict === "string" ? verdict.slice(0, 20) : null,
    prompt: group === lastGroup ? "" : excerpt(row.prompt),
    text: excerpt(row.completion),
  };
}

function meanOf(advantage: unknown): number | null {
  if (isNumber(advantage)) return advantage;
  if (!Array.isArray(advantage) || advantage.length === 0 || !advantage.every(isNumber)) return null;
  return advantage.reduce((sum, each) => sum + each, 0) / advantage.length;
}
