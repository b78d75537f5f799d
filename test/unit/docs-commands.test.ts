/**
 * Every command in README, CONTRIBUTING and docs/: one of this program is given to the parser of its flags (names, values, what
 * contradicts what, without the files it names), a script of this repository must exist, and of any other program a table says
 * why it is not looked at. Links between the pages lead somewhere.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { readCommandLine } from "../../bench/flags.ts";
import { suites } from "../../bench/main.ts";
import packageJson from "../../package.json" with { type: "json" };
import { readFlags } from "../../src/cli/flags.ts";
import { commands } from "../../src/cli/main.ts";
import { isConfigName } from "../../src/config/arguments.ts";
import { describeTopic } from "../../src/config/help.ts";
import { configFor } from "../../src/config/load.ts";
import { commandsOf, pages, pageText, root, type Shown, shownIn } from "./docs-commands.ts";

/** Programs of others, and of the shell: why nothing of them is checked. */
const notOurs: Readonly<Record<string, string>> = {
  export: "sets variables of the shell",
  cd: "the shell's own",
  source: "reads what another command of the line prints, which is checked",
  cat: "shows a file of the transcript",
  head: "shows a file of the transcript",
  tail: "shows a file of the transcript",
  ls: "shows a folder of the transcript",
  sh: "pack/unpack is made by bun run pack; test/e2e/pack.long.ts runs it",
  bash: ".ci/run is what CI runs",
  git: "git's own flags",
  nproc: "of coreutils",
  mpirun: "of Open MPI and MPICH; test/mpi/ranks.long.ts runs the program under both",
  hf: "of huggingface_hub; test/e2e/hub-python.test.ts uses it on the same cache where it is installed",
  rm: "of coreutils",
  bunx: "Bun's; test/e2e/package.test.ts runs the package's command",
  nohup: "starts the command after it, which the text shows in full elsewhere",
  ssh: "of OpenSSH",
  tensorboard: "of Python; test/e2e/trackers-python.test.ts runs TensorBoard on a run's files where it is installed",
  wandb: "of Python; test/e2e/trackers-python.test.ts runs wandb sync where it is installed",
  python3: "makes an environment for the peers, whose versions are pinned in requirements files",
  "peers/bin/pip": "needs a network",
  "peers/bin/python": "compares llama.cpp with transformers, which have to be installed",
  pip: "needs a network",
  "nvidia-smi": "of NVIDIA's driver",
};

/** How many arguments without dashes a command without a configuration takes: at least, at most. */
const positionals: Readonly<Record<string, readonly [number, number]>> = {
  "data convert": [2, 2],
  "data info": [1, 1],
  "data download": [1, 1],
  export: [1, 1],
  push: [1, 1],
  show: [1, 9],
  verify: [0, 0],
  doctor: [0, 0],
  init: [0, 1],
  completions: [1, 1],
  "check:gpu": [0, 0],
};

