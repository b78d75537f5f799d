/** Metrics: the file and its repair on resume, recorded rollouts, the console, text made safe for it, phase times. */
import { afterAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InputError, RunError } from "../../src/errors.ts";
import { removeCompletionsAfter, writeCompletions } from "../../src/metrics/completions-file.ts";
import { createConsole, durationText, quietly } from "../../src/metrics/console.ts";
import { createMetricsWriter } from "../../src/metrics/metrics-file.ts";
import { metricNamed, metricNames } from "../../src/metrics/names.ts";
import { createStopwatch } from "../../src/metrics/stopwatch.ts";
import { escapeControls, excerpt, truncateLine, wrapLine } from "../../src/metrics/terminal-text.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-metrics-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let count = 0;
const fresh = () => join(root, `run-${count++}`);

function withFile(text: string): string {
  const folder = fresh();
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "metrics.jsonl"), text);
  return folder;
}

const read = (folder: string) => readFileSync(join(folder, "metrics.jsonl"), "utf8");

describe("metrics.jsonl", () => {
  test("a line is on disk as soon as it is written, with step first and NaN as null", () => {
    const folder = join(fresh(), "deep", "er");
    const writer = createMetricsWriter(folder);
    writer.write({ reward: 0.5, step: 1, loss: Number.NaN, kl: Infinity, note: "a\nb" });
    expect(read(folder)).toBe('{"step":1,"reward":0.5,"loss":null,"kl":null,"note":"a\\nb"}\n');
    writer.write({ step: 2, reward: 0.1 + 0.2 });
    writer.close();
    expect(read(folder).split("\n")[1]).toBe('{"step":2,"reward":0.30000000000000004}');
    expect(() => writer.write({ step: 3 })).toThrow("closed");
    writer.close();
  });

  test("a new run replaces an earlier file", () => {
    const folder = withFile('{"step":1}\n');
    createMetricsWriter(folder).close();
    expect(read(folder)).toBe("");
  });

  const repairs: readonly (readonly [what: string, before: string, step: number, after: string])[] = [
    [
      "cuts off what came after the checkpoint",
      '{"step":0,"eval_accuracy":0.4}\n{"step":1}\n{"step":2}\n{"step":3}\n',
      1,
      '{"step":0,"eval_accuracy":0.4}\n{"step":1}\n',
    ],
    ["keeps a file that ends at the checkpoint", '{"step":1}\n{"step":2}\n', 2, '{"step":1}\n{"step":2}\n'],
    ["removes a torn last line", '{"step":1}\n{"step":2,"rew', 2, '{"step":1}\n'],
    ["removes a last line of zeros", '{"step":1}\n\0\0\0\0', 2, '{"step":1}\n'],
    ["ends a last line that lacks only its break", '{"step":1}\n{"step":2}', 2, '{"step":1}\n{"step":2}\n'],
    ["keeps nothing where the run starts over", '{"step":1}\n', 0, ""],
    ["takes an empty file", "", 3, ""],
  ];
  for (const [what, before, step, after] of repairs) {
    test(`resuming ${what}`, () => {
      const folder = withFile(before);
      const writer = createMetricsWriter(folder, { resumeStep: step });
      expect(read(folder)).toBe(after);
      writer.write({ step: step + 1 });
      writer.close();
      expect(read(folder)).toBe(`${after}{"step":${step + 1}}\n`);
      expect(readdirSync(folder)).toEqual(["metrics.jsonl"]);
    });
  }

  test("resuming without an earlier file starts one", () => {
    const folder = fresh();
    createMetricsWriter(folder, { resumeStep: 4 }).close();
    expect(read(folder)).toBe("");
  });

  test("resuming in a file of another kind is refused with its line, and leaves it unchanged", () => {
    for (const line of ["not json", '{"loss":1}', "null", "[1]"]) {
      const folder = withFile(`{"step":1}\n${line}\n{"step":2}\n`);
      expect(() => createMetricsWriter(folder, { resumeStep: 2 })).toThrow(InputError);
      expect(() => createMetricsWriter(folder, { resumeStep: 2 })).toThrow("metrics.jsonl:2: not a line of metrics");
      expect(read(folder)).toContain(line);
    }
  });

  test("a system error is one line with the cure", () => {
    const folder = fresh();
    mkdirSync(join(folder, "metrics.jsonl"), { recursive: true });
    expect(() => createMetricsWriter(folder)).toThrow(RunError);
    expect(() => createMetricsWriter(folder)).toThrow("a folder is in the way");
    const file = withFile("");
    expect(() => createMetricsWriter(join(file, "metrics.jsonl", "x"))).toThrow(RunError);
  });

  const full = "/dev/full";
  test.skipIf(!existsSync(full))("a full disk is a RunError (skipped without /dev/full)", async () => {
    const folder = fresh();
    mkdirSync(join(folder, "completions"), { recursive: true });
    symlinkSync(full, join(folder, "metrics.jsonl"));
    const writer = createMetricsWriter(folder);
    expect(() => writer.write({ step: 1 })).toThrow("the disk is full; free some space");
  });
});

