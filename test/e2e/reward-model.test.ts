/**
 * A reward model on texts: the ids that it scores (by its own template and tokenizer), the score at the last of them, texts
 * that are too long, and concurrent calls.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readModelConfig } from "../../src/checkpoint/huggingface.ts";
import type { Device } from "../../src/device/device.ts";
import { InputError, RunError } from "../../src/errors.ts";
import { openRunDevice } from "../../src/run/device.ts";
import { createRewardModelScorer, planRewardModels, rewardSequenceLimit } from "../../src/session/reward-model.ts";
import { planSession } from "../../src/session/session.ts";
import { loadTokenizer } from "../../src/tokenizer/tokenizer.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { referenceValues } from "./reference-model.ts";
import { workFolder } from "./runs.ts";
import { readTensors } from "./tensors.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const fixture = join(import.meta.dir, "../fixtures/tokenizer");
const work = workFolder();
let device: Device;
let policy: string;
let withTemplate: string;
let plain: string;
let session: Awaited<ReturnType<typeof open>>;
beforeAll(async () => {
  device = await openRunDevice({ device: "cpu", threads: 2 }, () => {});
  policy = await writeTinyModel(work.at("policy"), { head: "lm" });
  // Different sizes and another vocabulary than the policy's.
  withTemplate = await writeTinyModel(work.at("chat"), { modelType: "qwen2", vocabSize: 400, tokenizer: fixture });
  const bare = work.at("bare");
  cpSync(fixture, bare, { recursive: true });
  const path = join(bare, "tokenizer_config.json");
  const { chat_template: _, ...rest } = JSON.parse(readFileSync(path, "utf8"));
  writeFileSync(path, JSON.stringify(rest));
  plain = await writeTinyModel(work.at("plain"), { vocabSize: 360, seed: 3, tokenizer: bare });
  session = await open([withTemplate, plain], 60);
});
afterAll(() => {
  session.close();
  device.close();
  work.remove();
});

function open(folders: readonly string[], longest: number) {
  const requests = folders.map((folder) => ({ folder, longest, microBatchTokens: 64 }));
  return planSession(device, (plan) => ({
    rewardModels: planRewardModels(plan, requests, { dtype: null, duringRollout: false }),
  })).open();
}

const chat = [{ role: "user", content: "How many apples?" }];
const system = { role: "system", content: "Be brief." };

describe("the scored ids", () => {
  const textOf = (folder: string, ids: Int32Array) => loadTokenizer(folder).decode([...ids]);
  const opened = (i: number, systemPrompt?: string) =>
    createRewardModelScorer(session.rewardModels[i]!, systemPrompt === undefined ? {} : { systemPrompt });

  test.each([
    [
      "messages: the answer is the assistant's turn, and no other is opened",
      chat,
      undefined,
      "<|start|>user\nHow many apples?<|end|>\n<|start|>assistant\n7 left<|end|>\n",
    ],
    [
      "a system prompt goes first",
      chat,
      "Be brief.",
      "<|start|>system\nBe brief.<|end|>\n<|start|>user\nHow many apples?<|end|>\n<|start|>assistant\n7 left<|end|>\n",
    ],
    [
      "the prompt's own system message replaces the default",
      [system, ...chat],
      "Be long.",
      "<|start|>system\nBe brief.<|end|>\n<|start|>user\nHow many apples?<|end|>\n<|start|>assistant\n7 left<|end|>\n",
    ],
    [
      "an answer that the prompt begins is continued",
      [...chat, { role: "assistant", content: "She has " }],
      undefined,
      "<|start|>user\nHow many apples?<|end|>\n<|start|>assistant\nShe has 7 left<|end|>\n",
    ],
    ["a text", "How many apples? ", undefined, "How many apples? 7 left"],
  ])("%s", (_, prompt, systemPrompt, wanted) => {
    const ids = opened(0, systemPrompt).encode({ prompt, completion: "7 left" });
    expect(textOf(withTemplate, ids)).toBe(wanted);
  });

  test("without a template messages are plain text", () => {
    const ids = opened(1).encode({ prompt: [system, ...chat], completion: "7 left" });
    expect(textOf(plain, ids)).toBe("Be brief.\n\nHow many apples?7 left");
  });
});

test("the score is the float64 model's at the last token, whatever else is scored with it", async () => {
  const texts = ["7 left", "The answer is 180.", "x", "12 - 5 = 7"].map((completion) => ({ prompt: chat, completion }));
  for (const [i, folder] of [withTemplate, plain].entries()) {
    const scorer = createRewardModelScorer(session.rewardModels[i]!);
    let tokens = 0;
    const { rewards, tooLong } = await scorer.score(texts, (n) => {
      tokens += n;
    });
    expect(tooLong).toBe(0);
    const tensors = readTensors(join(folder, "model.safetensors"));
    const parameters = new Map([...tensors].map(([name, values]) => [name, Float64Array.from(values)]));
    const sequences = texts.map((text) => scorer.encode(text));
    expect(tokens).toBe(sequences.reduce((sum, { length }) => sum + length, 0));
    for (const [t, ids] of sequences.entries())
      expect(
        Math.abs(rewards[t]! - referenceValues(readModelConfig(folder, "score"), parameters, ids).at(-1)!),
      ).toBeLessThan(2e-5);
    expect(new Set(rewards).size).toBe(texts.length);
    for (const [t, text] of texts.entries()) expect((await scorer.score([text])).rewards).toEqual([rewards[t]!]);
  }
});

test("texts longer than planned are left out and counted; nothing is truncated", async () => {
  const scorer = createRewardModelScorer(session.rewardModels[1]!);
  const long = { prompt: "The answer is 7. ".repeat(40), completion: "12" };
  expect(scorer.encode(long).length).toBeGreaterThan(60);
  const { rewards, tooLong } = await scorer.score([
    { prompt: "a", completion: "b" },
    long,
    { prompt: "c", completion: "d" },
  ]);
  expect(rewards.map((r) => r === null)).toEqual([false, true, false]);
  expect(tooLong).toBe(1);
  expect(await scorer.score([long])).toEqual({ rewards: [null], tooLong: 1 });
  expect(await scorer.score([])).toEqual({ rewards: [], tooLong: 0 });
});

test("concurrent calls have the same results as sequential ones", async () => {
  const scorer = createRewardModelScorer(session.rewardModels[0]!);
  const texts = Array.from({ length: 12 }, (_, i) => [{ prompt: chat, completion: `answer ${i * i}` }]);
  const together = await Promise.all(texts.map((text) => scorer.score(text)));
  for (const [i, text] of texts.entries()) expect(await scorer.score(text)).toEqual(together[i]!);
});

test("a score that is not a number stops the run by name; the next call works", async () => {
  const broken = await open([withTemplate], 60);
  const scorer = createRewardModelScorer(broken.rewardModels[0]!);
  const { head } = broken.rewardModels[0]!.model.weights;
  device.ops.fill({ name: "head", address: head.address, dtype: "float32", shape: [head.elements], rowStride: 1 }, NaN);
  const text = { prompt: chat, completion: "7" };
  const failure = await scorer.score([text]).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(RunError);
  expect((failure as Error).message).toMatch(/chat: the reward model gives NaN for text 0 of 1/);
  device.ops.fill({ name: "head", address: head.address, dtype: "float32", shape: [head.elements], rowStride: 1 }, 0);
  expect((await scorer.score([text])).rewards).toEqual([0]);
  broken.close();
});

test("a sequence may have twice the policy's tokens plus a template's, within the context", () => {
  expect(rewardSequenceLimit(plain, 1000)).toBe(128);
  expect(() => rewardSequenceLimit(policy, 10)).toThrow(InputError);
});
