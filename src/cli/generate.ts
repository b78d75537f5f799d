/** `grpo generate`: completes one prompt, streamed as text, or a file of prompts, a line of JSON each; or chats. */
import { generatedLines, generateWith, writeGenerated } from "../api/generate.ts";
import { describeSettings } from "../config/help.ts";
import { configFor, type Loaded } from "../config/load.ts";
import { toCamel } from "../config/names.ts";
import { InputError } from "../errors.ts";
import type { Command } from "./command.ts";
import { type Interrupt, onInterrupt } from "./interrupt.ts";
import { noteOnStderr } from "./terminal.ts";

export const generate: Command = {
  usage: `Usage: grpo generate --model M [--key value …]
       grpo generate --model M (--prompt TEXT | --input F.jsonl [--output O.jsonl]) [--key value …]

On a terminal, without --prompt and --input, it is a chat: a conversation through the model's chat template, with line editing;
/help lists its commands, Ctrl-C stops an answer, Ctrl-D leaves.
--prompt streams the completion as text; the prompt goes through the chat template if the model has one. --input reads
lines of {"prompt": text or messages} and writes {"prompt", "completions": [{"text", "tokens", "finished"}]} in order.

${describeSettings("generate")}`,
  async run(argv) {
    const onTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true;
    const loaded = configFor("generate", argv, onTerminal ? { defaults: { prompt: "" } } : {});
    if (!loaded.given.has("prompt") && !loaded.given.has("input")) return chatWith(loaded);
    // The stand-in for a chat's prompt is none beside a file of prompts.
    const { config, warnings } = configFor("generate", argv);
    for (const warning of warnings) noteOnStderr(`note: ${warning}`);
    const streams = config.prompt !== null && config.numGenerations === 1;
    const signals: { interrupt?: Interrupt } = {};
    try {
      const generated = await generateWith(config, null, {
        note: noteOnStderr,
        stopRequested: () => signals.interrupt?.requested() ?? false,
        onBegin() {
          signals.interrupt = onInterrupt({ stopping: "stopping, what is not finished is left out" });
          signals.interrupt.begin();
        },
        onToken: streams ? ({ text }) => void process.stdout.write(text) : undefined,
      });
      if (streams) process.stdout.write("\n");
      if (generated === null) return 130;
      if (streams) return 0;
      if (config.output === null) process.stdout.write(generatedLines(generated));
      else writeGenerated(config.output, generated);
      return 0;
    } finally {
      signals.interrupt?.release();
    }
  },
};

/** @throws InputError for settings that a chat has no use for */
async function chatWith({ config, given }: Loaded<"generate">): Promise<number> {
  for (const key of ["output", "overwrite", "num_generations"])
    if (given.has(key))
      throw new InputError(`--${key}: needs --prompt or --input; in a chat, /save writes the conversation`);
  const settings = Object.entries(config).filter(([key]) => [...given].some((name) => toCamel(name) === key));
  const { chat } = await import("./chat.ts");
  await chat(Object.fromEntries(settings));
  return 0;
}
