/** The reward pool: results, deadlines, memory limits, processes that die, functions that return no rewards. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { InputError, RunError } from "../../src/errors.ts";
import {
  createRewardPool,
  joinResults,
  loggedColumns,
  loggedMetrics,
  type RewardBatch,
  type RewardPool,
  type RewardSpec,
} from "../../src/rewards/pool/pool.ts";

const fixture = (name: string): { path: string } => ({ path: join(import.meta.dir, "../fixtures/rewards", name) });

const open: RewardPool[] = [];
function pool(functions: RewardSpec[], settings: Partial<Parameters<typeof createRewardPool>[0]> = {}): RewardPool {
  const created = createRewardPool({ functions, timeoutMs: 400, memoryLimitMiB: 128, size: 2, ...settings });
  open.push(created);
  return created;
}
afterAll(() => Promise.all(open.map((one) => one.close())));

const batch = (completions: string[], rest: Partial<RewardBatch> = {}): RewardBatch => ({
  prompts: completions.map(() => "p"),
  completions,
  completionIds: completions.map((_, i) => [i]),
  golds: completions.map(() => null),
  columns: {},
  ...rest,
});

async function caught(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing was thrown");
}

describe("what a reward function receives and logs", () => {
  const folder = mkdtempSync(join(tmpdir(), "grpo-told-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const module = (name: string, body: string): { path: string } => {
    const path = join(folder, `${name}.ts`);
    writeFileSync(path, `export default async ({ completions, trainer_state, log_metric, log_extra }) => {${body}};`);
    return { path };
  };

  test("the trainer's state, metrics whose mean is taken, columns by completion; joined over batches, absent if there are none", async () => {
    const logging = module(
      "logs",
      `if (completions.length > 1 && completions.includes("alone")) throw new Error("one by one");
       log_metric("state", trainer_state.global_step * 10 + trainer_state.progress);
       log_extra("upper", completions.map((c) => (c === "none" ? undefined : { c: c.toUpperCase() })));
       return completions.map((c) => c.length);`,
    );
    const silent = module("silent", "return completions.map(() => trainer_state.max_steps);");
    const scoring = pool([logging, silent]);
    const trainerState = {
      ...{ global_step: 3, max_steps: 6, epoch: 0.5, num_input_tokens_seen: 9 },
      ...{ progress: 0.5, is_evaluation: false },
    };
    const first = await scoring.score(batch(["a", "none"], { trainerState }));
    expect(loggedMetrics(first)).toEqual({ state: 30.5 });
    expect(loggedColumns(first)).toEqual([{ upper: { c: "A" } }, { upper: null }]);
    expect(first.perFunction[1]).not.toHaveProperty("logs");
    expect(first.perFunction[1]!.rewards).toEqual([6, 6]);
    // Repeated with one completion at a time, and outside of training.
    const second = await scoring.score(batch(["alone", "b"]));
    expect(second.total).toEqual([5, 1]);
    const joined = joinResults([first, second]);
    expect(loggedMetrics(joined)).toEqual({ state: (30.5 + 1 + 1) / 3 });
    const upper = loggedColumns(joined)!.map((columns) => columns.upper);
    expect(upper).toEqual([{ c: "A" }, null, { c: "ALONE" }, { c: "B" }]);
    expect(loggedColumns(await pool(["gsm8k"]).score(batch(["1"])))).toBeNull();
  });

  test.each([
    ['log_metric("loss", NaN)', "log_metric loss: NaN is not a finite number"],
    ['log_extra("x", [1])', "log_extra x: gives an array of 1 for 2 completions"],
  ])("%s costs the reward and says why", async (call, message) => {
    const name = call.slice(0, 10).replace(/\W/g, "");
    const bad = module(
      name,
      `if (completions.length > 1 || ${call.startsWith("log_metric")}) ${call}; return completions.map(() => 1);`,
    );
    const { warnings, total } = await pool([bad]).score(batch(["a", "b"]));
    // One at a time, the second call is right.
    expect(total).toEqual(call.startsWith("log_metric") ? [null, null] : [1, 1]);
    if (call.startsWith("log_metric")) expect(warnings.join()).toContain(message);
  });

  test("modules that wait overlap, each in its own process, also on one core", async () => {
    const waits = ["one", "two", "three"].map((name) =>
      module(name, "const from = Date.now(); await Bun.sleep(300); return completions.map(() => from);"),
    );
    const waiting = createRewardPool({ functions: waits, timeoutMs: 5000 });
    open.push(waiting);
    await waiting.ready();
    const { perFunction } = await waiting.score(batch(["a"]));
    const starts = perFunction.map(({ rewards }) => rewards[0]!);
    expect(Math.max(...starts) - Math.min(...starts)).toBeLessThan(300);
  });
});

describe("verifiers", () => {
  test("score lenient and strict, count unparsed, leave out rows without a gold", async () => {
    const { perFunction, total, reasons, warnings } = await pool(["auto"]).score(
      batch(["so #### 18", "The answer is 18.", "I do not know", "\\boxed{\\frac{2}{4}}", "18"], {
        golds: ["18", "18", "18", "\\frac12", null],
      }),
    );
    expect(perFunction).toEqual([
      {
        name: "auto",
        rewards: [1, 1, 0, 1, null],
        strict: [1, 0, 0, 1, null],
        reasons: ["equal", "equal", "unparsed", "equal", null],
        unparsed: 1,
        timeouts: 0,
      },
    ]);
    expect(total).toEqual([1, 1, 0, 1, null]);
    expect(reasons).toEqual(["equal", "equal", "unparsed", "equal", null]);
    expect(warnings).toEqual([]);
  });

  test("keep the order over many processes and batches", async () => {
    const verifying = pool(["gsm8k"]);
    const items = Array.from({ length: 1000 }, (_, i) => ({ gold: String(i), response: `A: ${i % 3 === 0 ? i : -1}` }));
    const batches = await Promise.all([0, 1, 2].map(() => verifying.verify(items, "lenient")));
    for (const verdicts of batches) {
      expect(verdicts.map((v) => v.reward)).toEqual(items.map((_, i) => (i % 3 === 0 ? 1 : 0)));
      expect(verdicts[7]?.answer).toBe("-1");
    }
  });

  test("an empty batch is an empty result", async () => {
    expect((await pool(["math"]).score(batch([]))).total).toEqual([]);
    expect(await pool(["math"]).verify([], "strict")).toEqual([]);
  });
});

describe("built-in functions beside the verifiers", () => {
  const asked = (rest: Partial<RewardBatch> = {}): RewardBatch =>
    batch(["so #### 18", "#### 17", "thirty minus twelve: 18", "18"], {
      golds: ["18", "18", "18", null],
      completionIds: [5, 5, 10, 9].map((length) => new Array(length).fill(1)),
      ...rest,
    });

  test("cosine and length turn on the first verifier's verdict, and leave out rows without a gold", async () => {
    const scoring = pool(["length", "gsm8k", "cosine"], { parameters: { cosineMaxLen: 10 }, weights: [0, 1, 2] });
    const { perFunction, total, warnings } = await scoring.score(asked());
    expect(perFunction.map(({ rewards }) => rewards)).toEqual([
      [0.5, 0, -0.5, null],
      [1, 0, 1, null],
      [expect.closeTo(0.75, 12), expect.closeTo(-0.75, 12), 0.5, null],
    ]);
    expect(total).toEqual([expect.closeTo(2.5, 12), expect.closeTo(-1.5, 12), 2, null]);
    expect(perFunction[2]).not.toHaveProperty("reasons");
    expect(warnings).toEqual([]);
  });

  test("without a verifier in the list the answer is still judged", async () => {
    const { perFunction, reasons } = await pool(["cosine"], { parameters: { maxCompletionLength: 10 } }).score(asked());
    expect(perFunction[0]?.rewards).toEqual([expect.closeTo(0.75, 12), expect.closeTo(-0.75, 12), 0.5, null]);
    expect(reasons).toEqual([null, null, null, null]);
  });

  test("accuracy judges as math does; reasoning_accuracy judges the text after the thought", async () => {
    const completions = [
      "<think>\\boxed{\\frac12}</think>\\boxed{0.5}",
      "<think>\\boxed{\\frac12}</think>\\boxed{2}",
      "<think>\\boxed{\\frac12}",
      "\\boxed{\\frac12}",
    ];
    const golds = ["\\frac12", "\\frac12", "\\frac12", null];
    const { perFunction } = await pool(["accuracy", "math", "reasoning_accuracy"]).score(batch(completions, { golds }));
    const [accuracy, math, after] = perFunction;
    expect({ ...accuracy, name: "math" }).toEqual(math!);
    expect(accuracy?.rewards).toEqual([1, 0, 1, null]);
    // A gold that TRL's accuracy_reward cannot parse: not scored under its names, compared as words under ours.
    const words = await pool(["accuracy", "math", "reasoning_accuracy"]).score(
      batch(["\\boxed{east}", "\\boxed{east}"], { golds: ["east", "\\boxed{east}"] }),
    );
    expect(words.perFunction.map(({ rewards }) => rewards)).toEqual([
      [null, 1],
      [1, 1],
      [null, 0],
    ]);
    expect(after).toMatchObject({
      rewards: [1, 0, 0, null],
      reasons: ["equal", "different", "unparsed", null],
      unparsed: 1,
    });
  });

  test("functions of only the text need neither golds nor processes", async () => {
    const { total, perFunction } = await pool(["think_format", "repetition"], { size: 0 }).score(
      batch(["<think>a</think>b", "b"], {
        completionIds: [
          [1, 2, 3],
          [4, 4, 4, 4],
        ],
      }),
    );
    expect(perFunction.map(({ rewards }) => rewards)).toEqual([
      [1, 0],
      [0, -0.5],
    ]);
    expect(total).toEqual([1, -0.5]);
  });
});

describe("rewards from outside", () => {
  const both = (): RewardPool =>
    pool([{ model: "org/judge" }, "tag_count", { model: "models/judge" }], { weights: [1, 4, 0.5] });

  test("keep their place in the order, with name and weight", async () => {
    const scoring = both();
    expect(scoring.members).toEqual([
      { name: "judge", spec: { model: "org/judge" } },
      { name: "tag_count", spec: "tag_count" },
      { name: "judge_2", spec: { model: "models/judge" } },
    ]);
    await scoring.ready();
    const external = new Map([
      ["judge", [0.25, null]],
      ["judge_2", [2, -2]],
    ]);
    const { perFunction, total } = await scoring.score(batch(["\n</answer>", ""]), external);
    expect(perFunction.map(({ name, rewards }) => [name, rewards])).toEqual([
      ["judge", [0.25, null]],
      ["tag_count", [0.25, 0]],
      ["judge_2", [2, -2]],
    ]);
    expect(total).toEqual([0.25 + 1 + 1, -1]);
  });

  test("that are not numbers end the run; missing ones are a bug of the program", async () => {
    const scoring = both();
    const judge = [1, NaN];
    const nan = await caught(
      scoring.score(
        batch(["a", "b"], { rows: [4, 9] }),
        new Map([
          ["judge", judge],
          ["judge_2", [1, 1]],
        ]),
      ),
    );
    expect(nan).toBeInstanceOf(RunError);
    expect(nan.message).toBe("reward model judge gave NaN on row 9, completion 2");
    expect((await caught(scoring.score(batch(["a"]), new Map([["judge", [1]]])))).message).toContain(
      "no rewards of judge_2",
    );
    expect(
      (
        await caught(
          scoring.score(
            batch(["a"]),
            new Map([
              ["judge", [1, 2]],
              ["judge_2", [1]],
            ]),
          ),
        )
      ).message,
    ).toContain("2 rewards of judge");
  });
});

describe("locating an error", () => {
  const path = fixture("obeys.ts").path;

  test("the warning names function, row and completion", async () => {
    const { warnings } = await pool([{ path }]).score(batch(["a", "b", "throw", "d"], { rows: [7, 7, 12, 12] }));
    expect(warnings).toEqual([
      `reward function obeys (${path}) threw TypeError: no such thing on 1 of 4 completions; they are not scored (first: row 12, completion 3)`,
    ]);
  });

  test("so does the error for an invalid reward, also where completions are scored one by one", async () => {
    const value = ["nan", "nan"];
    const whole = await caught(
      pool([fixture("returns.ts")]).score(batch(["a", "b"], { columns: { value }, rows: [3, 4] })),
    );
    expect(whole.message).toMatch(
      /^reward function returns \(.*\) returned NaN on row 4, completion 2; a reward is a finite/,
    );
    const alone = await caught(pool([fixture("one_bad.ts")]).score(batch(["a", "b", "c"], { rows: [3, 4, 5] })));
    expect(alone).toBeInstanceOf(RunError);
    expect(alone.message).toMatch(/^reward function one_bad \(.*\) returned Infinity on row 5, completion 3; a reward/);
  });

  test("without rows only the completion is named", async () => {
    const { warnings } = await pool([{ path }]).score(batch(["a", "throw"]));
    expect(warnings[0]).toEndWith("on 1 of 2 completions; they are not scored (first: completion 2)");
  });
});

describe("many small concurrent batches", () => {
  test("each gets its own results, even if others hang or crash a process, and they join in order", async () => {
    const scoring = pool(["gsm8k", fixture("obeys.ts"), "length"], { weights: [1, 0.125, 0], timeoutMs: 1500 });
    const groups = Array.from({ length: 120 }, (_, g) => {
      const words = ["a", "bb", "ccc", "dddd"].map((word) => `${word.repeat(1 + (g % 3))}`);
      if (g === 17) words[2] = "hang";
      if (g === 40 || g === 77) words[1] = "exit";
      if (g % 30 === 5) words[0] = "throw";
      return batch(
        words.map((word, i) => (["hang", "exit", "throw"].includes(word) ? word : `${word} #### ${g + (i % 2)}`)),
        {
          golds: words.map(() => String(g)),
          completionIds: words.map((_, i) => new Array(i + 1).fill(g)),
          rows: words.map(() => 1000 + g),
        },
      );
    });
    const results = await Promise.all(groups.map((group) => scoring.score(group)));
    const obeyed = (text: string) => (["hang", "exit", "throw"].includes(text) ? null : text.length);
    for (const [g, { perFunction }] of results.entries()) {
      const { completions } = groups[g]!;
      expect(perFunction[0]?.rewards).toEqual(completions.map((text) => (text.endsWith(`#### ${g}`) ? 1 : 0)));
      expect(perFunction[1]?.rewards).toEqual(completions.map(obeyed));
    }
    const joined = joinResults(results);
    expect(joined.total).toEqual(results.flatMap(({ total }) => total));
    expect(joined.perFunction.map(({ name, rewards }) => [name, rewards.length])).toEqual([
      ["gsm8k", 480],
      ["obeys", 480],
      ["length", 480],
    ]);
    expect(joined.perFunction[0]?.reasons).toEqual(joined.reasons);
    expect(joined.perFunction[0]?.strict).toHaveLength(480);
    expect(joined.perFunction[0]?.unparsed).toBe(7); // the words that the fixture follows contain no number
    expect(joined.perFunction[1]?.timeouts).toBe(3);
    const told = joined.warnings.map((line) => line.replace(/^reward function obeys \(.*?\) /, ""));
    expect(told.toSorted()).toEqual([
      "did not finish within 1.5 s on 1 of 480 completions; they are not scored (first: row 1017, completion 71)",
      "ended its process (exit status 0) on 2 of 480 completions; they are not scored (first: row 1040, completion 162)",
      "threw TypeError: no such thing on 4 of 480 completions; they are not scored (first: row 1005, completion 21)",
    ]);
  }, 20_000);

  test("joining one result gives itself, none gives nothing, unrelated ones fail", async () => {
    const one = await pool(["gsm8k"]).score(batch(["#### 1"], { golds: ["1"] }));
    expect(joinResults([one])).toEqual(one);
    expect(joinResults([])).toEqual({ perFunction: [], total: [], reasons: [], warnings: [] });
    const other = await pool(["format"]).score(batch(["a"]));
    expect(() => joinResults([one, other])).toThrow("format after gsm8k");
  });
});

describe("reward functions", () => {
  test("get prompts, their endings, completions, ids and columns; may be asynchronous, print and return null", async () => {
    const result = await pool(["gsm8k", fixture("columns.ts")], { weights: [1, 0.5] }).score(
      batch(["#### 1", "#### 2", "#### 3"], {
        prompts: ["p", [{ role: "user", content: "q" }], "p"],
        completionIds: [[7, 8], [9], [1]],
        golds: ["1", null, null],
        promptEnds: ["", "<think>\n", "skip"],
        columns: { key: [8n, 4n, 1n] },
      }),
    );
    expect(result.perFunction.map((f) => f.name)).toEqual(["gsm8k", "columns"]);
    expect(result.perFunction[1]?.rewards).toEqual([1, 0, null]);
    expect(result.total).toEqual([1.5, 0, null]);
  });

  test("import bun-grpo by name from any folder", async () => {
    const folder = mkdtempSync(join(tmpdir(), "grpo-reward-"));
    const path = join(folder, "same.ts");
    writeFileSync(
      path,
      `import { verify } from "bun-grpo";
       export default ({ completions, golds }: any) => completions.map((pred: string, i: number) =>
         verify({ gold: golds[i], pred, extraction: "lenient" }).reward);`,
    );
    const result = await pool([{ path }]).score(batch(["0.5", "2"], { columns: { golds: ["1/2", "1"] } }));
    rmSync(folder, { recursive: true });
    expect(result.total).toEqual([1, 0]);
  });

  for (const [deed, line] of [
    ["hang", "did not finish within 0.4 s"],
    ["throw", "threw TypeError: no such thing"],
    ["exit", "ended its process (exit status 0)"],
    ["grow", "used more than 128 MiB"],
    ["objects", "used more than 128 MiB"],
  ] as const) {
    test(`one completion makes it ${deed}: only that one is not scored`, async () => {
      const result = await pool([fixture("obeys.ts")]).score(batch(["a", "bb", deed, "dddd"]));
      expect(result.total).toEqual([1, 2, null, 4]);
      expect(result.warnings).toHaveLength(1);
      expect(result.warnings[0]).toContain(line);
      expect(result.warnings[0]).toContain("reward function obeys");
      expect(result.warnings[0]).toContain("on 1 of 4 completions");
      expect(result.perFunction[0]?.timeouts).toBe(deed === "throw" ? 0 : 1);
    }, 20_000);
  }

  test("one that always hangs is soon given up, and the pool continues", async () => {
    const scoring = pool([fixture("obeys.ts")]);
    const before = performance.now();
    const result = await scoring.score(batch(new Array(64).fill("hang")));
    expect(result.total).toEqual(new Array(64).fill(null));
    expect(performance.now() - before).toBeLessThan(6000);
    expect((await scoring.score(batch(["abc"]))).total).toEqual([3]);
  }, 20_000);

  test.each([
    ["nothing", "returned undefined instead of an array"],
    ["number", "returned 3 instead of an array"],
    ["promise", 'returned "1" instead of an array'],
    ["short", "returned 1 rewards for 2 completions"],
    ["nan", "returned NaN on completion 2; a reward is"],
    ["infinite", "returned Infinity on completion 2; a reward is"],
    ["text", 'returned "0.5" on completion 2'],
    ["bool", "returned true on completion 2; a reward is"],
    ["hole", "returned undefined on completion 2; a reward is"],
  ])("%s as a result is a RunError that names the function", async (value, line) => {
    const error = await caught(returning.score(batch(["a", "b"], { columns: { value: [value, value] } })));
    expect(error).toBeInstanceOf(RunError);
    expect(error.message).toContain(line);
    expect(error.message).toContain("reward function returns (");
    expect(error.message).not.toContain("\n");
  });
  const returning = pool([fixture("returns.ts")]);

  test("an invalid module is an InputError, before the first batch", async () => {
    const error = await caught(pool([fixture("no_default.ts")]).ready());
    expect(error).toBeInstanceOf(InputError);
    expect(error.message).toContain("no_default.ts) has no function as its default export");
    const broken = join(mkdtempSync(join(tmpdir(), "grpo-reward-")), "broken.ts");
    writeFileSync(broken, "export default ({ completions }) => completions.map(");
    const unparsable = await caught(pool([{ path: broken }]).ready());
    rmSync(dirname(broken), { recursive: true });
    expect(unparsable).toBeInstanceOf(InputError);
    expect(unparsable.message).toContain("broken.ts) cannot be loaded");
    expect(unparsable.message).not.toContain("\n");
    expect(() => pool([fixture("absent.ts")])).toThrow("absent.ts does not exist");
    expect(() => pool(["gsm8k"], { weights: [1, 2] })).toThrow("reward_weights has 2 values for 1 reward functions");
    await pool([fixture("obeys.ts")]).ready();
  });
});

describe("processes", () => {
  test("deadlines hold while the main thread is blocked", async () => {
    const scoring = pool([fixture("obeys.ts")]);
    await scoring.ready();
    const before = performance.now();
    const scored = scoring.score(batch(["hang"]));
    await Bun.sleep(50); // the message is on its way
    Bun.sleepSync(1500);
    expect((await scored).total).toEqual([null]);
    expect(performance.now() - before).toBeLessThan(1900);
  });

  const program = (body: string): string[] => [
    process.execPath,
    "-e",
    `import { createRewardPool } from ${JSON.stringify(join(import.meta.dir, "../../src/rewards/pool/pool.ts"))};
     const pool = createRewardPool({ functions: [${JSON.stringify(fixture("obeys.ts"))}], timeoutMs: 60000, size: 1 });
     const batch = (completions) => ({ prompts: completions, completions, completionIds: completions.map(() => []),
       golds: completions.map(() => null), columns: {} });
     ${body}`,
  ];

  test("neither worker nor processes keep alive a program that forgot to close", async () => {
    const child = Bun.spawn(program("console.log((await pool.score(batch(['abc']))).total[0]);"), {
      stderr: "inherit",
    });
    expect(await new Response(child.stdout).text()).toBe("3\n");
    expect(await child.exited).toBe(0);
  });

  test("a hanging process dies with its killed program", async () => {
    const child = Bun.spawn(program("pool.ready().then(() => { console.log('up'); pool.score(batch(['hang'])); });"));
    for await (const chunk of child.stdout) if (new TextDecoder().decode(chunk).includes("up")) break;
    await Bun.sleep(200);
    const running = descendants(child.pid);
    expect(running.length).toBe(1);
    child.kill("SIGKILL");
    await child.exited;
    for (let wait = 0; wait < 50 && running.some(alive); wait++) await Bun.sleep(20);
    expect(running.filter(alive)).toEqual([]);
  });
});

/** Process ids whose parent is `pid`, by /proc. */
function descendants(pid: number): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((id) => id > 0 && statOf(id)?.[1] === String(pid));
}

const alive = (pid: number): boolean => !["Z", undefined].includes(statOf(pid)?.[0]);

/** State and parent of a process; undefined once it has ended. */
function statOf(pid: number): string[] | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ");
  } catch {
    return undefined;
  }
}
