/** `bench --compare`, the peers' command lines and the plot: what they say, and that nothing is left behind. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { commitNamed, compare, compareRuns, figuresOf, turns } from "../../bench/compare.ts";
import { peers } from "../../bench/peers/peers.ts";
import { readPeerFlags, requirePackages } from "../../bench/peers/run.ts";
import { plotSvg, roundUp } from "../../bench/plot.ts";
import type { Sweep } from "../../bench/sweep.ts";

const work = mkdtempSync(join(tmpdir(), "bench-compare-"));
/** Where comparisons of this process check out revisions: others may compare at the same time. */
const scratch = join(work, "scratch");
mkdirSync(scratch);
const { TMPDIR } = process.env;
process.env.TMPDIR = scratch;
afterAll(() => {
  if (TMPDIR === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = TMPDIR;
  rmSync(work, { recursive: true, force: true });
});

describe("compare", () => {
  const report = (value: number, milliseconds = 10 / value) => ({
    figures: [
      { name: "speed", value, unit: "tokens/s", better: "more" },
      { name: "time", value: milliseconds, unit: "ms", better: "less" },
    ],
  });

  test("takes turns, each of the two first as often as the other", () => {
    expect(turns(3)).toEqual(["before", "now", "now", "before", "before", "now"]);
  });

  test("ratios above one are better, of runs side by side", () => {
    const [speed, time] = compareRuns([report(10), report(20)], [report(20), report(30)], /./);
    expect(speed).toMatchObject({
      name: "speed",
      before: [10, 20],
      now: [20, 30],
      ratio: { median: 1.75, low: 1.5, high: 2 },
    });
    expect(time!.ratio).toEqual({ median: 1.75, low: 1.5, high: 2 });
    expect(compareRuns([report(10)], [report(20)], /^time/).map(({ name }) => name)).toEqual(["time"]);
    expect(compareRuns([{ figures: [] }], [report(20)], /./)).toEqual([]);
  });

  test("reads the figures of every suite, and those of ops", () => {
    const results = [{ op: "add", sizes: "n=4", dtype: "float32", milliseconds: 2 }];
    expect(figuresOf({ results })).toEqual([{ name: "add n=4 float32", value: 2, unit: "ms", better: "less" }]);
    expect(figuresOf({ decode: [] })).toBeNull();
    expect(figuresOf(null)).toBeNull();
  });

  const git = (root: string, ...words: string[]) => {
    const { success, stdout, stderr } = Bun.spawnSync(["git", "-C", root, ...words]);
    if (!success) throw new Error(stderr.toString());
    return stdout.toString().trim();
  };
  const put = (root: string, path: string, text: string) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  /** A repository of a program whose bench reports `value`, twice as much in the working tree. */
  const repository = (name: string, old: string): string => {
    const root = join(work, name);
    const program = (value: number) => `console.log(JSON.stringify(${JSON.stringify(report(value))}))`;
    put(root, "bun.lock", "{}");
    put(root, "ffi/cpu/build.ts", "");
    put(root, "bench/main.ts", "");
    put(root, "src/cli/main.ts", old === "" ? program(10) : old);
    git(root, "init", "--quiet");
    git(root, "add", "-A");
    git(root, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "first");
    put(root, "node_modules/x", "");
    put(root, "src/cli/main.ts", program(20));
    return root;
  };
  const flags = { compare: "HEAD", pairs: 2, quick: true, filter: null, written: [] };

  test("runs both revisions, and leaves no worktree behind", async () => {
    const root = repository("one", "");
    const lines: string[] = [];
    const { figures, commit, ownBench } = await compare(
      "rollout",
      flags,
      (line) => lines.push(line),
      root,
      () => {},
    );
    expect(figures.map(({ name, ratio }) => [name, ratio.median])).toEqual([
      ["speed", 2],
      ["time", 2],
    ]);
    expect({ commit, ownBench }).toEqual({ commit: git(root, "rev-parse", "HEAD"), ownBench: false });
    expect(lines.join("\n")).toMatch(/speed +10\.0 +20\.0 tokens\/s +2\.000 \(2\.000 to 2\.000\)/);
    expect(git(root, "worktree", "list").split("\n")).toHaveLength(1);
    expect(readdirSync(scratch)).toEqual([]);
  });

  test("measures a revision without the suite by the working tree's bench; a broken one is an error, and cleaned up too", async () => {
    const root = repository("two", "import { value } from '../../bench/main.ts'; console.log(JSON.stringify(value))");
    put(root, "bench/main.ts", `export const value = ${JSON.stringify(report(5))};`);
    expect(
      await compare(
        "rollout",
        flags,
        () => {},
        root,
        () => {},
      ),
    ).toMatchObject({
      ownBench: true,
      figures: [{ ratio: { median: 4 } }, {}],
    });
    put(root, "bench/main.ts", "throw new Error('broken')");
    await expect(
      compare(
        "rollout",
        flags,
        () => {},
        root,
        () => {},
      ),
    ).rejects.toThrow(/ended with 1: /);
    expect(git(root, "worktree", "list").split("\n")).toHaveLength(1);
  });

  test("says what is missing", () => {
    expect(() => commitNamed(join(work, "one"), "v9")).toThrow(/^--compare v9: git knows no such revision in /);
    expect(() => commitNamed(join(work, "one"), "--help")).toThrow("git knows no such revision");
    const bare = mkdtempSync(join(work, "bare-"));
    expect(() => commitNamed(bare, "HEAD")).toThrow(/is not a git checkout; /);
    mkdirSync(join(work, "one", "inner"));
    expect(() => commitNamed(join(work, "one", "inner"), "HEAD")).toThrow("is not a git checkout");
  });
});

describe("peers", () => {
  test.each([
    [["jax"], '"jax": give one peer of trl, torch, torch-update, llama, transformers, vllm'],
    [["trl"], "--model: trl needs it"],
    [["llama", "--gguf", "F"], "--model: llama needs it"],
    [["vllm", "--model", "M"], "vllm: runs on a GPU only"],
    [["torch", "--theads", "2"], "--theads: unknown setting; did you mean --threads?"],
  ])("refuses %j", (argv, message) => {
    expect(() => readPeerFlags(argv)).toThrow(message);
  });

  test("a missing Python, or a missing package, is one line with the command that installs it", () => {
    expect(() => requirePackages("/nonexistent/python", peers.trl!)).toThrow(
      /no such program; .*pip install -r .*requirements\.txt/,
    );
    const without = { packages: ["no-such-package"], requirements: "requirements-vllm.txt" };
    if (Bun.which("python3"))
      expect(() => requirePackages("python3", without)).toThrow(
        /lacks packages of the peer \(.*no-such-package.*requirements-vllm\.txt/,
      );
  });

  test("both get the same sizes, and the rows compare the same quantities", () => {
    const { flags } = readPeerFlags([
      "trl",
      "--model",
      "M",
      "--prompts",
      "2",
      "--num_generations",
      "4",
      "--peer_dtype",
      "float32",
    ]);
    const ours = peers.trl!.ours(flags, "P.jsonl");
    expect(ours.join(" ")).toContain("--num_generations 4 --per_device_train_batch_size 8 --max_completion_length 64");
    const outcome = (report: unknown) => ({ report, peakMiB: 1 });
    const theirs = peers.trl!.theirs(flags, outcome({}), "P.jsonl").args.join(" ");
    expect(theirs).toContain("--dtype float32");
    expect(theirs).toContain("--completions 8 --num_generations 4 --max_completion_length 64");
    const figures = [
      { name: "a step, per completion token", value: 2 },
      { name: "a step, tokens of prompts and completions", value: 9, share: 0.25 },
      { name: "its rollout", value: 700 },
    ];
    const trl = { step_seconds: [4, 6], completion_tokens: [400, 600], rollout_seconds: [2, 3] };
    expect(peers.trl!.rows([outcome({ suite: "step", figures })], [outcome(trl)])).toMatchObject([
      { ours: [2], theirs: [10], better: "less", shares: [0.25] },
      { ours: [700], theirs: [200], better: "more" },
    ]);
    expect(() => peers.trl!.rows([outcome({ suite: "step", figures: [] })], [outcome(trl)])).toThrow("has no figure");
  });

  test("llama.cpp gets the groups, whose prompts it computes once, and a GGUF file only if one is given", () => {
    const words = (...argv: string[]) =>
      peers.llama!.theirs(readPeerFlags(["llama", "--model", "M", ...argv]).flags, { report: {}, peakMiB: 1 }, null)
        .args;
    expect(words("--prompts", "2").join(" ")).toBe(
      "--model M --num_generations 8 --sequences 16 --prompt_tokens 64 --max_completion_length 64 --dtype bfloat16",
    );
    expect(words("--gguf", "F").slice(2, 4)).toEqual(["--gguf", "F"]);
  });

  test("torch gets the sizes of the ops that ours has measured", () => {
    const { flags } = readPeerFlags(["torch"]);
    const results = [
      { op: "matmulForward", use: "decode", sizes: "M=1 N=1536 K=576", dtype: "bfloat16", milliseconds: 2 },
      { op: "attentionForward", use: "large", sizes: "T=2048 H=9 Dh=64", dtype: "bfloat16", milliseconds: 3 },
    ];
    const outcome = { report: { results }, peakMiB: 1 };
    expect(JSON.parse(peers.torch!.theirs(flags, outcome, null).input!)).toEqual([
      { op: "matmul", M: 1, N: 1536, K: 576, dtype: "bfloat16", cold: true },
      { op: "attention", T: 2048, H: 9, Hkv: 3, Dh: 64, dtype: "bfloat16" },
    ]);
    const rows = peers.torch!.rows([outcome], [{ report: { milliseconds: [4, 9] }, peakMiB: 1 }]);
    expect(rows.map(({ ours, theirs }) => [ours, theirs])).toEqual([
      [[2], [4]],
      [[3], [9]],
    ]);
  });
});

describe("plot", () => {
  const sweep: Sweep = {
    ...{ device: "CPU <A&B>", date: "2026-01-02", base: "one prompt" },
    axes: [
      {
        ...{ flag: "num_generations", title: "completions per prompt (G)" },
        points: [4, 8].map((value) => ({
          value: String(value),
          seconds: value / 3,
          completionTokens: 1,
          peakMiB: 900 + value,
        })),
      },
    ],
  };

  test("the same measurements give the same bytes, for light and dark pages", () => {
    const svg = plotSvg(sweep);
    expect(plotSvg(structuredClone(sweep))).toBe(svg);
    expect(svg).toContain("prefers-color-scheme: dark");
    expect(svg).toContain("CPU &lt;A&amp;B&gt;, 2026-01-02");
    expect(svg.match(/<circle /g)).toHaveLength(4);
    expect(svg).not.toContain("NaN");
    expect(() => plotSvg({ ...sweep, axes: [] })).toThrow("without points");
  });

  test("scales end at round numbers", () => {
    expect([0, 0.3, 1, 1.01, 2.3, 4, 7, 912].map(roundUp)).toEqual([1, 0.5, 1, 2, 2.5, 5, 10, 1000]);
  });
});