describe("completions", () => {
  test("a system error is a RunError, and leaves no file", async () => {
    const folder = fresh();
    const script = `import { writeCompletions } from "${join(import.meta.dir, "../../src/metrics/completions-file.ts")}";
      await writeCompletions(${JSON.stringify(folder)}, 1, ["x".repeat(4096)]).catch(({ name, message }) => console.log(name, message));`;
    const { stdout } = Bun.spawnSync(["sh", "-c", 'ulimit -f 1; exec "$0" -e "$1"', process.execPath, script]);
    expect(stdout.toString()).toMatch(/^RunError .*step-000001.jsonl: cannot be written: .*\(EFBIG\)/);
    expect(readdirSync(join(folder, "completions"))).toEqual([]);
  });

  test("a full disk is reported with how to resume the run", async () => {
    const folder = fresh();
    // biome-ignore lint/correctness/useYield: it fails as a write does
    function* lines(): Generator<string> {
      throw Object.assign(new Error("no space left on device"), { code: "ENOSPC", syscall: "write" });
    }
    await expect(writeCompletions(folder, 1, lines())).rejects.toThrow(
      "the disk is full; free some space and go on with --resume_from_checkpoint true",
    );
    expect(readdirSync(join(folder, "completions"))).toEqual([]);
  });

  test("lines are in the step's file, and no other file is left", async () => {
    const folder = fresh();
    const path = await writeCompletions(folder, 12, ['{"group":0,"completion":"naïve 数"}', "{}"]);
    expect(path).toBe(join(folder, "completions", "step-000012.jsonl"));
    expect(readFileSync(path, "utf8")).toBe('{"group":0,"completion":"naïve 数"}\n{}\n');
    expect(readdirSync(join(folder, "completions"))).toEqual(["step-000012.jsonl"]);
    await writeCompletions(folder, 12, []);
    expect(readFileSync(path, "utf8")).toBe("");
  });

  test("a large step yields to the event loop and is complete", async () => {
    const lines = Array.from({ length: 200 }, (_, i) => `${i} ${"x".repeat(40_000)}`);
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    const path = await writeCompletions(fresh(), 1, lines);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(1);
    expect(readFileSync(path, "utf8")).toBe(lines.map((line) => `${line}\n`).join(""));
  });

  test("a line that cannot be serialized leaves no file, and the earlier one unchanged", async () => {
    const folder = fresh();
    const path = await writeCompletions(folder, 1, ["before"]);
    function* lines() {
      yield "x".repeat(2 << 20);
      throw new RangeError("a rollout holds NaN");
    }
    await expect(writeCompletions(folder, 1, lines())).rejects.toThrow(RangeError);
    expect(readdirSync(join(folder, "completions"))).toEqual(["step-000001.jsonl"]);
    expect(readFileSync(path, "utf8")).toBe("before\n");
  });

  test("resuming removes the steps that will be rewritten, and nothing else", async () => {
    const folder = fresh();
    for (const step of [1, 2, 3]) await writeCompletions(folder, step, []);
    writeFileSync(join(folder, "completions", "notes.txt"), "");
    removeCompletionsAfter(folder, 1);
    expect(readdirSync(join(folder, "completions")).sort()).toEqual(["notes.txt", "step-000001.jsonl"]);
    removeCompletionsAfter(fresh(), 1);
  });
});

