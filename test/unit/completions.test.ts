/** `grpo completions`: the scripts in the real shells, where these are installed; what they offer is the schema's. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { completions } from "../../src/cli/completions.ts";
import { commands, main } from "../../src/cli/main.ts";
import { commandWords } from "../../src/cli/shells/words.ts";
import { commandSections, settingsOf } from "../../src/config/schema.ts";
import { InputError } from "../../src/errors.ts";

const work = mkdtempSync(join(tmpdir(), "grpo-completions-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));
const script = (shell: string) => join(work, `grpo.${shell}`);

beforeAll(async () => {
  mkdirSync(join(work, "models"));
  for (const name of ["run.toml", "run.yaml", "notes.txt", "odd name.toml"]) writeFileSync(join(work, name), "");
  for (const shell of ["bash", "zsh", "fish"]) {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../src/cli/main.ts"), "completions", shell], {
      stderr: "inherit",
    });
    writeFileSync(script(shell), await child.stdout.text());
    expect(await child.exited).toBe(0);
  }
});

/** What a shell offers for a line that ends where the cursor is. */
type Complete = (line: string) => Promise<string[]>;

async function output(command: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const child = Bun.spawn([...command], { cwd: work, env: { ...process.env, ...env }, stderr: "inherit" });
  return child.stdout.text();
}

