/** The reward pool: results, deadlines, memory limits, processes that die, functions that return no rewards. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { InputError, RunError } from "../../src/errors.ts";
import { createRewardPool, type RewardBatch, type RewardPool, type RewardSpec } from "../../src/rewards/pool.ts";

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

describe("verifiers", () => {
  test("score lenient and strict, count unparsed, leave out what has no gold", async () => {
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

describe("reward functions", () => {
  test("get prompts, completions, ids and columns; may be asynchronous, print and return null", async () => {
    const result = await pool(["gsm8k", fixture("columns.ts")], { weights: [1, 0.5] }).score(
      batch(["#### 1", "#### 2", "#### 3"], {
        prompts: ["p", [{ role: "user", content: "q" }], "skip"],
        completionIds: [[7, 8], [9], [1]],
        golds: ["1", null, null],
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

  test("one that always hangs is given up soon, and the pool goes on", async () => {
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

  test("a module that is none is an InputError, before the first batch", async () => {
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
    `import { createRewardPool } from ${JSON.stringify(join(import.meta.dir, "../../src/rewards/pool.ts"))};
     const pool = createRewardPool({ functions: [${JSON.stringify(fixture("obeys.ts"))}], timeoutMs: 60000, size: 1 });
     const batch = (completions) => ({ prompts: completions, completions, completionIds: completions.map(() => []),
       golds: completions.map(() => null), columns: {} });
     ${body}`,
  ];

  test("neither worker nor processes keep a program alive that forgot to close", async () => {
    const child = Bun.spawn(program("console.log((await pool.score(batch(['abc']))).total[0]);"), {
      stderr: "inherit",
    });
    expect(await new Response(child.stdout).text()).toBe("3\n");
    expect(await child.exited).toBe(0);
  });

  test("a hanging process dies with a program that is killed", async () => {
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

/** State and parent of a process, undefined once it is gone. */
function statOf(pid: number): string[] | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ");
  } catch {
    return undefined;
  }
}
