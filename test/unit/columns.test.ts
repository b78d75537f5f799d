/** Which columns make an example, and its prompt, gold answer and worked answer. */
import { describe, expect, test } from "bun:test";
import { answerText, goldOf } from "../../src/answers/gold.ts";
import { afterHashes, lastBoxed } from "../../src/answers/marks.ts";
import { fieldOf, typeOfValue } from "../../src/data/arrow/types.ts";
import { typeName } from "../../src/data/arrow/values.ts";
import { type ColumnSettings, exampleAt, findColumns } from "../../src/data/columns.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { InputError } from "../../src/errors.ts";

/** A dataset of one row, without a file. */
function datasetOf(row: Record<string, unknown>): Dataset {
  const columns = Object.entries(row).map(([name, value]) => {
    const dataType = fieldOf(name, typeOfValue(value)).type;
    return { name, type: typeName(dataType), dataType };
  });
  return { path: "set.arrow", numRows: 1, columns, shards: [], row: () => row, close() {} };
}

function example(row: Record<string, unknown>, settings?: ColumnSettings) {
  const dataset = datasetOf(row);
  return exampleAt(dataset, findColumns(dataset, settings), 0);
}

const user = (content: string) => [{ role: "user", content }];

describe("columns found by default", () => {
  test("question and answer, as in GSM8K", () => {
    const answer = "She has 2 + 3 = <<2+3=5>>5.\n#### 1,250";
    const found = example({ id: 1, question: "How many?", answer });
    expect(found).toEqual({
      prompt: user("How many?"),
      promptKind: "chat",
      gold: "1250",
      answerText: answer,
      columns: { id: 1, question: "How many?", answer },
    });
  });

  test("problem and solution, as in MATH", () => {
    const solution = "So $x = \\boxed{\\frac{1}{2}}$.";
    expect(example({ problem: "x?", solution })).toMatchObject({ gold: "\\frac{1}{2}", answerText: solution });
  });

  test("an answer beside a solution is the gold, the solution the worked answer", () => {
    const found = example({ problem: "x?", solution: "Well, \\boxed{3}, or 4.", answer: "4" });
    expect(found).toMatchObject({ prompt: user("x?"), gold: "4", answerText: "Well, \\boxed{3}, or 4." });
  });

  test("a text prompt stays text, and takes precedence over a question", () => {
    expect(example({ question: "no", prompt: "Once upon" })).toMatchObject({
      prompt: "Once upon",
      promptKind: "text",
      gold: null,
      answerText: null,
    });
    expect(example({ prompt: "p", ground_truth: 7 })).toMatchObject({ gold: "7", answerText: "7" });
    expect(example({ prompt: "p", completion: " the end" })).toMatchObject({ answerText: " the end" });
  });

  test("messages, without the final answer", () => {
    const prompt = [{ role: "system", content: "Be brief." }, ...user("Hi")];
    expect(example({ prompt })).toMatchObject({ prompt, promptKind: "chat", gold: null });
    const messages = [...prompt, { role: "assistant", content: "Hello \\boxed{9}" }];
    expect(example({ messages })).toMatchObject({ prompt, gold: "9", answerText: "Hello \\boxed{9}" });
    expect(example({ prompt: user("q"), completion: [{ role: "assistant", content: "a" }] })).toMatchObject({
      answerText: "a",
    });
  });

  test("a message with only tool calls needs no text", () => {
    const calls = [{ type: "function", function: { name: "add", arguments: { a: 1 } } }];
    const messages = [
      { role: "user", content: "q" },
      { role: "assistant", content: null, tool_calls: calls },
      { role: "tool", content: "2" },
    ];
    expect(example({ messages }).prompt).toEqual([
      { role: "user", content: "q" },
      { role: "assistant", tool_calls: calls },
      { role: "tool", content: "2" },
    ]);
  });

  test("messages keep what templates read, without the nulls of a struct column", () => {
    const messages = [
      {
        role: "user",
        content: [
          { type: "text", text: "a" },
          { type: "text", text: "b" },
        ],
        name: "Al",
        tool: null,
      },
    ];
    expect(example({ messages }).prompt).toEqual([{ role: "user", content: "ab", name: "Al" }]);
  });
});

