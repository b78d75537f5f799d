/**
 * The single executable, built and run in isolation: an environment with only an empty HOME, no compiler or Bun on PATH, in a
 * folder with someone else's bunfig.toml and .env. It must give the same results as the checkout, byte for byte.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { MOST_BYTES } from "../../release/build.ts";
import { STALE_MS } from "../../src/carried.ts";
import { buildEmulator } from "../emulator/build.ts";
import { argvOf, type Finished, fingerprint, grpo, problems, root, tinyTraining, until, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);
const foreign = work.at("foreign");
const cache = work.at("home/.cache/bun-grpo");

/** If an executable runs the tests themselves (a pack), that one; else one built now. */
let executable = process.execPath;

function put(path: string, text: string): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  return path;
}

beforeAll(async () => {
  mkdirSync(work.at("home"));
  put(join(foreign, "bunfig.toml"), 'preload = ["./absent.ts"]\n');
  put(join(foreign, ".env"), "BUN_GRPO_CPU_PATH=nonsense\nBUN_GRPO_CACHE=/nonexistent/cache\n");
  put(join(foreign, "tsconfig.json"), "{ not json");
  if (process.env.BUN_BE_BUN) return;
  executable = work.at("grpo");
  const command = [process.execPath, join(root, "release/build.ts"), "--outfile", executable];
  const child = Bun.spawn(command, { cwd: root, stdout: "pipe", stderr: "pipe" });
  const [err, code] = await Promise.all([child.stderr.text(), child.exited]);
  expect({ code, err: err.replace(/^compiling .*\n/, "") }).toEqual({ code: 0, err: "" });
});

/** If the tests run on a particular instruction path, so does the executable: it is compared with the checkout byte for byte. */
const { BUN_GRPO_CPU_PATH: forcedPath } = process.env;