const bash: Complete = async (line) => {
  const words = line.split(/ |(?<=[=:])|(?=[=:])/);
  const array = words.map((word) => `'${word}'`).join(" ");
  const program = `source ${script("bash")}; COMP_WORDS=(${array}); COMP_CWORD=${words.length - 1}; _grpo; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return (await output(["bash", "--norc", "-c", program])).split("\n").filter((each) => each !== "");
};

const fish: Complete = async (line) => {
  const program = `source ${script("fish")}; complete -C '${line}'`;
  const home = { HOME: work, XDG_CONFIG_HOME: work, XDG_DATA_HOME: work };
  return (await output(["fish", "--private", "-c", program], home))
    .split("\n")
    .map((each) => each.split("\t")[0]!.replaceAll("\\ ", " "))
    .filter((each) => each !== "");
};

/** zsh completes only in its line editor: a terminal, in which one more Tab lists what is offered. */
const zsh: Complete = async (line) => {
  let shown = "";
  const say = (_: unknown, bytes: Uint8Array): void => {
    shown += new TextDecoder().decode(bytes);
  };
  const child = Bun.spawn(["zsh", "-f", "-i"], {
    cwd: work,
    env: { ...process.env, PS1: "READY ", TERM: "dumb", ZDOTDIR: work },
    terminal: { cols: 200, rows: 400, data: say },
  });
  const terminal = child.terminal!;
  const until = async (pattern: RegExp): Promise<void> => {
    for (let i = 0; i < 400 && !pattern.test(shown); i++) await Bun.sleep(25);
    if (!pattern.test(shown)) throw new Error(`zsh: no ${pattern} in ${JSON.stringify(shown)}`);
  };
  terminal.write(
    `setopt no_beep; autoload -U compinit; compinit -u -D; source ${script("zsh")}; LISTMAX=0; ` +
      `` +
      `compadd() { builtin compadd -O __found "$@"; (( $#__found )) && print -rl -- $__found >> ${work}/zsh-found; builtin compadd "$@" }; ` +
      `print DO''NE\n`,
  );
  await until(/DONE/);
  writeFileSync(join(work, "zsh-found"), "");
  terminal.write(`${line}\t`);
  await Bun.sleep(300);
  for (let i = 0; i < 40 && Bun.file(join(work, "zsh-found")).size === 0; i++) await Bun.sleep(50);
  terminal.write("\x03exit\n");
  child.kill("SIGKILL"); // an interactive shell heeds nothing less
  await child.exited;
  const found = await Bun.file(join(work, "zsh-found")).text();
  return [
    ...new Set(
      found
        .replaceAll("\\ ", " ")
        .split("\n")
        .filter((each) => each !== ""),
    ),
  ];
};

const shells = { bash, zsh, fish } as const;

for (const [shell, complete] of Object.entries(shells)) {
  const isHere = Bun.which(shell) !== null;
  if (!isHere) console.warn(`note: ${shell} is not installed here: its completions are not tried`);
  describe.skipIf(!isHere)(shell, () => {
    const has = (offered: readonly string[], expected: readonly string[]) => {
      for (const word of expected) expect(offered).toContain(word);
    };

    test("commands", async () => {
      const names = commands.map(({ name }) => name).filter((name) => !name.includes(":"));
      has(await complete("grpo "), names);
      const few = await complete("grpo ge");
      expect(few).toContain("generate");
      if (shell !== "zsh") expect(few).toEqual(["generate"]);
    });

    test("settings of the command, and no other's", async () => {
      const flags = await complete("grpo train --");
      has(flags, ["--learning_rate", "--reward_funcs", "--no_shuffle_dataset", "--help"]);
      expect(flags).not.toContain("--benchmark");
      has(await complete("grpo eval --b"), ["--benchmark"]);
      has(await complete("grpo verify --"), ["--verifier"]);
    });

    test("the names that a setting has", async () => {
      const losses = await complete("grpo train --loss_type ");
      has(losses, ["dapo", "cispo", "grpo"]);
      expect(losses).not.toContain("run.toml");
      has(await complete("grpo train --lr_scheduler_type cosine_w"), ["cosine_with_restarts"]);
      has(await complete("grpo train --reward_funcs "), ["gsm8k", "math"]);
    });

    test("configuration files after the command, folders after a folder's setting", async () => {
      const files = await complete("grpo train ");
      has(files, ["run.toml", "run.yaml", "odd name.toml"]);
      expect(files).not.toContain("notes.txt");
      const folders = (await complete("grpo train --output_dir ")).map((name) => name.replace(/\/$/, ""));
      expect(folders).toContain("models");
      expect(folders).not.toContain("run.toml");
      has(await complete("grpo generate --input "), ["notes.txt"]);
    });

    test("words of a command", async () => {
      has(await complete("grpo completions "), ["bash", "zsh", "fish"]);
      has(await complete("grpo data "), ["convert", "info", "download"]);
    });
  });
}

test.skipIf(Bun.which("bash") === null)(
  "bash: --key=value, dashes inside names, and the command with a colon",
  async () => {
    expect(await bash("grpo train --loss_type=da")).toEqual(["dapo"]);
    expect(await bash("grpo train --loss-type da")).toEqual(["dapo"]);
    expect(await bash("grpo check:")).toEqual(["gpu"]);
    expect(await bash("grpo check:gpu --qu")).toEqual(["--quick"]);
  },
);

test("every setting of every command is offered, and every enumeration's values", async () => {
  const words = await commandWords(commands);
  for (const command of Object.keys(commandSections) as (keyof typeof commandSections)[]) {
    const { flags } = words.find(({ name }) => name === command)!;
    const names = flags.map(({ name }) => name);
    for (const key of Object.keys(settingsOf(command))) expect(names).toContain(`--${key}`);
  }
  const device = words[0]!.flags.find(({ name }) => name === "--device")!;
  expect(device.value).toEqual({ kind: "words", words: ["auto", "cpu", "cuda"], files: false });
});

test("an unknown shell is refused", async () => {
  expect(Promise.resolve(completions.run(["bahs"]))).rejects.toThrow(InputError);
  let err = "";
  const streams = {
    out: () => {},
    err(text: string) {
      err += text;
    },
  };
  expect(await main(["completions", "bahs"], commands, streams)).toBe(2);
  expect(err).toBe('grpo completions: "bahs" is not a shell that is known here; did you mean bash?\n');
});
