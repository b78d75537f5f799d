/** The tokenizer of test/fixtures/tokenizer; the ids and texts pinned here come from transformers 5.23. */
import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InputError } from "../../src/errors.ts";
import { formatDate } from "../../src/tokenizer/format-date.ts";
import { loadTokenizer, readChatTemplate, type Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { makeTokenizer } from "../fixtures/make-tokenizer.ts";

const fixture = join(import.meta.dir, "../fixtures/tokenizer");
const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A copy of the fixture with files added or replaced; null removes one. */
function variant(files: Record<string, unknown>): string {
  const folder = mkdtempSync(join(tmpdir(), "tokenizer-"));
  folders.push(folder);
  cpSync(fixture, folder, { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    if (content === null) rmSync(join(folder, name));
    else writeFileSync(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return folder;
}

function json(name: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(fixture, name), "utf8"));
}

function stream(tokenizer: Tokenizer, ids: readonly number[], skipSpecialTokens: boolean): string {
  const decoder = tokenizer.incrementalDecoder({ skipSpecialTokens });
  return ids.map((id) => decoder.push(id)).join("") + decoder.end();
}

/** Ids in a fixed pattern over the whole vocabulary: mostly torn characters and unlikely neighbours. */
function scrambled(count: number, vocabSize: number, seed: number): number[] {
  let state = seed;
  return Array.from({ length: count }, () => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor((state / 2 ** 31) * vocabSize);
  });
}

const tokenizer = loadTokenizer(fixture);

test("the fixture matches its generator", () => {
  for (const [name, text] of Object.entries(makeTokenizer())) expect(json(name)).toEqual(JSON.parse(text));
});

describe("encode and decode", () => {
  test.each([
    ["How many apples does Ada have left?", [75, 114, 122, 278, 296, 307, 35, 336, 349, 311, 66]],
    ["naïve 日本 🤗", [113, 100, 198, 178, 121, 104, 35, 233, 154, 168, 233, 159, 175, 35, 243, 162, 167, 154]],
    ["a<|end|>b ½ 180\n\n  x", [100, 0, 101, 35, 197, 192, 35, 52, 59, 51, 13, 13, 35, 35, 123]],
    ["\ufeff it's", [242, 190, 194, 268, 119, 42, 118]],
    ["", []],
  ])("%j", (text, ids) => {
    expect(tokenizer.encode(text)).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe(text);
    expect(stream(tokenizer, ids, false)).toBe(text);
  });

  test("special tokens are skipped on request", () => {
    const ids = tokenizer.encode("a<|end|>b");
    expect(tokenizer.decode(ids)).toBe("a<|end|>b");
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe("ab");
    expect(tokenizer.decode([0], { skipSpecialTokens: true })).toBe("");
  });

  test("a character appears with its last byte, and an incomplete one at the end as U+FFFD", () => {
    const decoder = tokenizer.incrementalDecoder();
    expect([243, 162, 167].map((id) => decoder.push(id))).toEqual(["", "", ""]);
    expect(decoder.push(154)).toBe("🤗");
    expect(decoder.push(243)).toBe("");
    expect(decoder.end()).toBe("\ufffd");
  });

  test("streamed text equals the whole text for any ids", () => {
    for (let seed = 1; seed <= 200; seed++) {
      const ids = scrambled(24, tokenizer.vocabSize, seed);
      expect(stream(tokenizer, ids, false)).toBe(tokenizer.decode(ids));
      expect(stream(tokenizer, ids, true)).toBe(tokenizer.decode(ids, { skipSpecialTokens: true }));
    }
  });

  test("a single token", () => {
    expect(tokenizer.tokenText(0)).toBe("<|end|>");
    expect(tokenizer.tokenText(243)).toBe("\ufffd");
  });

  test.each([355, -1, 1.5, Number.NaN])("id %p is outside the vocabulary", (id) => {
    expect(tokenizer.vocabSize).toBe(355);
    expect(() => tokenizer.decode([3, id])).toThrow(InputError);
    expect(() => tokenizer.incrementalDecoder().push(id)).toThrow(`token id ${id} is outside`);
    expect(() => tokenizer.tokenText(id)).toThrow(InputError);
  });

  test("the model's vocabulary is the limit: padded ids decode to nothing, tokens beyond it are refused", () => {
    const padded = loadTokenizer(variant({ "config.json": { vocab_size: 400 } }));
    expect(padded.decode([100, 399, 101])).toBe("ab");
    expect(() => padded.decode([400])).toThrow("vocabulary of 400");
    const small = loadTokenizer(variant({ "config.json": { vocab_size: 300 } }));
    expect(small.encode("xyz")).toEqual([123, 124, 125]);
    expect(() => small.encode("How many does")).toThrow(/has id 307, .*ends at 300 .*vocab_size/);
  });
});

describe("prompts", () => {
  const question = [{ role: "user", content: "How many?" }];
  const opened = "<|start|>user\nHow many?<|end|>\n<|start|>assistant\n";

  test("messages go through the template, and nothing is added to its ids", () => {
    expect(tokenizer.hasChatTemplate).toBe(true);
    expect(tokenizer.renderChat(question)).toBe(opened);
    expect(tokenizer.renderChat(question, { addGenerationPrompt: false })).toBe("<|start|>user\nHow many?<|end|>\n");
    expect(tokenizer.encodePrompt(question)).toEqual([
      1, 120, 118, 104, 117, 13, 75, 114, 122, 278, 66, 0, 13, 1, 100, 118, 118, 108, 118, 119, 100, 113, 119, 13,
    ]);
  });

  test("template variables", () => {
    const ids = tokenizer.encodePrompt(question, { chatTemplateKwargs: { thinking: false } });
    expect(tokenizer.decode(ids)).toBe(`${opened}(no thoughts)\n`);
    expect(() => tokenizer.renderChat(question, { kwargs: { messages: [] } })).toThrow(
      /chat_template_kwargs: messages/,
    );
  });

  test("the system prompt comes first, unless the messages have their own", () => {
    const own = [{ role: "system", content: "Own." }, ...question];
    const text = (prompt: typeof own) => tokenizer.decode(tokenizer.encodePrompt(prompt, { systemPrompt: "Brief." }));
    expect(text(question)).toBe(`<|start|>system\nBrief.<|end|>\n${opened}`);
    expect(text(own)).toBe(`<|start|>system\nOwn.<|end|>\n${opened}`);
  });

  test("a refusal by the template is bad input", () => {
    expect(() => tokenizer.renderChat([{ role: "judge", content: "" }])).toThrow(InputError);
    expect(() => tokenizer.renderChat([{ role: "judge", content: "" }])).toThrow("unknown role judge");
  });

  test("text, and any prompt without a template, is tokenized plainly, with the tokenizer's own prefix and suffix", () => {
    const withStart = {
      ...json("tokenizer.json"),
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<|start|>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
        special_tokens: { "<|start|>": { id: "<|start|>", ids: [1], tokens: ["<|start|>"] } },
      },
    };
    const plain = loadTokenizer(variant({ "tokenizer.json": withStart, "tokenizer_config.json": null }));
    expect(plain.hasChatTemplate).toBe(false);
    expect(plain.decode(plain.encodePrompt(question))).toBe("<|start|>How many?");
    expect(plain.decode(plain.encodePrompt("How?", { systemPrompt: "Brief." }))).toBe("<|start|>Brief.\n\nHow?");
    expect(plain.encode("a", { specialTokens: false })).toEqual([100]);
    expect(() => plain.renderChat(question)).toThrow("has no chat template");

    const both = loadTokenizer(variant({ "tokenizer.json": withStart }));
    expect(both.decode(both.encodePrompt(question))).toBe(opened);
    expect(both.decode(both.encodePrompt("How?"))).toBe("<|start|>How?");
  });

  test("chat_template.jinja overrides tokenizer_config.json; of named templates the default is used", () => {
    const file = loadTokenizer(variant({ "chat_template.jinja": "[{{ messages[0].content }}]\n" }));
    expect(file.renderChat(question)).toBe("[How many?]");
    const named = [
      { name: "tool_use", template: "no" },
      { name: "default", template: "{{ messages | length }}" },
    ];
    const config = { ...json("tokenizer_config.json"), chat_template: named };
    expect(loadTokenizer(variant({ "tokenizer_config.json": config })).renderChat(question)).toBe("1");
    expect(() => loadTokenizer(variant({ "tokenizer_config.json": { chat_template: 3 } }))).toThrow(InputError);
  });

  test("a template gets the same variables as in transformers", () => {
    const render = (template: string) =>
      loadTokenizer(variant({ "chat_template.jinja": template })).renderChat(question, {
        kwargs: { day: { a: "ä<" } },
      });
    expect(render("{{ tools is none }}{{ documents is defined }}{{ missing is defined }}")).toBe("TrueTrueFalse");
    expect(render("{{ eos_token }}{{ pad_token }}")).toBe("<|end|><|pad|>");
    expect(render("{{ day | tojson }}")).toBe('{"a": "ä<"}');
    expect(render("{% for i in range(1, 7, 2) %}{{ i }}{% endfor %}")).toBe("135");
    expect(render("{{ strftime_now('%Y') }}")).toBe(String(new Date().getFullYear()));
    expect(() => render("{% if %}")).toThrow(InputError);
    expect(() => render("{{ raise_exception('no') }}")).toThrow("refuses these messages: no");
  });

  test("chat_template: a file, a folder, or the text overrides the model's own; an error says where", () => {
    const text = "{% for m in messages %}{{ m.content }}|{% endfor %}";
    const folder = variant({ "chat_template.jinja": text });
    const render = (given: string) => loadTokenizer(fixture, readChatTemplate(given)).renderChat(question);
    const expected = question.map(({ content }) => `${content}|`).join("");
    for (const given of [text, folder, join(folder, "chat_template.jinja")]) expect(render(given)).toBe(expected);
    expect(() => readChatTemplate("nowhere.jinja")).toThrow(/chat_template: nowhere.jinja does not exist/);
    expect(() => readChatTemplate("{% if %}")).toThrow(/^chat_template: line 1: .*; correct the template$/);
    expect(() => readChatTemplate(variant({ "chat_template.jinja": "a\n{{ b" }))).toThrow(
      /chat_template.jinja: line 2: /,
    );
  });
  test("dates are English whatever the locale", () => {
    const date = new Date(2024, 2, 5, 15, 4, 9);
    expect(formatDate(date, "%d %b %Y, %A %e %B, %H:%M:%S, %I %p, %j, %y%%, %q")).toBe(
      "05 Mar 2024, Tuesday  5 March, 15:04:09, 03 PM, 065, 24%, %q",
    );
  });
});