const scripts: Readonly<Record<string, string>> = packageJson.scripts;
const folder = mkdtempSync(join(tmpdir(), "grpo-docs-commands-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
// Configurations that the pages name without showing them.
writeFileSync(join(folder, "any.toml"), "");

/** The command line after `grpo`, where the words start this program; null where they start another. */
function ours(words: readonly string[]): readonly string[] | null {
  const [program = "", ...rest] = words;
  if (program === "grpo" || program.endsWith("/grpo")) return rest;
  if (["exec", "srun", "time"].includes(program)) return ours(rest);
  if (program !== "bun") return null;
  if (rest[0] === "src/cli/main.ts") return rest.slice(1);
  if (rest[0] !== "run") return null;
  if (rest[1] === "emulated") return rest.slice(2);
  return scripts[rest[1]!]?.startsWith("bun src/cli/main.ts ") ? rest.slice(1) : null;
}

/** @throws what the program says to these arguments */
async function parse(argv: readonly string[]): Promise<void> {
  const [name = "", ...rest] = argv;
  if (name === "" || name === "--version" || name === "--help") return;
  if (name === "help") {
    expect(rest.every((topic) => describeTopic("train", topic) !== null || commands.some((c) => c.name === topic)));
    return;
  }
  const entry = commands.find((each) => each.name === name);
  if (entry === undefined) throw new Error(`${name}: no such command`);
  const help = rest.indexOf("--help");
  const given = rest.map((word) => (isConfigName(word) ? join(folder, "any.toml") : word));
  if (entry.settings !== undefined) {
    if (help >= 0) {
      const topic = rest[help + 1];
      if (topic !== undefined && describeTopic(entry.settings, topic) === null) throw new Error(`${topic}: no topic`);
      return;
    }
    // On a terminal, generate without a prompt is a chat.
    configFor(entry.settings, given, entry.settings === "generate" ? ({ defaults: { prompt: "" } } as object) : {});
    return;
  }
  if (help >= 0) return;
  if (name === "bench") return void readCommandLine(given, suites);
  const command = await entry.load();
  const sub = name === "data" ? [rest[0]!] : [];
  if (sub.length > 0 && !command.words?.includes(sub[0]!)) throw new Error(`data ${sub[0]}: no such subcommand`);
  const [least, most] = positionals[[name, ...sub].join(" ")]!;
  const left = rest.slice(sub.length);
  let thrown: unknown;
  for (let count = least; count <= most; count++) {
    try {
      return void readFlags(
        name,
        command.flags ?? {},
        left,
        Array.from({ length: count }, (_, i) => `WORD${i}`),
      );
    } catch (error) {
      thrown = error;
    }
  }
  throw thrown;
}

/** A script or file of this repository that is started by bun. */
function ofRepository([, first = "", second = ""]: readonly string[]): boolean {
  if (first === "run") return second in scripts;
  if (["install", "add"].includes(first)) return true;
  if (first === "test") return second === "" || existsSync(join(root, second));
  return existsSync(join(root, first)) || ["make-problems.ts", "run.ts"].includes(first);
}

/** A page that shows what the program says to a mistake marks it so. */
const onPurpose = "# wrong on purpose";

async function check({ text, words: written }: Shown): Promise<void> {
  // "…" stands for whatever else there is; npx only fetches Bun.
  const words = written.filter((word) => word !== "…");
  if (words[0] === "npx" && words[2]?.startsWith("bun@")) words.splice(0, 3, "bun");
  const argv = ours(words);
  if (argv !== null) {
    if (!text.endsWith(onPurpose)) return await parse(argv);
    return expect(parse(argv), text).rejects.toThrow();
  }
  const program = words[0]!;
  if (program === "bun") {
    if (!ofRepository(words)) throw new Error(`${words.join(" ")}: no such script or file`);
  } else if (!(program in notOurs)) throw new Error(`${program}: not a command of this program, and not in the table`);
}

describe("commands", () => {
  for (const page of pages)
    test(page, async () => {
      const wrong: string[] = [];
      for (const shown of shownIn(page)) {
        try {
          await check(shown);
        } catch (error) {
          wrong.push(`${shown.place}: ${shown.text}\n  ${(error as Error).message}`);
        }
      }
      expect(wrong).toEqual([]);
    });

  test("there are many", () => {
    expect(pages.flatMap(shownIn).filter(({ words }) => ours(words) !== null).length).toBeGreaterThan(60);
  });

  test("a wrong one is found", async () => {
    const wrong = [
      "grpo train --learning_rat 1e-5",
      "grpo train --num_generations none",
      "bun run train --loss_type gpro",
      "grpo evaluate",
      "grpo data fetch gsm8k",
      "grpo push",
      "grpo bench rolout",
      "grpo train --help nothing-of-the-kind",
      "bun no-such-file.ts",
      "somebody-elses-program",
    ];
    for (const text of wrong)
      for (const words of commandsOf(text)) expect(check({ place: "", text, words }), text).rejects.toThrow();
  });

  test("a line is taken apart as a shell does", () => {
    expect(commandsOf(`A=1 grpo eval --stop '["\\n", "#"]' # why`)).toEqual([
      ["grpo", "eval", "--stop", '["\\n", "#"]'],
    ]);
    expect(commandsOf('a "b c" > out 2> err && d | e')).toEqual([["a", "b c"], ["d"], ["e"]]);
    expect(commandsOf("source <(grpo completions bash)")).toEqual([["source"], ["grpo", "completions", "bash"]]);
  });
});

/** As GitHub makes an anchor of a heading. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .trim()
    .replaceAll(" ", "-");

test("links between pages lead to files and headings that exist", () => {
  const dead: string[] = [];
  for (const page of pages) {
    const text = pageText(page).replace(/^```.*?^```/gms, "");
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue;
      const [path = "", anchor] = target!.split("#");
      const file = path === "" ? page : join(dirname(page), path);
      if (!existsSync(join(root, file))) dead.push(`${page}: ${target}`);
      else if (anchor !== undefined && file.endsWith(".md")) {
        const anchors = [...pageText(file).matchAll(/^#+ (.*)$/gm)].map((match) => anchorOf(match[1]!));
        if (!anchors.includes(anchor)) dead.push(`${page}: ${target}`);
      }
    }
  }
  expect(dead).toEqual([]);
});
