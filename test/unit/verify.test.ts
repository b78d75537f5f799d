/** How `verify` chooses its verifier, and `grpo verify` on files: order, summary, bad lines. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { verify } from "../../src/answers/verify.ts";
import { verify as command } from "../../src/cli/verify.ts";
import { InputError } from "../../src/errors.ts";

describe("the verifier follows the gold", () => {
  test.each([
    ["18", "There are 18 of them, I think", "equal"],
    ["$1,800$", "1800", "equal"],
    ["#### 18", "18", "equal"],
    ["\\boxed{18}", "18 in all", "equal"],
    ["\\frac{1}{2}", "a half", "different"],
    ["x+1", "it is $1+x$", "equal"],
    ["\\text{no}", "\\boxed{no}", "equal"],
  ] as const)("%p for %p: %s", (gold, response, reason) => {
    const verdict = verify({ gold, response, extraction: "lenient" });
    if (gold === "\\frac{1}{2}") expect(verdict).toEqual({ reward: 0, answer: null, reason: "unparsed" });
    else expect(verdict.reason).toBe(reason);
  });

  test("and can be forced", () => {
    const question = {
      gold: "18",
      response: "Thus $x$ is what we look for, not 18. Thus $y$",
      extraction: "lenient",
    } as const;
    expect(verify({ ...question, verifier: "gsm8k" }).answer).toBe("18");
    expect(verify({ ...question, verifier: "math" }).answer).toBe("y");
  });

  test("an empty text is unparsed; an empty gold is matched only by an empty box", () => {
    expect(verify({ gold: "18", extraction: "lenient" }).reason).toBe("unparsed");
    expect(verify({ gold: "", response: "18", extraction: "lenient" }).reward).toBe(0);
    expect(verify({ gold: "", response: "", extraction: "lenient" }).reason).toBe("unparsed");
    expect(verify({ gold: "so $\\boxed{}$", response: "$\\boxed{}$", extraction: "strict" }).reward).toBe(1);
  });
});

describe("grpo verify", () => {
  const folder = mkdtempSync(join(tmpdir(), "grpo-verify-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const file = (name: string, content: string | Uint8Array): string => {
    const path = join(folder, name);
    writeFileSync(path, content);
    return path;
  };

  async function run(
    ...argv: string[]
  ): Promise<{ verdicts: { reward: number; answer: string | null; reason: string }[]; err: string }> {
    const output = join(folder, "out.jsonl");
    const write = process.stderr.write;
    let err = "";
    process.stderr.write = (text: string | Uint8Array) => {
      err += String(text);
      return true;
    };
    try {
      await command.run([...argv, "--output", output, "--overwrite"]);
    } finally {
      process.stderr.write = write;
    }
    const text = readFileSync(output, "utf8");
    rmSync(output);
    return {
      verdicts: text
        .split("\n")
        .filter(Boolean)
        .map((line) => JSON.parse(line)),
      err,
    };
  }

  const message = async (path: string): Promise<string> => {
    try {
      await run("--input", path);
    } catch (error) {
      expect(error).toBeInstanceOf(InputError);
      expect((error as Error).message).not.toContain("\n");
      return (error as Error).message;
    }
    throw new Error("nothing was thrown");
  };

  test("one line out per line in, in order, over many batches; gzip; agreement with labels", async () => {
    const rows = Array.from({ length: 3000 }, (_, i) => ({
      gold: String(i),
      response: i % 5 === 4 ? "no idea" : `#### ${i % 5 === 3 ? i + 1 : i}`,
      label: i !== 7 && i % 5 < 3,
    }));
    const text = `${rows.map((row) => JSON.stringify(row)).join("\n")}\n`;
    for (const path of [file("a.jsonl", text), file("a.jsonl.gz", Bun.gzipSync(text))]) {
      const { verdicts, err } = await run("--input", path);
      expect(verdicts.map((v) => v.reward)).toEqual(rows.map((_, i) => (i % 5 < 3 ? 1 : 0)));
      expect(verdicts.slice(3, 6)).toEqual([
        { reward: 0, answer: "4", reason: "different" },
        { reward: 0, answer: null, reason: "unparsed" },
        { reward: 1, answer: "5", reason: "equal" },
      ]);
      expect(err).toMatch(/^3000 answers in .*: 1800 equal, 600 different, 600 unparsed, 0 timeout\n/);
      expect(err).toContain("agreement with the labels: 2999 of 3000 (99.97 %)");
    }
  });

  test("pred, --verifier, --extraction, blank lines, no line end, characters split across chunks", async () => {
    const path = file("b.jsonl", '{"gold":"\\\\frac12","pred":"0.5"}\n\n{"gold":"18","response":"ümläut ½ → 18"}');
    expect((await run("--input", path)).verdicts.map((v) => v.reward)).toEqual([1, 1]);
    expect((await run("--input", path, "--extraction", "strict")).verdicts.map((v) => v.reason)).toEqual([
      "equal",
      "unparsed",
    ]);
    expect((await run("--input", path, "--verifier=gsm8k")).verdicts).toHaveLength(2);
    const wide = file("wide.jsonl", `${JSON.stringify({ gold: "1", response: `${"é".repeat(400_001)} 1` })}\n`);
    expect((await run("--input", wide)).verdicts).toEqual([{ reward: 1, answer: "1", reason: "equal" }]);
    expect((await run("--input", file("empty.jsonl", ""))).verdicts).toEqual([]);
  });

  test.each([
    ['{"gold":"1","response":"1"}\n{"gold":', "line 2: not JSON"],
    ["[1]", "line 1: not a JSON object"],
    ["null", "line 1: not a JSON object"],
    ['{"response":"1"}', 'line 1: "gold" is missing'],
    ['{"gold":1,"response":"1"}', 'line 1: "gold" is not a string'],
    ['{"gold":"1"}', 'line 1: neither "response" nor "pred"'],
    ['{"gold":"1","response":"1","pred":"1"}', 'line 1: both "response" and "pred"'],
    ['\n{"gold":"1","pred":[1]}', 'line 2: "pred" is not a string'],
  ])("%p: %s, and no output is left", async (text, line) => {
    expect(await message(file("bad.jsonl", text))).toContain(`bad.jsonl, ${line}`);
    expect(readdirSync(folder).filter((name) => name.startsWith("out"))).toEqual([]);
  });

  test("unreadable and unwritable files", async () => {
    expect(await message(join(folder, "absent.jsonl"))).toContain("absent.jsonl does not exist");
    expect(await message(folder)).toContain("is a folder");
    expect(await message(file("torn.jsonl.gz", Bun.gzipSync("x".repeat(9999)).slice(0, 20)))).toContain(
      "cannot be read",
    );
    expect(await message(file("plain.jsonl.gz", "{}"))).toContain("cannot be read");
    await expect(command.run([])).rejects.toThrow("--input is missing");
    await expect(command.run(["--input", file("c.jsonl", ""), "--output", join(folder, "no/such/o")])).rejects.toThrow(
      "there is no folder",
    );
  });
});