describe("stop tokens", () => {
  test("the union of config.json, generation_config.json and the tokenizer's", () => {
    expect(tokenizer.stopTokenIds).toEqual([0]);
    const all = loadTokenizer(
      variant({
        "config.json": { eos_token_id: 9, vocab_size: 355 },
        "generation_config.json": { eos_token_id: [4, 0] },
      }),
    );
    expect(all.stopTokenIds).toEqual([0, 4, 9]);
    expect([0, 4, 9, 2].map(all.isStop)).toEqual([true, true, true, false]);
  });

  test("anything other than ids is refused", () => {
    const folder = variant({ "generation_config.json": { eos_token_id: ["</s>"] } });
    expect(() => loadTokenizer(folder)).toThrow(/generation_config.json: eos_token_id: "<\/s>" is not a token id/);
  });
});

const fallback = (() => {
  const tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "<0xE4>", "<0xB8>", "<0xAD>", "<0xFF>"];
  const spelled = (content: string, id: number) => ({ id, content, special: true, normalized: false });
  const folder = variant({
    "tokenizer.json": {
      added_tokens: ["<unk>", "<s>", "</s>"].map(spelled),
      normalizer: {
        type: "Sequence",
        normalizers: [
          { type: "Prepend", prepend: "▁" },
          { type: "Replace", pattern: { String: " " }, content: "▁" },
        ],
      },
      pre_tokenizer: null,
      post_processor: null,
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: "▁" }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          { type: "Strip", content: " ", start: 1, stop: 0 },
        ],
      },
      model: {
        type: "BPE",
        unk_token: "<unk>",
        fuse_unk: true,
        byte_fallback: true,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: [["▁", "a"]],
      },
    },
    "tokenizer_config.json": { eos_token: "</s>", unk_token: "<unk>", clean_up_tokenization_spaces: true },
  });
  return loadTokenizer(folder);
})();

