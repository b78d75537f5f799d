/** `grpo generate`: completes one prompt, streamed as text, or a file of prompts, a line of JSON each. */
import { generatedLines, generateWith, writeGenerated } from "../api/generate.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import type { Command } from "./command.ts";
import { type Interrupt, onInterrupt } from "./interrupt.ts";
import { noteOnStderr } from "./terminal.ts";

export const generate: Command = {
  usage: `Usage: grpo generate --model M (--prompt TEXT | --input F.jsonl [--output O.jsonl]) [--key value …]

--prompt streams the completion as text; the prompt goes through the chat template if the model has one. --input reads
lines of {"prompt": text or messages} and writes {"prompt", "completions": [{"text", "tokens", "finished"}]} in order.

${describeSettings("generate")}`,
  async run(argv) {
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