describe("the console", () => {
  function screen(isTTY: boolean, columns = 100) {
    let text = "";
    let clock = 0;
    const shown = createConsole({
      isTTY,
      columns,
      colour: false,
      now: () => clock,
      write: (part) => {
        text += part;
      },
    });
    return {
      shown,
      tick: (ms: number) => {
        clock += ms;
      },
      take: () => {
        const taken = text;
        text = "";
        return taken;
      },
    };
  }
  const record = { step: 1, reward: 0.25, loss: -0.0012, kl: Number.NaN, tokens_per_second: 1234.5, step_time: 2.04 };

  test("a table: one header, one line per step, the same columns, - for missing values", () => {
    const { shown, take } = screen(false);
    shown.step(record);
    shown.step({ step: 2, reward: 0.5, loss: 1, unknown_name: 3 });
    expect(take().split("\n")).toEqual([
      "  step  reward    loss      kl   tok/s    time",
      "     1  0.2500 -0.00120     NaN    1235    2.0s",
      "     2  0.5000 1.00000       -       -       -",
      "",
    ]);
  });

  test("a step without a score has a column all the same", () => {
    const { shown, take } = screen(false);
    shown.step({ step: 1, reward: null, loss: 0 });
    shown.step({ step: 2, reward: 0.5, loss: 1 });
    expect(take().split("\n").slice(1, 3)).toEqual(["     1       - 0.00000", "     2  0.5000 1.00000"]);
  });

  test("the header is repeated after 25 lines", () => {
    const { shown, take } = screen(false);
    for (let step = 1; step <= 26; step++) shown.step({ step, reward: 0 });
    expect(take().match(/ {2}step/g)).toHaveLength(2);
  });

  test("without a terminal there is no live line and no escape sequence", () => {
    const { shown, take } = screen(false);
    shown.progress({ step: 1, steps: 5, phase: "rollout", done: 1, total: 8 });
    shown.note("saved");
    shown.close();
    expect(take()).toBe("saved\n");
  });

  test("the live line: phase, progress, the last step's values, time left; at most ten a second", () => {
    const { shown, tick, take } = screen(true);
    shown.progress({ step: 1, steps: 5, phase: "rollout", done: 1, total: 8 });
    expect(take()).toBe("\r\x1b[2Kstep 1/5 · rollout 1/8");
    tick(50);
    shown.progress({ step: 1, steps: 5, phase: "rollout", done: 2, total: 8 });
    expect(take()).toBe("");
    tick(1950);
    shown.step(record);
    expect(take()).toStartWith("\r\x1b[2K  step");
    shown.progress({ step: 2, steps: 5, phase: "update" });
    expect(take()).toBe("\r\x1b[2Kstep 2/5 · update · 8s left · reward 0.2500 · loss -0.00120 · kl NaN · tok/s 1235");
    shown.close();
    expect(take()).toBe("\r\x1b[2K");
    shown.close();
    expect(take()).toBe("");
  });

  test("the rate of a phase, once it has lasted a second, by what was done since it began", () => {
    const { shown, tick, take } = screen(true);
    const at = (done: number, phase = "rollout") => {
      shown.progress({ step: 1, steps: 5, phase, done, total: 64 });
      return take().replace("\r\x1b[2K", "");
    };
    expect(at(4)).toBe("step 1/5 · rollout 4/64");
    tick(900);
    expect(at(8)).toBe("step 1/5 · rollout 8/64");
    tick(1100);
    expect(at(24)).toBe("step 1/5 · rollout 24/64 at 10.0/s");
    tick(200);
    expect(at(0, "update")).toBe("step 1/5 · update 0/64");
  });

  test("an evaluation has its own time left, and does not count as a step", () => {
    const { shown, tick, take } = screen(true);
    const evaluation = (done: number) => {
      shown.progress({ step: 0, steps: 0, phase: "evaluation", done, total: 300 });
      return take().replace("\r\x1b[2K", "");
    };
    expect(evaluation(0)).toBe("evaluation 0/300");
    tick(10_000);
    expect(evaluation(100)).toBe("evaluation 100/300 at 10.0/s · 20s left");
    tick(20_000);
    shown.progress({ step: 1, steps: 5, phase: "rollout" });
    tick(2000);
    take();
    shown.progress({ step: 2, steps: 5, phase: "rollout" });
    expect(take()).toBe("\r\x1b[2Kstep 2/5 · rollout · 8s left");
  });

  test("time left falls while a step runs, and waits where it takes longer than those before", () => {
    const { shown, tick, take } = screen(true);
    const left = (step: number, ms: number) => {
      tick(ms);
      shown.progress({ step, steps: 4, phase: "rollout" });
      return /(\w+) left/.exec(take())?.[1];
    };
    expect([left(1, 0), left(1, 9000), left(2, 1000), left(2, 4000), left(2, 9000), left(3, 1000)]).toEqual([
      undefined,
      undefined,
      "30s",
      "26s",
      "20s",
      "24s",
    ]);
  });

  test("a terminal that became narrower is cleaned of every row that the live line was wrapped into", () => {
    let columns = 100;
    let text = "";
    let clock = 0;
    const shown = createConsole({
      ...{ isTTY: true, colour: false, columns: () => columns, now: () => clock },
      write: (part) => {
        text += part;
      },
    });
    shown.step({ ...record, "completions/mean_length": 100 });
    text = "";
    shown.progress({ step: 2, steps: 5, phase: "rollout", done: 1, total: 8 });
    const width = Bun.stringWidth(text.replace("\r\x1b[2K", ""));
    expect(width).toBeGreaterThan(80);
    expect(width).toBeLessThan(100);
    columns = 40;
    clock = 200;
    text = "";
    shown.progress({ step: 2, steps: 5, phase: "rollout", done: 2, total: 8 });
    expect(text).toStartWith("\r\x1b[2A\x1b[J");
    columns = 100;
    text = "";
    shown.note("saved");
    expect(text).toBe("\r\x1b[2Ksaved\n");
  });

  test("colour on a terminal, unless NO_COLOR is set and not empty", () => {
    const before = process.env.NO_COLOR;
    const head = (isTTY: boolean, value?: string) => {
      if (value === undefined) delete process.env.NO_COLOR;
      else process.env.NO_COLOR = value;
      let text = "";
      const write = (part: string) => {
        text += part;
      };
      createConsole({ isTTY, write }).step(record);
      return text.includes("\x1b[2m");
    };
    try {
      expect([head(true), head(true, ""), head(true, "1"), head(true, "0"), head(false)]).toEqual([
        true,
        true,
        false,
        false,
        false,
      ]);
    } finally {
      if (before === undefined) delete process.env.NO_COLOR;
      else process.env.NO_COLOR = before;
    }
  });

  test("--quiet leaves warnings", () => {
    const { shown, take } = screen(true);
    const quiet = quietly(shown);
    quiet.progress({ step: 1, steps: 5, phase: "rollout" });
    quiet.step(record);
    quiet.completions(1, [{ prompt: "p", completion: "c", reward: 1 }]);
    quiet.evaluation({ step: 1, eval_reward: 1 });
    quiet.note("saved the model");
    quiet.note("note: beta is 0");
    expect(take()).toBe("note: beta is 0\n");
    quiet.close();
  });

  test("the live line is never wider than the terminal", () => {
    for (const columns of [20, 33, 60]) {
      const { shown, take } = screen(true, columns);
      shown.step({ ...record, "completions/mean_length": 100 });
      take();
      shown.progress({ step: 2, steps: 5, phase: "rollout", done: 1, total: 8 });
      expect(Bun.stringWidth(take().replace("\r\x1b[2K", ""))).toBeLessThan(columns);
    }
  });

  test("a completion: prompt, text and reward, none of it can control the terminal", () => {
    const { shown, take } = screen(true, 60);
    shown.completions(3, [
      {
        prompt: "What is 3 + 4?",
        completion: "7\x1b[2J\x07\r\n#### 7",
        reward: 1,
        rewards: { gsm8k: 1, short: 0.5 },
        tokens: 9,
        finished: false,
      },
      { prompt: "p", completion: "x".repeat(5000), reward: null },
    ]);
    const text = take();
    expect(text).not.toContain("\x1b");
    expect(text).not.toContain("\r");
    expect(text).toContain("prompt      What is 3 + 4?\n");
    expect(text).toContain("completion  7\\u{1b}[2J\\u{7}\\r\n            #### 7\n");
    expect(text).toContain("reward      1 (gsm8k 1, short 0.5000), 9 tokens, cut at th…\n");
    expect(text).toContain("reward      none\n");
    const lines = text.split("\n");
    for (const line of lines) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(59);
    expect(lines.length).toBeLessThan(20);
  });

  test("an evaluation names its step and numbers", () => {
    const { shown, take } = screen(false);
    shown.evaluation({ step: 0, eval_accuracy: 0.4125, eval_accuracy_strict: 0.4, other: 1 }, "240 problems");
    expect(take()).toBe("evaluation at step 0: accuracy 0.4125, accuracy_strict 0.4000 (240 problems)\n");
  });

  test("durations", () => {
    expect([0, 59.4, 59.6, 75, 3599, 3600, 3700, 90_061].map(durationText)).toEqual([
      "0s",
      "59s",
      "1m00s",
      "1m15s",
      "59m59s",
      "1h00m",
      "1h01m",
      "25h01m",
    ]);
  });
});