describe("columns named by settings", () => {
  test("any column may be prompt and answer", () => {
    const row = { instruction: "Add.", label: "#### 3", question: "no", answer: "no" };
    const found = example(row, { promptColumn: "instruction", answerColumn: "label" });
    expect(found).toMatchObject({ prompt: user("Add."), gold: "3", answerText: "#### 3" });
  });

  test("a missing column is reported with the existing ones and the setting", () => {
    const dataset = datasetOf({ text: "", label: "" });
    const message = (settings?: ColumnSettings) => {
      try {
        findColumns(dataset, settings);
      } catch (error) {
        expect(error).toBeInstanceOf(InputError);
        return (error as InputError).message;
      }
      return "found";
    };
    expect(message()).toBe(
      "set.arrow: no column for the prompt (prompt, question, problem, messages); it has text, label; name it with --prompt_column",
    );
    expect(message({ promptColumn: "quest" })).toBe('set.arrow: no column "quest" (prompt_column); it has text, label');
    expect(message({ promptColumn: "text", answerColumn: "gold" })).toContain('"gold" (answer_column); it has');
    expect(message({ promptColumn: "text" })).toBe("found");
    expect(() => findColumns({ path: "e", columns: [] })).toThrow("it has no columns");
  });
});

describe("fields within columns", () => {
  const row = {
    prompt: user("1 + 1?"),
    meta: { item: { text: "2 + 2?", n: 4 }, "dotted.name": 5 },
    "meta.item": "a column of this name",
    list: [{ v: 6 }, { v: 7 }],
  };
  const golds = (...names: string[]) => names.map((answerColumn) => example(row, { answerColumn }).gold);

  test("are named by dots; a column with the full name takes precedence", () => {
    expect(golds("meta.item", "list.1.v", "prompt.0.content")).toEqual(["a column of this name", "7", "1 + 1?"]);
    expect(golds("meta.item.n", "meta.dotted.name")).toEqual(["4", "5"]);
    const { "meta.item": _, ...others } = row;
    const found = example(others, { promptColumn: "meta.item.text", answerColumn: "meta.item.n" });
    expect(found).toMatchObject({ prompt: user("2 + 2?"), gold: "4" });
  });

  test("that are missing are reported with the existing ones", () => {
    const { "meta.item": _, ...others } = row;
    const message = (answerColumn: string) => {
      try {
        return `found ${findColumns(datasetOf(others), { answerColumn }).gold?.name}`;
      } catch (error) {
        expect(error).toBeInstanceOf(InputError);
        return (error as InputError).message.replace("set.arrow: ", "");
      }
    };
    expect(message("meta")).toBe(
      'column "meta": meta is a struct with item, dotted.name; name one of them, such as --answer_column meta.item',
    );
    expect(message("meta.item")).toEndWith("name one of them, such as --answer_column meta.item.text");
    expect(message("meta.item.x")).toBe('column "meta": no field "x" in meta.item (answer_column); it has text, n');
    expect(message("meta.item.n.x")).toContain('no "x" in meta.item.n (answer_column), which is not a struct');
    expect(message("list.v")).toContain("which is a list, whose items are numbered from 0");
    expect(message("nothing.x")).toBe(
      'no column "nothing.x" (answer_column); it has prompt, meta (with meta.item, meta.dotted.name), list',
    );
  });

  test("verl's files are read as they are", () => {
    const verl = {
      data_source: "x",
      prompt: user("1 + 1?"),
      reward_model: { style: "rule", ground_truth: "2" },
      extra_info: { index: 0, answer: "It is 2.\n#### 2" },
    };
    expect(example(verl)).toMatchObject({ prompt: user("1 + 1?"), gold: "2", answerText: "It is 2.\n#### 2" });
    expect(findColumns(datasetOf(verl)).remarks).toEqual([
      "gold answers are taken from reward_model.ground_truth, as verl's files have them",
    ]);
    const { extra_info, ...without } = verl;
    expect(example(without)).toMatchObject({ gold: "2", answerText: "2" });
    expect(example({ ...verl, answer: "3" }).gold).toBe("3");
  });

  test("a struct answer is not used by default, which is reported", () => {
    const found = findColumns(datasetOf({ question: "?", answer: { value: "3", aliases: ["three"] } }));
    expect(found.gold).toBeNull();
    expect(found.remarks.join()).toMatch(/"answer" is a struct.*\(value, aliases\).*--answer_column answer\.value/);
  });

  test("bytes that are UTF-8 are text", () => {
    const bytes = (text: string) => ({
      path: "b",
      numRows: 1,
      shards: [],
      close() {},
      columns: [{ name: "question", type: "binary" }],
      row: () => ({ question: Buffer.from(text, "latin1") }),
    });
    const read = (text: string) => exampleAt(bytes(text), findColumns(bytes(text)), 0).prompt;
    expect(read("a?")).toEqual(user("a?"));
    expect(() => read("\xff")).toThrow("bytes that are not UTF-8 text");
    expect(() =>
      example({ messages: [{ role: "user", content: "a" }], question: "x\ud800" }, { promptColumn: "question" }),
    ).toThrow("surrogate");
  });
});