function start(argv: readonly string[], env: Record<string, string> = {}, command: readonly string[] = [executable]) {
  return Bun.spawn([...command, ...argv], {
    cwd: foreign,
    env: { HOME: work.at("home"), PATH: "", ...(forcedPath ? { BUN_GRPO_CPU_PATH: forcedPath } : {}), ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

async function ended(child: ReturnType<typeof start>): Promise<Finished> {
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out, err, code: child.exitCode, signal: child.signalCode };
}

const run = (...args: Parameters<typeof start>): Promise<Finished> => ended(start(...args));

/** The executable's messages name no other program. */
async function expectRuns(...args: Parameters<typeof start>): Promise<string> {
  const { out, err, code } = await run(...args);
  expect({ code, err }).toEqual({ code: 0, err: expect.not.stringMatching(/bug in grpo|bun run|error/i) });
  expect(out).not.toMatch(/bun run|src\/cli/);
  return out;
}

/** Names of everything in the cache, without the folders' contents. */
const cached = () => (existsSync(cache) ? readdirSync(cache).sort() : []);

const steps = ["--device", "cpu", "--max_steps", "1", "--eval_samples", "8"];

test("is small enough for a download, and prints its version and commit", async () => {
  expect(statSync(executable).size).toBeLessThanOrEqual(MOST_BYTES);
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const commit = existsSync(join(root, ".git")) ? "commit [0-9a-f]{12}(-modified)?, " : "(commit .*, )?";
  expect(await expectRuns(["--version"])).toMatch(new RegExp(`^grpo ${version} \\(${commit}bun ${Bun.version}\\)\\n$`));
  expect(await expectRuns(["--help"])).toContain("check:gpu");
  expect(cached()).toEqual([]); // neither needs a file from it
});

test("the stack of a failure names the files of the sources", async () => {
  const { err, code } = await run(["plan", "--model", "/nonexistent", "--debug"]);
  expect(code).toBe(2);
  expect(err).toMatch(/\n +at .*\(src\/cli\/plan\.ts:\d+:\d+\)/);
});

test("two first starts at once train the same weights as the checkout, and extract everything once", async () => {
  const started = ["a", "b"].map((name) => run(["train", ...steps, "--output_dir", work.at(name)]));
  const plain = grpo(["train", ...steps, "--output_dir", work.at("checkout")]);
  for (const { code, err } of await Promise.all([...started, plain]))
    expect({ code, err }).toEqual({ code: 0, err: expect.not.stringContaining("compiling") });
  for (const { out } of await Promise.all(started)) expect(out).toContain("data/model on data/problems/train.arrow · ");
  const wanted = fingerprint(work.at("checkout"), "model.safetensors");
  for (const name of ["a", "b"]) expect(fingerprint(work.at(name), "model.safetensors")).toBe(wanted);
  expect(cached()).toEqual([expect.stringMatching(/^carried-[0-9a-f]{16}$/)]);
  const files = readdirSync(join(cache, cached()[0]!), { recursive: true }).map(String);
  expect(files).toContain("data/model/model.safetensors");
  expect(files.filter((name) => /\.\d+-/.test(name))).toEqual([]); // temporary files that were not renamed
});

describe("every command", () => {
  const model = () => work.at("a");

  test("doctor finds that training can run, without a compiler", async () => {
    const { ready, findings } = JSON.parse(await expectRuns(["doctor", "--json"]));
    expect(ready).toBe(true);
    expect(findings).toContainEqual(expect.objectContaining({ topic: "kernels", status: "ok" }));
    expect(JSON.stringify(findings)).toContain("try grpo train");
  });

  test("show serves the page of a run, bundled when the executable was built", async () => {
    const child = Bun.spawn([executable, "show", model(), "--port", "0"], {
      ...{ env: { BUN_GRPO_CACHE: cache }, stdout: "pipe", stderr: "inherit" },
    });
    let out = "";
    for await (const bytes of child.stdout) {
      out += new TextDecoder().decode(bytes);
      if (out.endsWith("\n")) break;
    }
    const url = out.trim();
    const page = await (await fetch(url)).text();
    expect(page).toContain("<title>grpo</title>");
    for (const [, name] of page.matchAll(/(?:src|href)="\/([^"]+)"/g))
      expect((await fetch(url + name)).status).toBe(200);
    child.kill("SIGINT");
    expect(await child.exited).toBe(0);
  });

  test("train with its page and every tracker, in an empty folder: the files that docs/first-hour.md shows", async () => {
    const empty = work.at("empty folder");
    mkdirSync(empty);
    const argv = ["train", "--max_steps", "10", "--dashboard", "0", "--report_to", "tensorboard,wandb,jsonl"];
    const env = { HOME: work.at("home"), PATH: "", NO_COLOR: "1" };
    const child = Bun.spawn([executable, ...argv, "--device", "cpu"], {
      ...{ cwd: empty, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" },
    });
    let out = "";
    let page: Promise<string> | null = null;
    for await (const bytes of child.stdout) {
      out += new TextDecoder().decode(bytes);
      const url = /^page: (\S+)$/m.exec(out)?.[1];
      if (url !== undefined) page ??= fetch(url).then((response) => response.text());
    }
    expect({ code: await child.exited, err: await child.stderr.text() }).toEqual({ code: 0, err: "" });
    expect(await page).toContain("<title>grpo</title>");
    expect(out).toContain("saved the model in outputs/train\n");
    const files = readdirSync(join(empty, "outputs/train"), { recursive: true }).map(String);
    expect(files).toContain("metrics.jsonl");
    expect(files).toContainEqual(expect.stringMatching(/^tensorboard\/events\.out\.tfevents\./));
    expect(files).toContainEqual(expect.stringMatching(/^wandb\/offline-run-\w+-\w+\/run-\w+\.wandb$/));
    expect(files.filter((name) => /^wandb.*\/completions_\d+_\w+\.table\.json$/.test(name)).length).toBeGreaterThan(0);
  });

  test("init writes a configuration that plan and train take; completions for each shell", async () => {
    expect(await expectRuns(["init", "own.toml", "--device", "cpu"])).toEndWith("next: grpo train own.toml\n");
    expect(await expectRuns(["plan", "own.toml"])).toContain("fits");
    expect(await expectRuns(["train", "own.toml", ...steps, "--output_dir", work.at("own")])).toContain(
      "saved the model",
    );
    for (const shell of ["bash", "zsh", "fish"])
      expect(await expectRuns(["completions", shell])).toContain("--num_generations".slice(2));
  });

  test("plan, generate, eval, score, update, sft and data", async () => {
    const plan = await expectRuns(["plan"]);
    expect(plan).toStartWith("data/model · ");
    expect(plan).toContain("fits");
    const sampling = ["--device", "cpu", "--max_completion_length", "8"];
    await expectRuns(["generate", "--model", model(), "--prompt", "3+4=", ...sampling]);
    const rows = ["--dataset", problems, "--device", "cpu", "--max_completion_length", "8"];
    const evaluation = ["--eval_samples", "8", "--output_dir", work.at("eval")];
    expect(await expectRuns(["eval", "--model", model(), ...rows, ...evaluation])).toContain("accuracy");
    const one = ["--max_steps", "1", "--device", "cpu", "--output_dir", work.at("sft")];
    await expectRuns(["sft", "--model", model(), "--dataset", problems, ...one]);
    expect(await expectRuns(["data", "info", problems])).toContain("300");
    const rollouts = join(model(), "completions/step-000001.jsonl");
    const updating = ["--device", "cpu", "--output_dir", work.at("update")];
    await expectRuns(["update", "--model", model(), "--rollouts", rollouts, ...updating]);
    const scores = work.at("scores.jsonl");
    await expectRuns(["score", "--model", model(), "--input", rollouts, "--output", scores, "--device", "cpu"]);
    expect(readFileSync(scores, "utf8").trim().split("\n").length).toBe(256);
  });

  test("verify, by its reward processes", async () => {
    const input = put(work.at("answers.jsonl"), '{"response":"#### 4","gold":"4"}\n{"response":"#### 5","gold":"4"}\n');
    const out = await expectRuns(["verify", "--input", input]);
    expect(
      out
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line).reward),
    ).toEqual([1, 0]);
  });

  test("bench measures an op", async () => {
    const flags = ["--device", "cpu", "--filter", "^add ", "--quick"];
    expect(await expectRuns(["bench", "ops", ...flags])).toMatch(/^add +n=/m);
  });

  test("check:gpu runs each kernel, and reports why it cannot run the files of test/", async () => {
    const { folder } = await buildEmulator();
    // An emulated GPU caches compiled kernels in the cache of the user's process, and uses the system's compiler.
    const env = { LD_LIBRARY_PATH: folder, EMULATOR_CHECK: "0", HOME: homedir(), PATH: process.env.PATH ?? "" };
    const stages = (only: string) => run(["check:gpu", "--only", only, "--logs", work.at(`logs of ${only}`)], env);
    const { out, err, code } = await stages("each kernel");
    expect({ err, code }).toEqual({ err: "", code: 0 });
    expect(out).toMatch(/^attentionBackward .*bfloat16 +[\d.]+ s$/m);
    expect(out).toMatch(/^each kernel once +\d+ s {2}\d{3} ok, 0 failed\n1 passed, 0 failed\n$/m);
    const noTests = await stages("every op");
    if (executable !== process.execPath)
      expect(noTests.out).toContain("left out: its files are not beside the executable");
  });

  test("check:gpu without a GPU: doctor's findings about it, and one line", async () => {
    const { out, err, code } = await run(["check:gpu"], { CUDA_VISIBLE_DEVICES: "" });
    expect(out).toMatch(/^\w+ +CUDA /m);
    expect(err).toMatch(/^grpo check:gpu: no GPU can be opened: .*\n$/);
    expect(code).toBe(2);
  });
});

test("a reward module has bun-grpo, its own files and its own packages", async () => {
  put(join(foreign, "rewards/node_modules/halves/package.json"), '{ "name": "halves", "main": "lib.js" }');
  put(join(foreign, "rewards/node_modules/halves/lib.js"), "exports.half = (x) => x / 2;");
  put(join(foreign, "rewards/scale.toml"), "scale = 3\n");
  put(join(foreign, "rewards/helper.ts"), 'export { default } from "./scale.toml";');
  put(
    join(foreign, "rewards/mine.ts"),
    `import { lastBoxed, type RewardFunction } from "bun-grpo";
     import { half } from "halves";
     import settings from "./helper.ts";
     const mine: RewardFunction = ({ completions }) =>
       completions.map((text, i) => half(settings.scale) * (lastBoxed("\\\\boxed{1}") === "1" ? 1 : 0) + (text.length + i) % 2);
     export default mine;`,
  );
  const output = work.at("rewarded");
  const flags = { ...tinyTraining, reward_funcs: "./rewards/mine.ts", max_steps: 1, output_dir: output };
  await expectRuns(["train", ...argvOf(flags)]);
  const { reward } = JSON.parse(readFileSync(join(output, "metrics.jsonl"), "utf8").split("\n")[0]!);
  expect(reward).toBeGreaterThanOrEqual(1.5);
});

test("kill −9 of the trainer leaves no process behind", async () => {
  const pids = work.at("pids");
  const hangs = put(
    join(foreign, "hangs.ts"),
    `import { appendFileSync } from "node:fs";
     export default async () => { appendFileSync(${JSON.stringify(pids)}, process.pid + "\\n"); await new Promise((r) => setTimeout(r, 1e6)); };`,
  );
  const flags = { ...tinyTraining, reward_funcs: hangs, reward_timeout: 600, output_dir: work.at("killed") };
  const trainer = start(["train", ...argvOf(flags)]);
  await until("a reward process hangs", () => existsSync(pids) && readFileSync(pids, "utf8").endsWith("\n"));
  trainer.kill("SIGKILL");
  await trainer.exited;
  const started = readFileSync(pids, "utf8").trim().split("\n");
  await until("reward processes end", () => started.every((pid) => !existsSync(`/proc/${pid}`)));
});

describe("the cache", () => {
  /** Exit status 1, and one line with the folder and the cure. */
  function expectRefused({ code, err }: Finished, folder: string): void {
    expect(err).toMatch(/^grpo doctor: .*\n$|^grpo plan: .*\n$/);
    expect(err).toContain(`${folder}: cannot be written (`);
    expect(err).toContain("set BUN_GRPO_CACHE to a writable folder");
    expect(code).toBe(1);
  }

  test("a folder that cannot be created: one line with its name and the cure", async () => {
    const folder = join(put(work.at("a-file"), ""), "cache");
    expectRefused(await run(["plan"], { BUN_GRPO_CACHE: folder }), folder);
  });

  // Mounting needs a user namespace, which some systems do not allow.
  const canMount = Bun.spawnSync(["unshare", "-rm", "true"]).success;
  const mounted = (mount: string) => [
    "/bin/sh",
    "-c",
    `exec "$(command -v unshare)" -rm /bin/sh -c '${mount} && exec "$@"' sh "$@"`,
    "sh",
    executable,
  ];
  const path = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };

  test.skipIf(!canMount)("a full disk: one line with the cure, and no partial file is left", async () => {
    const folder = work.at("small");
    mkdirSync(folder);
    // Room for the sources but not a model; the contents are listed before unmounting.
    const list = `mount -t tmpfs -o size=700k none ${folder} && "$@"; code=$?; find ${folder} -type f; exit $code`;
    const command = ["unshare", "-rm", "/bin/sh", "-c", list, "sh", executable];
    const { out, err, code } = await run(["plan"], { BUN_GRPO_CACHE: folder, ...path }, command);
    expect(err).toMatch(/^grpo plan: .*: cannot be written \(ENOSPC.*\n$/);
    expect(err).toContain("free some space, or set BUN_GRPO_CACHE to a folder with room");
    expect(code).toBe(1);
    expect(out).not.toContain("safetensors");
    expect(out).toContain("/data/problems/train.arrow"); // the files that fit
  });

  test.skipIf(!canMount)("a read-only one provides what it holds, and no more", async () => {
    const readOnly = (folder: string) =>
      mounted(`mount --bind ${folder} ${folder} && mount -o remount,bind,ro ${folder}`);
    await expectRuns(["plan"], { ...path, BUN_GRPO_CACHE: cache }, readOnly(cache));
    const empty = work.at("empty");
    mkdirSync(empty);
    expectRefused(await run(["plan"], { ...path, BUN_GRPO_CACHE: empty }, readOnly(empty)), empty);
  });

  test("a torn file is rewritten", async () => {
    const file = join(cache, cached()[0]!, "data/model/config.json");
    const whole = readFileSync(file, "utf8");
    writeFileSync(file, whole.slice(0, 10));
    await expectRuns(["plan"]);
    expect(readFileSync(file, "utf8")).toBe(whole);
  });

  test("kernels that the system cannot load: compiled if there is a compiler, else one line", async () => {
    const copy = work.at("refused");
    expect(Bun.spawnSync(["cp", "-r", cache, copy]).success).toBe(true);
    const folder = join(copy, cached()[0]!, "prebuilt");
    const library = join(folder, readdirSync(folder)[0]!);
    const whole = work.at("whole.so");
    expect(Bun.spawnSync(["mv", library, whole]).success).toBe(true);
    writeFileSync(library, Buffer.alloc(statSync(whole).size));
    const refused = await run(["generate", "--prompt", "1", "--device", "cpu"], { BUN_GRPO_CACHE: copy });
    expect(refused.err).toMatch(
      /^grpo generate: .*: the kernel library cannot be loaded \(.*invalid ELF header.*\); .*\n$/,
    );
    expect(refused.code).toBe(1);
    // A compiler that compiles nothing, and links by copying.
    const compiler = put(
      work.at("c++"),
      `#!/bin/sh\n[ "$1" = --version ] && { echo "test compiler 1.0"; exit 0; }\nfor last; do :; done\ncase " $* " in *" -shared "*) cp '${whole}' "$last" ;; *) : > "$last" ;; esac\n`,
    );
    chmodSync(compiler, 0o755);
    const env = { BUN_GRPO_CACHE: copy, CXX: compiler, PATH: "/usr/bin:/bin" };
    const { findings } = JSON.parse((await run(["doctor", "--json"], env)).out);
    expect(findings).toContainEqual({ topic: "compiler", status: "ok", text: "test compiler 1.0" });
  });

  test("files of other builds are removed after days without use; those in use stay", async () => {
    const [own = ""] = cached();
    const [old, used, other] = ["carried-0000000000000000", "carried-1111111111111111", "datasets"];
    const days = new Date(Date.now() - STALE_MS - 60_000);
    for (const name of [old, used, other]) put(join(cache, name, "data/file"), "kept");
    for (const name of [own, old, other]) utimesSync(join(cache, name), days, days);
    await expectRuns(["plan"]);
    expect(cached()).toEqual([used, own, other].sort());
    expect(Date.now() - statSync(join(cache, own)).mtimeMs).toBeLessThan(STALE_MS);
  });
});