describe("vocabularies with byte fallback", () => {
  test("only the text's first space is dropped", () => {
    const ids = fallback.encode("a b 中");
    expect(ids).toEqual([6, 3, 5, 3, 7, 8, 9]);
    expect(fallback.decode(ids)).toBe("a b 中");
    expect(stream(fallback, ids, false)).toBe("a b 中");
  });

  test("a run of invalid UTF-8 bytes is one U+FFFD per byte", () => {
    expect(fallback.decode([7, 8, 9, 10, 4])).toBe("\ufffd\ufffd\ufffd\ufffda");
    expect(fallback.decode([7, 8, 9, 4, 10])).toBe("中a\ufffd");
  });

  test("streamed text equals the whole text for any ids", () => {
    for (let seed = 1; seed <= 200; seed++) {
      const ids = scrambled(16, fallback.vocabSize, seed);
      expect(stream(fallback, ids, false)).toBe(fallback.decode(ids));
      expect(stream(fallback, ids, true)).toBe(fallback.decode(ids, { skipSpecialTokens: true }));
    }
    expect(fallback.decode([])).toBe("");
  });
});

const words = (() => {
  const tokens = ["[UNK]", "don", "'", "t", ".", "it", "s", "n", ",", "##ing", "!"];
  const folder = variant({
    "tokenizer.json": {
      pre_tokenizer: { type: "WhitespaceSplit" },
      decoder: { type: "WordPiece", prefix: "##", cleanup: false },
      model: {
        type: "WordPiece",
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      },
    },
    "tokenizer_config.json": { clean_up_tokenization_spaces: true },
  });
  return loadTokenizer(folder);
})();

