import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { tableFromIPC } from "apache-arrow";
import { initializerRange, initialTensors, modelConfig, modelShape } from "../../data/init-model.ts";
import { bundledProblems, bundledTokenizer, recipe, writeInitialModel, writeProblems } from "../../data/make.ts";
import { names, things } from "../../data/templates.ts";
import { buildVocabulary, endTokenId, specialTokens, tokenizerFiles } from "../../data/tokenizer.ts";
import { assetPath } from "../../src/assets.ts";

const folder = mkdtempSync(join(tmpdir(), "bundled-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let tokenizer: Tokenizer;
beforeAll(() => {
  const { files } = bundledTokenizer();
  const plain = (name: string) => JSON.parse(JSON.stringify(files[name]));
  tokenizer = new Tokenizer(plain("tokenizer.json"), plain("tokenizer_config.json"));
});

const readJson = (path: string) => JSON.parse(readFileSync(path, "utf8"));

test("the vocabulary is full, small and a multiple of 16", () => {
  const { size } = bundledTokenizer();
  expect(size).toBe(recipe.vocabularySize);
  expect(size % 16).toBe(0);
  expect(size).toBeLessThanOrEqual(512);
});

test("every word of a problem is one token, every digit a separate one", () => {
  for (const { question, answer } of bundledProblems().train.slice(0, 1000)) {
    const pieces = question.match(/ ?\p{L}+|\d| ?[^\s\p{L}\d]|\s(?=\d)/gu)!;
    expect(tokenizer.encode(question).ids.length).toBe(pieces.length);
    expect(tokenizer.encode(answer).ids.length).toBe(answer.replace("####", "#").length);
  }
  for (const word of [...names, ...names.map((name) => ` ${name}`), ...things.map((thing) => ` ${thing}`)]) {
    expect(tokenizer.encode(word).ids.length).toBe(1);
  }
});

test("any text comes back from its tokens", () => {
  const texts = [
    "Zürich — 日本 \n\n  x=1,234",
    "\t tabs\r\n",
    "👩‍🚀 it's",
    "  two  spaces  ",
    "a\u0000b",
    "####42",
    " ",
  ];
  for (const text of texts) {
    expect(tokenizer.decode(tokenizer.encode(text).ids, {})).toBe(text);
  }
});

test("special tokens are found in text and have the first ids", () => {
  expect(tokenizer.encode("<|user|>7<|end|><|assistant|>").ids).toEqual([
    specialTokens.indexOf("<|user|>"),
    ...tokenizer.encode("7").ids,
    endTokenId,
    specialTokens.indexOf("<|assistant|>"),
  ]);
});

test("a vocabulary too small for the bytes is refused", () => {
  expect(() => buildVocabulary(["a b"], 200)).toThrow(RangeError);
  const small = buildVocabulary(["cats, seven dogs, seven"], 262);
  expect(small.at(-1)).toBe("\u0120seven");
  expect(Object.keys(tokenizerFiles(small, 8))).toContain("tokenizer.json");
});

test("initial weights: equal for equal seeds, the right spread, residual projections smaller, the head tied", () => {
  const tensors = initialTensors(recipe.vocabularySize, 7);
  const same = (seed: number) =>
    initialTensors(recipe.vocabularySize, seed).every(
      ({ name, values }, i) =>
        name === tensors[i]!.name && Buffer.compare(bytesOf(values), bytesOf(tensors[i]!.values)) === 0,
    );
  expect(same(7)).toBe(true);
  expect(same(8)).toBe(false);
  const spread = (name: string) => {
    const values = tensors.find((tensor) => tensor.name === name)!.values;
    return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
  };
  const residual = initializerRange / Math.sqrt(2 * modelShape.layers);
  expect(spread("model.embed_tokens.weight") / initializerRange).toBeCloseTo(1, 1);
  expect(spread("model.layers.1.mlp.gate_proj.weight") / initializerRange).toBeCloseTo(1, 1);
  expect(spread("model.layers.1.mlp.down_proj.weight") / residual).toBeCloseTo(1, 1);
  expect(spread("model.layers.0.self_attn.o_proj.weight") / residual).toBeCloseTo(1, 1);
  expect(spread("model.norm.weight")).toBe(1);
  expect(tensors.some(({ name }) => name.startsWith("lm_head"))).toBe(false);
  expect(modelConfig(16).tie_word_embeddings).toBe(true);
});

test("the untrained model is a folder with all tensors in place", async () => {
  const model = join(folder, "model");
  await writeInitialModel(model);
  expect(readdirSync(model).sort()).toEqual(readdirSync(assetPath("data/model")).sort());
  const bytes = readFileSync(join(model, "model.safetensors"));
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + headerBytes).toString());
  expect(header["model.embed_tokens.weight"].shape).toEqual([recipe.vocabularySize, modelShape.hiddenSize]);
  for (const { name, shape, values } of initialTensors(recipe.vocabularySize, recipe.weightsSeed)) {
    expect(header[name].shape).toEqual(shape);
    const [from, to] = header[name].data_offsets;
    expect(Buffer.compare(bytes.subarray(8 + headerBytes + from, 8 + headerBytes + to), bytesOf(values))).toBe(0);
  }
});

test("the committed tokenizer, configuration and problems match the generator's output", async () => {
  const fresh = join(folder, "fresh");
  await writeInitialModel(fresh);
  for (const name of readdirSync(fresh).filter((file) => file.endsWith(".json"))) {
    expect(readJson(join(assetPath("data/model"), name))).toEqual(readJson(join(fresh, name)));
  }
  const { train, held } = bundledProblems();
  for (const [name, problems] of [
    ["train.arrow", train],
    ["eval.arrow", held],
  ] as const) {
    const path = join(folder, name);
    writeProblems(path, problems);
    const committed = readFileSync(assetPath(`data/problems/${name}`));
    expect(Buffer.compare(committed, readFileSync(path))).toBe(0);
    const table = tableFromIPC(committed);
    expect(table.schema.names).toEqual(["question", "answer"]);
    expect(table.numRows).toBe(problems.length);
    expect(table.get(0)!.toJSON()).toEqual({ question: problems[0]!.question, answer: problems[0]!.answer });
  }
});

test("the committed files are small", () => {
  const size = (relative: string) =>
    readdirSync(assetPath(relative)).reduce((sum, name) => sum + statSync(join(assetPath(relative), name)).size, 0);
  expect(size("data/model")).toBeLessThan(2.5e6);
  expect(size("data/problems")).toBeLessThan(1.5e6);
});

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
