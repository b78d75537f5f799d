/** `grpo generate`: completes one prompt, streamed as text, or a file of prompts, a line of JSON each. */
import { z } from "zod";
import { writeOutput } from "../checkpoint/atomic.ts";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { requireFreeFile } from "../checkpoint/output-folder.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { modelFolder, openRunDevice, rolloutLimits } from "../engine/inputs.ts";
import { planSession } from "../engine/session.ts";
import { errorText, InputError } from "../errors.ts";
import { loadTokenizer, type Message, readChatTemplate } from "../tokenizer/tokenizer.ts";
import { bundledModel } from "./bundled.ts";
import type { Command } from "./command.ts";
import { onInterrupt } from "./interrupt.ts";

type Prompt = string | readonly Message[];

const message = z.looseObject({ role: z.string(), content: z.string() });
const line = z.looseObject({ prompt: z.union([z.string(), z.array(message).min(1)]) });

async function readPrompts(path: string): Promise<Prompt[]> {
  const file = Bun.file(path);
  if (!(await file.exists())) throw new InputError(`${path}: there is no such file; check --input`);
  const prompts: Prompt[] = [];
  for (const [i, text] of (await file.text()).split("\n").entries()) {
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
    prompts.push(parsed.data.prompt);
  }
  if (prompts.length === 0) throw new InputError(`${path}: holds no prompt; each line is {"prompt": text or messages}`);
  return prompts;
}

export const generate: Command = {
  name: "generate",
  summary: "complete a prompt, or a file of prompts",
  usage: `Usage: grpo generate --model M (--prompt TEXT | --input F.jsonl [--output O.jsonl]) [--key value …]

--prompt streams the completion as text; it goes through the chat template where the model has one. --input takes a
line {"prompt": text or messages} each and writes {"prompt", "completions": [{"text", "tokens", "finished"}]} in order.

${describeSettings("generate")}`,
  async run(argv) {
    const { config, warnings } = configFor("generate", argv);
    const note = (text: string) => void process.stderr.write(`${text}\n`);
    for (const warning of warnings) note(`note: ${warning}`);
    if ((config.prompt === null) === (config.input === null))
      throw new InputError("give either --prompt TEXT or --input FILE");
    const model = config.model ?? bundledModel();
    requireFreeFile(config.output, config.overwrite, { model, input: config.input });
    const folder = await modelFolder(model);
    const modelConfig = readModelConfig(folder);
    const chatTemplate = config.chatTemplate === null ? null : readChatTemplate(config.chatTemplate);
    const tokenizer = loadTokenizer(folder, chatTemplate);
    const asChat = (text: string): Prompt => (tokenizer.hasChatTemplate ? [{ role: "user", content: text }] : text);
    const prompts = config.prompt !== null ? [asChat(config.prompt)] : await readPrompts(config.input!);
    const options = { systemPrompt: config.systemPrompt ?? undefined, chatTemplateKwargs: config.chatTemplateKwargs };
    const promptIds = prompts.map((prompt) => Int32Array.from(tokenizer.encodePrompt(prompt, options)));
    const longestPrompt = Math.max(...promptIds.map((ids) => ids.length));
    if (promptIds.some((ids) => ids.length === 0))
      throw new InputError("a prompt is empty; the model needs at least one token");
    const room = modelConfig.maxPositionEmbeddings - longestPrompt;
    if (room < 1)
      throw new InputError(
        `a prompt has ${longestPrompt} tokens, the model's context is ${modelConfig.maxPositionEmbeddings}`,
      );
    const maxCompletionLength = Math.min(config.maxCompletionLength, room);
    const device = await openRunDevice(config, note);
    const session = await planSession({
      device,
      folder,
      dtype: config.dtype,
      packed: null,
      training: false,
      reference: null,
      rollout: rolloutLimits({
        maxConcurrentSequences: config.maxConcurrentSequences,
        completions: prompts.length * config.numGenerations,
        samples: config.numGenerations,
        evaluates: false,
        longestPrompt,
        maxCompletion: maxCompletionLength,
        repetitionPenalty: config.repetitionPenalty,
      }),
      positions: longestPrompt + maxCompletionLength,
    }).open();
    const interrupt = onInterrupt({ stopping: "stopping, what is not finished is left out" });
    interrupt.begin();
    const streams = config.prompt !== null && config.numGenerations === 1;
    const decoder = tokenizer.incrementalDecoder({ skipSpecialTokens: true });
    try {
      const results = await session.rollout!.generate(
        promptIds.map((ids, prompt) => ({ promptIds: ids, samples: config.numGenerations, prompt })),
        {
          ...{ ...config, stream: 0, step: 0, maxCompletionLength },
          ...{ isStop: tokenizer.isStop, stopStrings: tokenizer.stopStrings(config.stop) },
        },
        {
          shouldStop: interrupt.requested,
          ...(streams ? { onToken: (_, __, id) => void process.stdout.write(decoder.push(id)) } : {}),
        },
      );
      if (streams) process.stdout.write(`${decoder.end()}\n`);
      if (interrupt.requested()) return 130;
      if (streams) return 0;
      const lines = prompts.map((prompt, i) =>
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
    } finally {
      interrupt.release();
      session.close();
      device.close();
    }
  },
};
