/** `grpo generate`: completes one prompt, streamed as text, or a file of prompts, a line of JSON each. */
import { z } from "zod";
import { resolveModel } from "../checkpoint/hub.ts";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { requireFreeFile } from "../checkpoint/output-folder.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import type { GenerateConfig } from "../config/schema.ts";
import { errorText, InputError } from "../errors.ts";
import { writeOutput } from "../files/atomic.ts";
import { isThere, requireFile } from "../files/paths.ts";
import type { Message } from "../message.ts";
import type { RolloutEngine } from "../rollout/engine.ts";
import { withDeviceSession } from "../run/device.ts";
import { rolloutLimits } from "../run/rollout-limits.ts";
import { planPolicy, planSampling } from "../session/policy.ts";
import { loadTokenizer, readChatTemplate, type Tokenizer } from "../tokenizer/tokenizer.ts";
import { bundledModel } from "./bundled.ts";
import type { Command } from "./command.ts";
import { type Interrupt, onInterrupt } from "./interrupt.ts";

type Prompt = string | readonly Message[];

const message = z.looseObject({ role: z.string(), content: z.string() });
const line = z.looseObject({ prompt: z.union([z.string(), z.array(message).min(1)]) });

interface PlacedPrompt {
  readonly prompt: Prompt;
  /** Where it stands, for messages. */
  readonly place: string;
}

async function textOf(path: string): Promise<string> {
  requireFile(path, { once: true });
  if (!isThere(path)) throw new InputError(`${path}: there is no such file; check --input`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await Bun.file(path).bytes());
  } catch (error) {
    const why = error instanceof TypeError ? "is not UTF-8 text" : `cannot be read (${errorText(error)})`;
    throw new InputError(`${path}: ${why}; give --input a file of JSON lines`);
  }
}

async function readPrompts(path: string): Promise<PlacedPrompt[]> {
  const prompts: PlacedPrompt[] = [];
  for (const [i, text] of (await textOf(path)).split("\n").entries()) {
    if (text.trim() === "") continue;
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch (error) {
      throw new InputError(
        `${path}: line ${i + 1}: not JSON (${errorText(error)}); each line is {"prompt": text or messages}`,
      );
    }
    const parsed = line.safeParse(json);
    if (!parsed.success)
      throw new InputError(
        `${path}: line ${i + 1}: "prompt" must be a text or a list of messages with role and content`,
      );
    prompts.push({ prompt: parsed.data.prompt, place: `${path}: line ${i + 1}` });
  }
  if (prompts.length === 0) throw new InputError(`${path}: holds no prompt; each line is {"prompt": text or messages}`);
  return prompts;
}