describe("terminal text", () => {
  test("escapes terminal controls and leaves the rest", () => {
    expect(escapeControls("a\tb\u009b1m\u202ec\ud800d\u2028")).toBe("a\\tb\\u{9b}1m\\u{202e}c\\u{d800}d\\u{2028}");
    const kept = "naïve 数学 👩‍👩‍👧 \n x² ≤ ½";
    expect(escapeControls(kept)).toBe(kept);
  });

  test("wraps by cells and never splits a character", () => {
    expect(wrapLine("数学数学a", 4)).toEqual(["数学", "数学", "a"]);
    expect(wrapLine("👩‍👩‍👧👩‍👩‍👧", 2)).toEqual(["👩‍👩‍👧", "👩‍👩‍👧"]);
    expect(wrapLine("数", 1)).toEqual(["数"]);
    expect(wrapLine("", 5)).toEqual([""]);
    expect(truncateLine("abcdef", 4)).toBe("abc…");
    expect(truncateLine("abcd", 4)).toBe("abcd");
  });

  test("an excerpt keeps beginning and end and counts the characters in between", () => {
    const text = Array.from({ length: 30 }, (_, i) => `line ${i}`).join("\n");
    const lines = excerpt(text, 40, 5);
    expect(lines).toHaveLength(5);
    expect(lines.slice(0, 2)).toEqual(["line 0", "line 1"]);
    expect(lines.slice(3)).toEqual(["line 28", "line 29"]);
    expect(lines[2]).toMatch(/^… \d+ characters more …$/);
    expect(excerpt("short", 40, 5)).toEqual(["short"]);
    const start = performance.now();
    expect(excerpt("y".repeat(20_000_000), 40, 5)).toHaveLength(5);
    expect(performance.now() - start).toBeLessThan(500);
  });
});