test("words cleaned of spaces before punctuation stream as they decode whole", () => {
  expect(words.decode([1, 9, 4, 5, 2, 6, 8, 10])).toBe("doning. it's,!");
  for (let seed = 1; seed <= 200; seed++) {
    const ids = scrambled(20, words.vocabSize, seed);
    expect(stream(words, ids, false)).toBe(words.decode(ids));
  }
});

describe("stop strings", () => {
  /** The token that ends a completion, found by decoding the whole text at each token: the definition. */
  function byWholeText(of: Tokenizer, ids: readonly number[], strings: readonly string[]) {
    for (let count = 1; count <= ids.length; count++) {
      const text = of.decode(ids.slice(0, count));
      const found = strings.find((stop) => text.includes(stop));
      if (found !== undefined) return { count, found };
    }
    return null;
  }
  function byMatcher(of: Tokenizer, ids: readonly number[], strings: readonly string[]) {
    const matcher = of.stopStrings(strings)!();
    for (const [i, id] of ids.entries()) {
      const found = matcher.push(id);
      if (found !== null) return { count: i + 1, found };
    }
    return null;
  }

  test("a string across the borders of tokens, of characters' bytes, with text after it, and of several the one that ends first", () => {
    const cases: [text: string, strings: string[]][] = [
      ["How many apples does Ada have left?", ["es do"]],
      ["How many apples does Ada have left?", ["y", "w m"]],
      ["naïve 日本 🤗 and more", ["本 🤗"]],
      ["naïve 日本 🤗 and more", ["ï"]],
      ["a<|end|>b", ["<|end|>"]],
      ["a<|end|>b", ["|>b"]],
      ["left?", ["f"]],
      ["left?", ["left? "]],
    ];
    for (const [text, strings] of cases) {
      const ids = tokenizer.encode(text);
      expect(byMatcher(tokenizer, ids, strings)).toEqual(byWholeText(tokenizer, ids, strings));
    }
    expect(byMatcher(tokenizer, tokenizer.encode("left?"), ["f"])!.found).toBe("f");
    // The last byte of the character, not the first.
    const character = tokenizer.encode("🤗");
    expect(byMatcher(tokenizer, character, ["🤗"])).toEqual({ count: character.length, found: "🤗" });
    expect(tokenizer.stopStrings(null)).toBeNull();
    expect(() => tokenizer.stopStrings([""])).toThrow(RangeError);
  });

  test("for any ids and vocabulary as in the whole text, and for each completion separately", () => {
    const vocabularies: [Tokenizer, string[]][] = [
      [tokenizer, ["e", "\n\n", "the", " a", "中"]],
      [fallback, ["a 中", "ab", "中", " b"]],
      [words, ["it", "don.", "s,", "n!"]],
    ];
    let found = 0;
    for (const [of, strings] of vocabularies)
      for (let seed = 1; seed <= 200; seed++) {
        const ids = scrambled(24, Math.min(of.vocabSize, 350), seed);
        const asked = strings.slice(seed % strings.length);
        const expected = byWholeText(of, ids, asked);
        expect(byMatcher(of, ids, asked)).toEqual(expected);
        if (expected !== null) found++;
      }
    expect(found).toBeGreaterThan(100);
  });

  test("a run of byte tokens as long as a completion costs no more than other tokens", () => {
    const matcher = fallback.stopStrings(["ab"])!();
    const since = performance.now();
    for (let i = 0; i < 30_000; i++) matcher.push(7 + (i % 3));
    expect(performance.now() - since).toBeLessThan(2000);
    expect(matcher.push(4)).toBeNull();
    expect(matcher.push(5)).toBe("ab");
  });
});