test("a row without a usable prompt is named", () => {
  const broken: [Record<string, unknown>, string][] = [
    [{ question: "  \n" }, 'row 0, column "question": the prompt is empty'],
    [{ question: null }, "not null"],
    [{ prompt: 5 }, "not a number"],
    [{ prompt: [] }, "not an empty list"],
    [{ messages: [{ role: "user" }] }, "message 0: expected {role, content} with text"],
    [{ messages: ["hi"] }, "message 0"],
    [{ messages: [{ role: "assistant", content: "a" }] }, "nothing precedes the assistant's message"],
  ];
  for (const [row, message] of broken) {
    expect(() => example(row)).toThrow(InputError);
    expect(() => example(row)).toThrow(message);
  }
});

describe("gold answers", () => {
  test.each([
    ["text\n#### 42", "42"],
    ["#### $1,234,567.50 ", "$1234567.50"],
    ["#### 1\n#### 2\nrest", "2"],
    ["####", null],
    ["####\n\n 8\n", "8"],
    ["so \\boxed{7}", "7"],
    ["#### 5 as \\boxed{6}", "6"],
    ["\\boxed{6} so\n#### 5", "5"],
    ["\\boxed{6} so\n#### 5 or \\boxed{", "5 or \\boxed{"],
    ["(3, 4)", "(3, 4)"],
    ["  12,5  ", "12,5"],
    ["   ", null],
  ] as const)("%j", (text, gold) => expect(goldOf(text)).toBe(gold));

  test("values that are not text", () => {
    expect([5, 5n, true, ["a"], [3]].map(answerText)).toEqual(["5", "5", "true", "a", "3"]);
    expect([null, undefined, {}, [], ["a", "b"], new Uint8Array(1), Number.NaN].map(answerText)).toEqual(
      Array(7).fill(null),
    );
  });
});

describe("the last box", () => {
  test.each([
    ["\\boxed{5}", "5"],
    ["\\boxed{\\frac{1}{2}} and \\fbox{a}", "a"],
    ["\\boxed{1} then \\boxed{2", "1"],
    ["\\boxed{{a}{b}} }", "{a}{b}"],
    ["\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"],
    ["\\boxed{\\left\\{ x \\right.}", "\\left\\{ x \\right."],
    ["\\boxed{\\boxed{3}}", "3"],
    ["\\boxed {8}", "8"],
    ["$\\boxed 5$.", "5"],
    ["\\boxed 3.5.", "3.5"],
    ["{\\boxed 7}", "7"],
    ["\\boxed \\frac{1}{2}, so", "\\frac{1}{2}"],
    ["\\boxed12", "12"],
    ["\\\\boxed{4}", "4"],
    ["a\\\\\\boxed{6}", "6"],
    ["\\boxed{}", ""],
    ["\\boxedx{1}", null],
    ["\\boxed", null],
    ["\\boxed{", null],
    ["none", null],
    ["", null],
  ] as const)("%s", (text, content) => expect(lastBoxed(text)).toBe(content));

  test("time is linear in the text", () => {
    for (const piece of ["\\boxed{", "\\boxed1", "\\boxed a.", "\\boxed{1}", "{", "\\boxed ...", "#### "]) {
      const text = `\\boxed{1}${piece.repeat(300_000)}`;
      const started = performance.now();
      lastBoxed(text);
      afterHashes(text);
      expect(performance.now() - started).toBeLessThan(2000);
    }
  });
});