test("the stopwatch adds up phases and laps", () => {
  let clock = 0;
  const watch = createStopwatch(() => clock);
  watch.start("rollout");
  clock = 1000;
  watch.start("reward");
  clock = 1500;
  watch.start("rollout");
  clock = 2000;
  watch.stop();
  clock = 2500;
  expect(watch.lap()).toEqual({ "time/rollout": 1.5, "time/reward": 0.5, step_time: 2.5 });
  watch.start("update");
  clock = 3000;
  expect(watch.lap()).toEqual({ "time/update": 0.5, step_time: 0.5 });
  expect(watch.lap()).toEqual({ step_time: 0 });
});

describe("names", () => {
  test("each occurs once and has a meaning", () => {
    const names = metricNames.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const { meaning } of metricNames) expect(meaning.length).toBeGreaterThan(10);
  });

  test("the promised names exist, families included", () => {
    const promised =
      "loss grad_norm learning_rate reward reward_std frac_reward_zero_std rewards/gsm8k/mean kl entropy clip_ratio/region_mean " +
      "completions/mean_length completions/max_terminated_length num_tokens step_time time/rollout eval_accuracy " +
      "eval_accuracy_strict sampling/sampling_logp_difference/mean sampling/sampling_logp_difference/max";
    for (const name of promised.split(" ")) expect(metricNamed(name)?.meaning).toBeString();
    expect(metricNamed("rewards/a/b/mean")).toBeUndefined();
    expect(metricNamed("xloss")).toBeUndefined();
  });
});
