/**
 * The campaign of damaged inputs can fail: it detects hangs, crashes, excess memory, wrong refusals and lost files, each in its
 * case.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { changedInputs, draw, kindOf, wrongRefusal } from "../hostile/case.ts";
import { kinds } from "../hostile/kinds.ts";
import { editJson, jsonDamage, nodeOf, printed } from "../hostile/mutate/json.ts";
import { bytesOf } from "../hostile/mutate/mutation.ts";
import { randomOf } from "../hostile/random.ts";
import { casesOf } from "../hostile/run.ts";
import { createWorkers } from "../hostile/workers.ts";

const folder = mkdtempSync(join(tmpdir(), "hostile-campaign-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("the effect of a case on its process", () => {
  const program = resolve(import.meta.dir, "../fixtures/hostile/worker.ts");
  const workers = createWorkers(folder, { seconds: 2, bytes: 200 * 2 ** 20 }, program);
  afterAll(() => workers.close());

  test.each([
    ["is fine", null],
    ["is wrong", /exit status 0, and wrong/],
    ["hangs", /^not done within 2 s$/],
    ["crashes", /^the process died \(SIG\w+\)$/],
    ["exits", /^the process died \(exit status 3\)$/],
    ...(process.platform === "linux" ? ([["hoards", /^\d{3} MiB of memory$/]] as const) : []),
    ["is fine", null],
  ] as const)("%s", async (kind, problem) => {
    const outcome = await workers.run({ kind, seed: 1, index: 4 });
    expect(outcome.damage).toBe(`${kind}/file: case 4`);
    if (problem === null) expect(outcome.problem).toBeNull();
    else expect(outcome.problem).toMatch(problem);
  });
});

describe("a refusal", () => {
  const config = kindOf("tokenizer");
  const folders = { sound: "/sound", input: "/work/in", output: "/work/out" };
  const verdict = (err: string) => wrongRefusal(err, 2, folders, config, "model/tokenizer.json");
  test.each([
    ["grpo generate: /work/in/model/tokenizer.json: not valid JSON\n", null],
    ["note: computing\ngrpo generate: /work/in/model: no tokenizer\n", null],
    ["grpo generate: tokenizer.json: torn", /does not end in a newline/],
    ["grpo generate: tokenizer.json: torn\n    at read (x.ts:1)\n", /2 lines/],
    ["grpo generate: something is wrong\n", /does not name model\/tokenizer\.json/],
    ["grpo generate: tokenizer.json: \u001b[2J\n", /control characters/],
    [`grpo generate: tokenizer.json: ${"x".repeat(9000)}\n`, /a line of 9031 characters/],
    ["grpo generate: tokenizer.json: x is undefined (this is a bug in grpo; please report)\n", /unexpected failure/],
    ["", /newline/],
  ] as const)("%#", (err, problem) => {
    if (problem === null) expect(verdict(err)).toBeNull();
    else expect(verdict(err)).toMatch(problem);
  });
});

test("changed, missing and added inputs are found", () => {
  const before = new Map([
    ["a", "1"],
    ["run", "folder"],
    ["run/b", "2"],
  ]);
  const [plain, resume] = [kindOf("weights"), kindOf("resume")];
  expect(changedInputs(before, new Map(before), plain)).toBeNull();
  expect(changedInputs(before, new Map(before).set("a", "3"), plain)).toBe("a is changed");
  expect(changedInputs(before, new Map([["a", "1"]]), plain)).toBe("run is gone");
  expect(changedInputs(before, new Map(before).set("c", "4"), plain)).toBe("c was left among the inputs");
  expect(changedInputs(before, new Map(before).set("run/b", "5"), resume)).toBeNull();
  expect(changedInputs(before, new Map([...before].slice(0, 2)), resume)).toBe("run/b is gone");
});

describe("cases", () => {
  test("are the same for the same seed, a step the same without the others", () => {
    const kind = kindOf("json");
    const files = new Map(kind.damages.map(({ file }) => [file, bytesOf('{"a":1}\n{"a":2}\n')]));
    const drawn = (seed: number, index: number, steps?: readonly number[]) =>
      draw(kind, files, { kind: "json", seed, index, ...(steps ? { steps } : {}) });
    for (let index = 0; index < 50; index++) expect(drawn(1, index)).toEqual(drawn(1, index));
    const all = Array.from({ length: 50 }, (_, index) => JSON.stringify(drawn(1, index)));
    expect(new Set(all).size).toBeGreaterThan(35);
    expect(all).not.toEqual(Array.from({ length: 50 }, (_, index) => JSON.stringify(drawn(2, index))));
    const [several] = Array.from({ length: 50 }, (_, i) => i).filter((i) => drawn(1, i).names.length > 1);
    expect(drawn(1, several!, [0]).names).toEqual(drawn(1, several!).names.slice(0, 1));
  });

  test("take every kind in turn, or one", () => {
    const names = casesOf(200, 5);
    expect(new Set(names.map(({ kind }) => kind)).size).toBe(kinds.length);
    expect(casesOf(3, 5, "json")).toEqual([0, 1, 2].map((index) => ({ kind: "json", seed: 5, index })));
    expect(casesOf(1000, 5, "json", 7)).toEqual([{ kind: "json", seed: 5, index: 7 }]);
    expect(() => casesOf(1, 5, "nothing")).toThrow("no kind nothing; there are weights,");
  });

  test("of JSON leave everything else unchanged", () => {
    const text = '{"a":[1,{"b":"x"}],"c":null}';
    expect(printed(nodeOf(JSON.parse(text)))).toBe(text);
    const removed = editJson(text, (list, at) => void list.splice(at, 1), randomOf("one"));
    expect(removed).not.toBe(text);
    expect(() => JSON.parse(removed!)).not.toThrow();
    expect(editJson("no JSON", () => {}, randomOf("one"))).toBeNull();
    expect(jsonDamage.every(({ neutral }) => !neutral)).toBe(true);
  });
});
