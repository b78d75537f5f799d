/**
 * One case: valid files of a kind, one of them damaged, the program run on them, and the verdict. The program may give correct
 * numbers (exit status 0) or one line that names the error (2); in any case, the inputs stay unchanged and nothing is left
 * beside the outputs. The parent process watches for crashes, hangs and memory use.
 */
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type Ended, grpoHere } from "./here.ts";
import { type Folders, type Kind, kinds } from "./kinds.ts";
import { type Content, linkTarget, type Mutation } from "./mutate/mutation.ts";
import { type Random, randomOf } from "./random.ts";

export interface CaseName {
  readonly kind: string;
  readonly seed: number;
  readonly index: number;
  /** Only these of its steps; all if omitted. */
  readonly steps?: readonly number[];
}

export interface Verdict {
  /** The damaged file and its damage. */
  readonly damage: string;
  /** Number of steps of the whole case. */
  readonly steps: number;
  /** null: correct. */
  readonly problem: string | null;
  /** Exit status of the last command. */
  readonly code: number;
  readonly said: string;
}

interface Drawn {
  readonly file: string;
  readonly names: readonly string[];
  readonly content: Content;
  readonly neutral: boolean;
  readonly steps: number;
}

export function kindOf(name: string): Kind {
  const kind = kinds.find((one) => one.name === name);
  if (kind === undefined) throw new Error(`no kind ${name}; there are ${kinds.map((one) => one.name).join(", ")}`);
  return kind;
}

type Files = ReadonlyMap<string, Uint8Array>;
const soundFiles = new Map<string, Files>();

/** The kind's valid files by their paths in its folder, read once. */
function filesOf(kind: Kind, sound: string): Files {
  const known = soundFiles.get(kind.name);
  if (known !== undefined) return known;
  const folder = join(sound, kind.name);
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const files = new Map(
    entries.map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [path.slice(folder.length + 1), new Uint8Array(readFileSync(path))];
    }),
  );
  soundFiles.set(kind.name, files);
  return files;
}

/** The damage to apply, and to which file: usually one step, up to three. */
export function draw(kind: Kind, files: Files, { seed, index, steps }: CaseName): Drawn {
  const random = randomOf(kind.name, seed, index);
  const { file, mutations } = random.pick(kind.damages);
  const count = random.chance(0.7) ? 1 : random.chance(0.7) ? 2 : 3;
  let content: Content = files.get(file)!;
  const names: string[] = [];
  let neutral = true;
  for (let step = 0; step < count; step++) {
    // A step is the same independent of the others.
    const own = randomOf(kind.name, seed, index, step);
    if (steps !== undefined && !steps.includes(step)) continue;
    if (!(content instanceof Uint8Array)) break;
    const done = applied(mutations, content, own);
    content = done.content;
    names.push(done.name);
    // A link leads to the valid file, whatever was done to the file it replaces.
    const isSound = typeof content === "object" && "link" in content && content.link === linkTarget;
    neutral = isSound || (neutral && done.neutral);
  }
  return { file, names, content, neutral: neutral && names.length > 0, steps: count };
}

function applied(mutations: readonly Mutation[], bytes: Uint8Array, random: Random) {
  for (let tries = 0; tries < 50; tries++) {
    const mutation = random.pick(mutations);
    // A file damaged by an earlier step may no longer be editable by this one.
    const content = attempt(() => mutation.apply(bytes, random))?.value ?? null;
    if (content !== null) return { content, name: mutation.name, neutral: mutation.neutral === true };
  }
  return { content: bytes, name: "nothing", neutral: true };
}

function put(path: string, content: Content, sound: string): void {
  mkdirSync(dirname(path), { recursive: true });
  if (content instanceof Uint8Array) writeFileSync(path, content);
  else if (content === "folder") mkdirSync(path);
  else if (content === "pipe") Bun.spawnSync(["mkfifo", path]);
  else if (content !== "absent")
    symlinkSync(content.link === linkTarget ? sound : content.link === "." ? basename(path) : content.link, path);
}

/** Everything below a folder: files with a hash of their contents, links with their targets, others by type. */
function listing(folder: string, below = "", found = new Map<string, string>()): Map<string, string> {
  for (const entry of readdirSync(join(folder, below), { withFileTypes: true })) {
    const name = join(below, entry.name);
    const path = join(folder, name);
    if (entry.isFile()) found.set(name, Bun.hash(readFileSync(path)).toString(16));
    else if (entry.isSymbolicLink()) found.set(name, `link to ${readlinkSync(path)}`);
    else found.set(name, entry.isDirectory() ? "folder" : "other");
    if (entry.isDirectory()) listing(folder, name, found);
  }
  return found;
}

export function changedInputs(
  before: ReadonlyMap<string, string>,
  after: ReadonlyMap<string, string>,
  { changes }: Kind,
) {
  for (const [path, what] of before) {
    if (changes?.test(path) && after.has(path)) continue;
    if (after.get(path) !== what) return `${path} is ${after.has(path) ? "changed" : "gone"}`;
  }
  const more = [...after.keys()].find((path) => !before.has(path) && !changes?.test(path));
  return more === undefined ? null : `${more} was left among the inputs`;
}

const temporary = /\.(tmp|old|new)(-\d+|$)/;