export const generate: Command = {
  usage: `Usage: grpo generate --model M (--prompt TEXT | --input F.jsonl [--output O.jsonl]) [--key value …]

--prompt streams the completion as text; the prompt goes through the chat template if the model has one. --input reads
lines of {"prompt": text or messages} and writes {"prompt", "completions": [{"text", "tokens", "finished"}]} in order.

${describeSettings("generate")}`,
  async run(argv) {
    const { config, warnings } = configFor("generate", argv);
    const note = (text: string) => void process.stderr.write(`${text}\n`);
    for (const warning of warnings) note(`note: ${warning}`);
    if ((config.prompt === null) === (config.input === null))
      throw new InputError("give either --prompt TEXT or --input FILE");
    const model = config.model ?? bundledModel();
    requireFreeFile(config.output, config.overwrite, { model, input: config.input });
    const folder = await resolveModel(model);
    const modelConfig = readModelConfig(folder);
    const chatTemplate = readChatTemplate(config.chatTemplate);
    const tokenizer = loadTokenizer(folder, chatTemplate);
    const asChat = (text: string): Prompt => (tokenizer.hasChatTemplate ? [{ role: "user", content: text }] : text);
    const prompts: PlacedPrompt[] =
      config.prompt !== null
        ? [{ prompt: asChat(config.prompt), place: "--prompt" }]
        : await readPrompts(config.input!);
    const options = { systemPrompt: config.systemPrompt ?? undefined, chatTemplateKwargs: config.chatTemplateKwargs };
    const context = modelConfig.maxPositionEmbeddings;
    const promptIds = prompts.map(({ prompt, place }) => {
      const ids = Int32Array.from(tokenizer.encodePrompt(prompt, options));
      if (ids.length === 0)
        throw new InputError(
          `${place}: the prompt is empty for ${folder}'s tokenizer; the model needs at least one token`,
        );
      if (ids.length >= context)
        throw new InputError(
          `${place}: the prompt has ${ids.length} tokens by ${folder}'s tokenizer, the model's context is ${context}; shorten it`,
        );
      return ids;
    });
    const longestPrompt = promptIds.reduce((longest, ids) => Math.max(longest, ids.length), 0);
    const room = context - longestPrompt;
    const maxCompletionLength = Math.min(config.maxCompletionLength, room);
    const limits = rolloutLimits({
      maxConcurrentSequences: config.maxConcurrentSequences,
      completions: prompts.length * config.numGenerations,
      samples: config.numGenerations,
      evaluates: false,
      longestPrompt,
      maxCompletion: maxCompletionLength,
      repetitionPenalty: config.repetitionPenalty,
    });
    return withDeviceSession(
      config,
      note,
      (plan) => {
        const positions = longestPrompt + maxCompletionLength;
        const policy = planPolicy(plan, plan.folder(folder), { dtype: config.dtype, positions });
        return { rollout: planSampling(plan, policy, limits) };
      },
      async ({ rollout }) => {
        const interrupt = onInterrupt({ stopping: "stopping, what is not finished is left out" });
        interrupt.begin();
        try {
          return await answerPrompts(
            rollout,
            { ...config, maxCompletionLength },
            tokenizer,
            prompts,
            promptIds,
            interrupt,
          );
        } finally {
          interrupt.release();
        }
      },
    );
  },
};

/** Completes the prompts, and streams or writes the completions; returns the exit status. */
async function answerPrompts(
  rollout: RolloutEngine,
  config: GenerateConfig,
  tokenizer: Tokenizer,
  prompts: readonly PlacedPrompt[],
  promptIds: readonly Int32Array[],
  { requested }: Pick<Interrupt, "requested">,
): Promise<number> {
  const { seed, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength } = config;
  const streams = config.prompt !== null && config.numGenerations === 1;
  const decoder = tokenizer.incrementalDecoder({ skipSpecialTokens: true });
  const results = await rollout.generate(
    promptIds.map((ids, prompt) => ({ promptIds: ids, samples: config.numGenerations, prompt })),
    {
      ...{ seed, stream: 0, step: 0, temperature, topK, topP, minP, repetitionPenalty, maxCompletionLength },
      ...{ isStop: tokenizer.isStop, stopStrings: tokenizer.stopStrings(config.stop) },
    },
    {
      shouldStop: requested,
      ...(streams ? { onToken: (_, id) => void process.stdout.write(decoder.push(id)) } : {}),
    },
  );
  if (streams) process.stdout.write(`${decoder.end()}\n`);
  if (requested()) return 130;
  if (streams) return 0;
  const lines = prompts.map(({ prompt }, i) =>
    JSON.stringify({
      prompt,
      completions: results[i]!.map((c) => ({
        text: tokenizer.decode([...c.completionIds], { skipSpecialTokens: true }),
        tokens: c.completionIds.length,
        finished: c.finished,
        ...(c.stop === undefined ? {} : { stop: c.stop }),
      })),
    }),
  );
  const text = lines.map((l) => `${l}\n`).join("");
  if (config.output === null) process.stdout.write(text);
  else writeOutput(config.output, text);
  return 0;
}
