/** The frame around commands: help, version, unknown words, failures, exit statuses, and how the process ends. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import type { Command } from "../../src/cli/command.ts";
import { type CommandEntry, commands, main } from "../../src/cli/main.ts";
import { InputError, InputErrors, RunError } from "../../src/errors.ts";

const root = resolve(import.meta.dir, "../..");
const mainFile = join(root, "src/cli/main.ts");

function entry(name: string, run: Command["run"]): CommandEntry {
  return {
    name,
    summary: `does ${name}`,
    load: async () => ({ usage: `Usage: grpo ${name}`, run }),
  };
}

async function run(argv: readonly string[], table: readonly CommandEntry[]) {
  let out = "";
  let err = "";
  const code = await main(argv, table, {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
  });
  return { code, out, err };
}

const fails = (error: unknown) => [
  entry("train", async () => {
    throw error;
  }),
];

describe("the table", () => {
  test("has the commands of the interface, each loaded from its own file under its own name", async () => {
    const names =
      "train sft eval generate score update show init completions verify data push export plan doctor bench check:gpu".split(
        " ",
      );
    expect(commands.map(({ name }) => name)).toEqual(names);
    for (const { name, load } of commands) {
      const { usage } = await load();
      expect(usage.match(/^Usage: grpo (\S+)/)?.[1]).toBe(name);
    }
  });

  test("has a script of the same name in package.json", () => {
    const scripts: Record<string, string> = packageJson.scripts;
    for (const { name } of commands) expect(scripts[name]).toBe(`bun src/cli/main.ts ${name}`);
  });
});

describe("help and version", () => {
  const table = [entry("train", async () => {}), entry("plan", async () => {})];

  test("--help and help list every command; no arguments are bad usage", async () => {
    const { code, out, err } = await run(["--help"], table);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(out).toContain("  train  does train\n  plan   does plan\n");
    expect((await run(["help"], table)).out).toBe(out);
    expect(await run([], table)).toEqual({ code: 2, out: "", err: out });
  });

  test("a command's help does not run it", async () => {
    const table = fails(new Error("was run"));
    for (const argv of [
      ["train", "--help"],
      ["train", "--seed", "1", "-h"],
      ["help", "train"],
    ]) {
      expect(await run(argv, table)).toEqual({ code: 0, out: "Usage: grpo train\n", err: "" });
    }
    expect((await run(["train", "--", "--help"], table)).code).toBe(1);
  });

  test("--version prints the package's version and the checked-out commit", async () => {
    const { code, out } = await run(["--version"], table);
    const commit = Bun.which("git") ? "(commit [0-9a-f]{12}(-modified)?, )?" : "";
    expect(out).toMatch(new RegExp(`^grpo ${packageJson.version} \\(${commit}bun ${Bun.version}\\)\n$`));
    expect(code).toBe(0);
  });
});

describe("endings", () => {
  test("a command's arguments and its status are passed through", async () => {
    let seen: readonly string[] = [];
    const table = [
      entry("train", async (argv) => {
        seen = argv;
        return 130;
      }),
      entry("plan", async () => {}),
    ];
    expect(await run(["train", "a.toml", "--seed", "1"], table)).toEqual({ code: 130, out: "", err: "" });
    expect(seen).toEqual(["a.toml", "--seed", "1"]);
    expect((await run(["plan"], table)).code).toBe(0);
  });

  test("an error of the system is one line and not a bug, wherever it occurs", async () => {
    const denied = Object.assign(new Error("EACCES: permission denied, scandir 'theirs'"), {
      ...{ code: "EACCES", path: "theirs", syscall: "scandir" },
    });
    const { code, err } = await run(["train"], fails(denied));
    expect(code).toBe(1);
    expect(err).toBe("grpo train: theirs: permission is denied; check its owner and permissions (EACCES, scandir)\n");
    const missing = Object.assign(new Error("ENOENT"), { code: "ENOENT", path: "x", syscall: "open" });
    expect((await run(["train"], fails(missing))).err).toContain("bug in grpo");
  });

  test("an unknown command is refused with the closest one", async () => {
    const table = [entry("train", async () => {}), entry("eval", async () => {})];
    expect(await run(["trian"], table)).toEqual({
      code: 2,
      out: "",
      err: 'grpo: "trian" is not a command; did you mean train?\n',
    });
    expect((await run(["zzzzzz"], table)).err).toBe('grpo: "zzzzzz" is not a command; there are train, eval\n');
    expect((await run(["__proto__"], table)).code).toBe(2);
    expect((await run(["--seed"], table)).code).toBe(2);
  });

  test("bad input: status 2 and one line, also for a message with line breaks; the stack only with --debug", async () => {
    const table = fails(new InputError("model.safetensors: torn\n  at byte 7"));
    const plain = await run(["train"], table);
    expect(plain).toEqual({ code: 2, out: "", err: "grpo train: model.safetensors: torn at byte 7\n" });
    const debug = await run(["train", "--debug"], table);
    expect(debug.code).toBe(2);
    expect(debug.err).toStartWith(plain.err);
    expect(debug.err).toContain("cli-main.test.ts");
    const several = fails(
      new InputErrors([new InputError("--beta x: wrong"), new InputError("run.yaml:3: seed: wrong")]),
    );
    const err = "grpo train: --beta x: wrong\ngrpo train: run.yaml:3: seed: wrong\n";
    expect(await run(["train"], several)).toEqual({ code: 2, out: "", err });
    expect((await run(["train", "--debug"], several)).err).toStartWith(err);
  });

  test("a failed run: status 1 and one line; its cause shows with --debug", async () => {
    const table = fails(new RunError("disk full", { cause: new Error("ENOSPC") }));
    expect(await run(["train"], table)).toEqual({ code: 1, out: "", err: "grpo train: disk full\n" });
    expect((await run(["train", "--debug"], table)).err).toContain("ENOSPC");
  });

  test("anything else is reported as a bug and shows its stack", async () => {
    const { code, err } = await run(["train"], fails(new TypeError("x is undefined")));
    expect(code).toBe(1);
    expect(err).toStartWith("grpo train: x is undefined (this is a bug");
    expect(err).toContain("cli-main.test.ts");
    expect((await run(["train"], fails("a string"))).err).toStartWith("grpo train: a string (this is a bug");
  });

  test("a command file that does not load does not crash", async () => {
    const broken: CommandEntry = {
      name: "train",
      summary: "",
      load: () => Promise.reject(new Error("no such module")),
    };
    expect((await run(["train"], [broken])).code).toBe(1);
  });
});

describe("the process", () => {
  const folder = mkdtempSync(join(tmpdir(), "grpo-main-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** A program with one command, `go`, whose body is `source`. */
  function program(name: string, source: string, makesFiles = false): string {
    const path = join(folder, `${name}.ts`);
    writeFileSync(
      path,
      `import { runProcess } from ${JSON.stringify(mainFile)};
       import { InputError } from ${JSON.stringify(join(root, "src/errors.ts"))};
       const run = async () => { void InputError; ${source} };
       await runProcess([{ name: "go", summary: "", makesFiles: ${makesFiles}, load: async () => ({ usage: "", run }) }]);`,
    );
    return path;
  }

  async function spawn(command: string) {
    const child = Bun.spawn(["bash", "-c", `set -o pipefail; ${command}`], { stdout: "pipe", stderr: "pipe" });
    const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    return { out, err, code };
  }

  const bun = process.execPath;

  /** The files loaded by a file's static imports, with packages by name. */
  function loadedAtStart(file: string, seen = new Set<string>()): string[] {
    if (seen.has(file)) return [];
    seen.add(file);
    if (file.endsWith(".ts")) {
      const imports = new Bun.Transpiler({ loader: "ts" }).scanImports(readFileSync(file, "utf8").replace(/^#!.*/, ""));
      for (const { path, kind } of imports) {
        if (kind === "import-statement")
          loadedAtStart(path.startsWith(".") ? resolve(dirname(file), path) : path, seen);
      }
    }
    return [...seen].sort();
  }

  test("the list of commands is available without loading any of them or the schema", async () => {
    const { out, code } = await spawn(`cd ${root} && ${bun} src/cli/main.ts --help`);
    expect(code).toBe(0);
    expect(out).toContain("doctor");
    expect(loadedAtStart(mainFile)).toEqual(
      ["src/cli/main.ts", "src/config/nearest.ts", "src/errors.ts", "src/program.ts", "node:path", "package.json"]
        .map((path) => (path.startsWith("node:") ? path : join(root, path)))
        .sort(),
    );
  });

  test("everything written reaches a slow reader, and an open handle does not keep the process alive", async () => {
    const path = program(
      "linger",
      `setInterval(() => {}, 1000); process.stdout.write("z".repeat(2_000_000)); return 3;`,
    );
    const { out, code } = await spawn(`${bun} ${path} go | (sleep 0.3; wc -c)`);
    expect({ bytes: Number(out), code }).toEqual({ bytes: 2_000_000, code: 3 });
  });

  test("a reader that leaves ends a command quietly", async () => {
    const path = program(
      "flood",
      `for (let i = 0; i < 1e6; i++) { process.stdout.write("line " + i + "\\n"); if (i % 500 === 0) await new Promise((r) => setImmediate(r)); }
       process.stderr.write("went on to the end");`,
    );
    expect(await spawn(`${bun} ${path} go | head -1`)).toEqual({ out: "line 0\n", err: "", code: 0 });
  });

  test("a reader that leaves a command that writes files is reported once, and the command runs to its end", async () => {
    const path = program(
      "makes",
      `for (let i = 0; i < 20; i++) { process.stdout.write("step\\n".repeat(500)); await Bun.sleep(1); }
       process.stderr.write("saved"); return 0;`,
      true,
    );
    const err = "grpo go: stdout is closed (EPIPE): it goes on without stdout and still writes its files\nsaved";
    expect(await spawn(`${bun} ${path} go | head -1`)).toEqual({ out: "step\n", err, code: 0 });
  });

  test("an exception outside the command's own call ends it the same way", async () => {
    const late = program("late", `setTimeout(() => { throw new InputError("late"); }, 1); await Bun.sleep(2000);`);
    expect(await spawn(`${bun} ${late} go`)).toEqual({ out: "", err: "grpo go: late\n", code: 2 });
    const rejected = program("rejected", `void Promise.reject(new TypeError("oops")); await Bun.sleep(2000);`);
    const { err, code } = await spawn(`${bun} ${rejected} go`);
    expect(code).toBe(1);
    expect(err).toStartWith("grpo go: oops (this is a bug");
  });
});