/** Whether the line on stderr is a proper refusal; notes may precede it. */
export function wrongRefusal(err: string, code: number, folders: Folders, kind: Kind, file: string): string | null {
  if (!err.endsWith("\n")) return "its message does not end in a newline";
  const lines = err
    .slice(0, -1)
    .split("\n")
    .filter((line) => !line.startsWith("note: "));
  if (lines.length !== 1 && !(kind.manyLines && lines.length > 0)) return `${lines.length} lines on stderr`;
  for (const line of lines) {
    const wrong = wrongLine(line, code, folders, kind, file);
    if (wrong !== null) return wrong;
  }
  return null;
}

function wrongLine(line: string, code: number, folders: Folders, kind: Kind, file: string): string | null {
  if (!/^grpo \w+: /.test(line)) return `not a line of grpo: ${line.slice(0, 200)}`;
  if (/this is a bug in grpo/.test(line)) return "an unexpected failure";
  if (line.length > 4200) return `a line of ${line.length} characters`;
  if (/\p{Cc}/u.test(line)) return "control characters in its message";
  const named = line.includes(basename(file)) || line.includes(folders.input) || kind.names?.test(line);
  if (code === 2 && !named) return `it does not name ${file}`;
  return null;
}

const text = (value: unknown): string => JSON.stringify(value) ?? "nothing";

function attempt<T>(work: () => T): { readonly value: T } | null {
  try {
    return { value: work() };
  } catch {
    return null;
  }
}

interface Sound {
  readonly result: unknown;
  readonly essence: { readonly value: unknown } | null;
}
const soundResults = new Map<string, Sound>();

async function commandsRun(kind: Kind, folders: Folders, file: string): Promise<Ended[]> {
  const ended: Ended[] = [];
  for (const argv of kind.commands(folders, file)) {
    const one = await grpoHere(argv);
    ended.push(one);
    if (one.code !== 0) break;
  }
  return ended;
}

/** Fresh folders for a case; `content` replaces `file`. */
function prepared(kind: Kind, files: Files, sound: string, work: string, file: string, content: Content): Folders {
  rmSync(work, { recursive: true, force: true });
  const folders = { sound, input: join(work, "in"), output: join(work, "out") };
  for (const folder of [folders.input, folders.output]) mkdirSync(folder, { recursive: true });
  for (const [path, bytes] of files)
    put(join(folders.input, path), path === file ? content : bytes, join(sound, kind.name, path));
  return folders;
}

/** The program's results for the kind's valid files, computed once for each file that may be damaged. */
async function soundResult(kind: Kind, files: Files, sound: string, work: string, file: string): Promise<Sound> {
  const key = `${kind.name}\0${file}`;
  const known = soundResults.get(key);
  if (known !== undefined) return known;
  const folders = prepared(kind, files, sound, work, file, files.get(file)!);
  const ended = await commandsRun(kind, folders, file);
  const last = ended.at(-1)!;
  if (last.code !== 0) throw new Error(`${kind.name}: sound files are refused: ${last.err}`);
  const result = kind.result(folders, ended, file);
  const wrong = kind.wrong?.(result, folders, result, file) ?? null;
  if (wrong !== null) throw new Error(`${kind.name}: the result on sound files: ${wrong}`);
  const essence = kind.essence ? { value: kind.essence(folders, file) } : null;
  const kept = { result, essence };
  soundResults.set(key, kept);
  return kept;
}

function wrongResult(kind: Kind, folders: Folders, ended: readonly Ended[], drawn: Drawn, whole: Sound): string | null {
  const { file, neutral, content } = drawn;
  if (!neutral && !(content instanceof Uint8Array) && content !== "absent" && !kind.changes)
    return "exit status 0, but the input is not a file";
  let result: unknown;
  try {
    result = kind.result(folders, ended, file);
  } catch (error) {
    return `exit status 0, and no result that can be read: ${String(error)}`;
  }
  const essence = attempt(() => kind.essence?.(folders, file));
  const alike =
    neutral || (whole.essence !== null && essence !== null && text(essence.value) === text(whole.essence.value));
  if (alike && text(result) !== text(whole.result))
    return `the values read are the same, but the result differs: ${text(result).slice(0, 200)}`;
  try {
    return kind.wrong?.(result, folders, whole.result, file) ?? null;
  } catch (error) {
    return `exit status 0, and its input cannot be read: ${String(error)}`;
  }
}

/** Runs one case in `work`, which is emptied first; `sound` holds the valid inputs. */
export async function runCase(
  name: CaseName,
  sound: string,
  work: string,
  onStart: (damage: string, steps: number) => void,
): Promise<Verdict> {
  const kind = kindOf(name.kind);
  const files = filesOf(kind, sound);
  const drawn = draw(kind, files, name);
  const { file, content, neutral } = drawn;
  const whole = await soundResult(kind, files, sound, work, file);
  const folders = prepared(kind, files, sound, work, file, content);
  const before = listing(folders.input);
  const damage = `${kind.name}/${file}: ${drawn.names.join(", ")}`;
  onStart(damage, drawn.steps);
  const ended = await commandsRun(kind, folders, file);
  const { code, err } = ended.at(-1)!;
  let problem: string | null;
  if (code === 0) problem = wrongResult(kind, folders, ended, drawn, whole);
  else if ((code === 2 || (code === 1 && kind.fails?.test(err))) && !neutral)
    problem = wrongRefusal(err, code, folders, kind, file);
  else problem = neutral ? "harmless, and refused" : `exit status ${code}`;
  problem ??= changedInputs(before, listing(folders.input), kind);
  const left = [...listing(folders.output).keys(), ...listing(folders.input).keys()].find((path) =>
    temporary.test(path),
  );
  problem ??= left === undefined ? null : `${left} was left behind`;
  return { damage, steps: drawn.steps, problem, code, said: err.slice(0, 1500) };
}
