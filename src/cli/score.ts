/** `grpo score`: log-probabilities and entropies of given completions under a model. What it does is src/api/score.ts. */
import { scoreWith, writeScores } from "../api/score.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import type { Command } from "./command.ts";
import { noteOnStderr } from "./terminal.ts";

export const score: Command = {
  usage: `Usage: grpo score --model M --input F.jsonl --output O.jsonl [--temperature T]

Each input line has prompt_ids and completion_ids (lines of one group are adjacent and share their prompt); each output
line is {"logprobs": [...], "entropies": [...]}, in nats, of softmax(logits / temperature).

${describeSettings("score")}`,
  async run(argv) {
    const { config } = configFor("score", argv);
    const scores = await scoreWith(config, null, { onNote: noteOnStderr });
    writeScores(config.output, scores);
    noteOnStderr(`${config.output}: ${scores.flat().length} completions`);
    return 0;
  },
};
