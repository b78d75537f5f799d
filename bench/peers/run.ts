/**
 * `bun bench/peers/run.ts PEER …`: another program and ours in turn on this machine, with the same weights, prompts and settings:
 * ratios, and the peak memory of both. The other program is a script beside this file, run by the user's Python, in which it
 * must be installed; `requirements*.txt` have the versions. Nothing here is part of the executable.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundledProblems } from "../../src/api/bundled.ts";
import { kindOf } from "../../src/config/allowed.ts";
import { splitArguments } from "../../src/config/arguments.ts";
import { describeShape } from "../../src/config/help.ts";
import type { SettingTypes } from "../../src/config/schema.ts";
import { engineSettings } from "../../src/config/settings/engine.ts";
import { choice, text, toggle, whole } from "../../src/config/settings/kinds.ts";
import { complete, type Given, readValue, unknownName } from "../../src/config/shape.ts";
import { loadDataset } from "../../src/data/load.ts";
import { errorText, InputError, RunError } from "../../src/errors.ts";
import { digits, percent } from "../figures.ts";
import { median } from "../measure.ts";
import { programWords } from "../suites/startup.ts";
import { type Outcome, type Peer, type PeerFlags, peers } from "./peers.ts";

const settings = {
  model: text(null, "FOLDER")`The model's folder, which both load. Needed by all but torch's ops.`,
  gguf: text(
    null,
    "FILE",
  )`llama: the same model as a GGUF file, for architectures other than Llama. null: made from the model's folder.`,
  data: text(
    null,
    "FILE",
  )`trl: problems with question and answer, in any format that train reads. null: the bundled ones.`,
  python: text("python3", "PROGRAM")`The Python that has the peer's packages.`,
  device: choice(["cpu", "cuda"], "cpu")`Where both compute.`,
  dtype: choice(["float32", "bfloat16"], "bfloat16")`Number format of our run.`,
  peer_dtype: choice(["float32", "bfloat16"], null)`Of the peer's, if another one is faster there. null: the same.`,
  threads: engineSettings.threads,
  prompts: whole(1, 4)`Prompts of a step or rollout.`,
  num_generations: whole(1, 8)`Completions of each prompt.`,
  prompt_tokens: whole(1, 64)`Tokens of each prompt; trl takes them from the problems.`,
  max_completion_length: whole(2, 64)`Tokens of a completion, at most (trl) or exactly.`,
  max_steps: whole(1, 1)`trl: steps timed, after one that warms up.`,
  rounds: whole(1, 1)`How often both run; the order is reversed each time.`,
  json: toggle(false)`Print one JSON object instead of the table.`,
};

export const usage = `Usage: bun bench/peers/run.ts PEER [--key value ...]

Peers:
${Object.entries(peers)
  .map(([name, { summary }]) => `  ${name.padEnd(13)} ${summary}`)
  .join("\n")}

${describeShape(settings)}`;

/** @throws InputError for an unknown peer or flag, or a flag that the peer needs */
export function readPeerFlags(argv: readonly string[]): { readonly name: string; readonly flags: PeerFlags } {
  const known: SettingTypes = settings;
  const split = splitArguments(argv, (key) => (Object.hasOwn(known, key) ? kindOf(known[key]!) : undefined));
  const [name, extra] = split.positionals;
  const names = Object.keys(peers);
  if (name === undefined || !names.includes(name) || extra !== undefined)
    throw new InputError(`${JSON.stringify(extra ?? name ?? "")}: give one peer of ${names.join(", ")}; see --help`);
  const given = new Map<string, Given>();
  for (const { key, label, value } of split.flags) {
    if (!Object.hasOwn(known, key)) throw unknownName("peers", key, Object.keys(known), value, "flag", label);
    given.set(key, readValue(known, key, value, "flag", label));
  }
  const flags = complete(settings, given) as unknown as PeerFlags;
  for (const key of peers[name]!.needs)
    if (flags[key] === null) throw new InputError(`--${key}: ${name} needs it; see bun bench/peers/run.ts --help`);
  if (peers[name]!.gpuOnly && flags.device !== "cuda")
    throw new InputError(`${name}: runs on a GPU only; add --device cuda`);
  return { name, flags };
}

/** @throws InputError if Python is missing, or a package in it, with the command that installs it */
export function requirePackages(
  python: string,
  { packages, requirements }: Pick<Peer, "packages" | "requirements">,
): string[] {
  const list = join(import.meta.dir, requirements);
  const cure = `python3 -m venv peers && peers/bin/pip install -r ${list}, then --python peers/bin/python`;
  if (!Bun.which(python))
    throw new InputError(`--python ${python}: no such program; install it with the peer's packages: ${cure}`);
  const probe = `import importlib.metadata as m
for name in ${JSON.stringify(packages)}: print(name, m.version(name))`;
  const { success, stdout, stderr } = Bun.spawnSync([python, "-c", probe]);
  if (success) return stdout.toString().trim().split("\n");
  const missing = stderr.toString().trim().split("\n").at(-1);
  throw new InputError(`--python ${python}: lacks packages of the peer (${missing}); ${cure}`);
}