describe("hostile folders", () => {
  const whole = readFileSync(join(fixture, "tokenizer.json"), "utf8");
  const split = (behavior: string) => ({
    ...json("tokenizer.json"),
    pre_tokenizer: { type: "Split", pattern: { String: "a" }, behavior, invert: false },
  });
  const added = (token: object) => ({ ...json("tokenizer.json"), added_tokens: [token] });

  test.each([
    ["missing", null, /holds no tokenizer.json/],
    ["torn", whole.slice(0, whole.length / 2), /tokenizer.json: not valid JSON/],
    ["empty", "", /the file is empty/],
    ["a list", "[]", /is not a JSON object/],
    ["without a model", "{}", /holds no model/],
    ["without a vocabulary", { model: { type: "BPE" } }, /holds no model/],
    ["without merges", { model: { type: "BPE", vocab: { a: 0 } } }, /model.merges/],
    ["of an unknown decoder", { ...json("tokenizer.json"), decoder: { type: "Magic" } }, /tokenizer.json: .*Magic/],
    ["with an unsupported split", split("Sideways"), /Sideways/],
    ["with a token without id", added({ content: "x" }), /added_tokens.0/],
  ])("tokenizer.json %s", (_, content, message) => {
    const folder = variant({ "tokenizer.json": content });
    expect(() => loadTokenizer(folder)).toThrow(InputError);
    expect(() => loadTokenizer(folder)).toThrow(message);
  });

  test("a torn tokenizer_config.json", () => {
    expect(() => loadTokenizer(variant({ "tokenizer_config.json": '{"eos' }))).toThrow(
      /tokenizer_config.json: not valid/,
    );
  });
});