/** A program's last line as JSON, and the most memory that it held. @throws RunError with the end of what it said */
async function runJson(command: readonly string[], input: string | null): Promise<Outcome> {
  const child = Bun.spawn([...command], {
    stdin: input === null ? "ignore" : new Blob([input]),
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, HF_HUB_OFFLINE: "1", TOKENIZERS_PARALLELISM: "false" },
  });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const said = err.trim().split("\n").slice(-5).join("\n");
  if (child.exitCode !== 0)
    throw new RunError(`${command.slice(0, 3).join(" ")} … ended with ${child.exitCode}: ${said}`);
  const { maxRSS } = child.resourceUsage()!;
  return { report: JSON.parse(out.trimEnd().split("\n").at(-1)!), peakMiB: maxRSS / 2 ** 20 };
}

/** The problems as JSON Lines, which both read. */
async function problemsFile(data: string | null, folder: string): Promise<string> {
  const dataset = await loadDataset(data ?? bundledProblems());
  const path = join(folder, "problems.jsonl");
  const rows = Array.from({ length: Math.min(dataset.numRows, 1000) }, (_, i) => {
    const { question, answer } = dataset.row(i);
    if (typeof question !== "string" || typeof answer !== "string")
      throw new InputError(`${data}: row ${i} has no question and answer as text`);
    return JSON.stringify({ question, answer });
  });
  dataset.close();
  writeFileSync(path, `${rows.join("\n")}\n`);
  return path;
}

export async function main(argv: readonly string[]): Promise<void> {
  if (argv.length === 0 || argv.includes("--help")) {
    process.stdout.write(`${usage}\n`);
    return;
  }
  const { name, flags } = readPeerFlags(argv);
  const peer = peers[name]!;
  const versions = requirePackages(flags.python, peer);
  const folder = mkdtempSync(join(tmpdir(), "grpo-peers-"));
  try {
    const problems = peer.readsProblems ? await problemsFile(flags.data, folder) : null;
    const own = () => runJson([...programWords(), "bench", ...peer.ours(flags, problems), "--json"], null);
    const outcomes: { readonly ours: Outcome[]; readonly theirs: Outcome[] } = { ours: [], theirs: [] };
    for (let round = 0; round < flags.rounds; round++) {
      const turns = round % 2 === 0 ? (["ours", "theirs"] as const) : (["theirs", "ours"] as const);
      for (const turn of turns) {
        process.stderr.write(`round ${round + 1} of ${flags.rounds}: ${turn === "ours" ? "ours" : name}\n`);
        if (turn === "ours") outcomes.ours.push(await own());
        else {
          // What is asked of the peer may depend on what ours has measured: the sizes of its products.
          const first = outcomes.ours[0] ?? (await own());
          const script = [flags.python, join(import.meta.dir, peer.script)];
          const { args, input = null } = peer.theirs(flags, first, problems);
          outcomes.theirs.push(await runJson([...script, ...args], input));
        }
      }
    }
    const rows = peer.rows(outcomes.ours, outcomes.theirs);
    const memory = {
      ours: Math.max(...outcomes.ours.map(({ peakMiB }) => peakMiB)),
      theirs: Math.max(...outcomes.theirs.map(({ peakMiB }) => peakMiB)),
    };
    if (flags.json) {
      const { python: _, json: __, ...used } = flags;
      process.stdout.write(`${JSON.stringify({ peer: name, versions, settings: used, rows, memory })}\n`);
      return;
    }
    const line = (cells: readonly string[]) =>
      process.stdout.write(
        `${cells[0]!.padEnd(56)} ${cells
          .slice(1)
          .map((cell) => cell.padStart(17))
          .join(" ")}\n`,
      );
    line([versions.join(", "), "ours", name, "times better", "our share of peak"]);
    for (const { what, unit, better, ours, theirs, shares } of rows) {
      const [a, b] = [median(ours), median(theirs)];
      const share = shares === undefined ? "" : percent(median(shares));
      line([`${what}, ${unit}`, digits(a), digits(b), (better === "more" ? a / b : b / a).toFixed(2), share]);
    }
    const { ours, theirs } = memory;
    line(["memory of the process at its peak, MiB", digits(ours), digits(theirs), (theirs / ours).toFixed(2), ""]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (import.meta.main)
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`bench/peers: ${errorText(error)}\n`);
    process.exit(error instanceof InputError ? 2 : 1);
  }
