/** `grpo score`: log-probabilities and entropies of given completions under a model. */
import { resolveModel } from "../checkpoint/hub.ts";
import { readModelConfig } from "../checkpoint/huggingface.ts";
import { requireFreeFile } from "../checkpoint/output-folder.ts";
import { describeSettings } from "../config/help.ts";
import { configFor } from "../config/load.ts";
import { InputError, RunError } from "../errors.ts";
import { writeOutput } from "../files/atomic.ts";
import { scoreGroups } from "../grpo/learner/policy-update.ts";
import { type RolloutGroup, readRollouts } from "../grpo/rollout-file.ts";
import { maxMicroBatchTokens } from "../model/micro-batches.ts";
import { withDeviceSession } from "../run/device.ts";
import { planPolicy, planScoring } from "../session/policy.ts";
import { bundledModel } from "./bundled.ts";
import type { Command } from "./command.ts";

/** Sizes that the groups of a file imply. @throws InputError where prompt and completion exceed the context */
export function fileSizes(path: string, groups: readonly RolloutGroup[], context: number) {
  const longestPrompt = Math.max(...groups.map((g) => g.promptIds.length));
  const longestCompletion = Math.max(...groups.flatMap((g) => g.completions.map((c) => c.completionIds.length)));
  for (const { group, promptIds, completions } of groups)
    for (const { completionIds } of completions)
      if (promptIds.length + completionIds.length > context)
        throw new InputError(
          `${path}: group ${group}: prompt and completion have ${promptIds.length + completionIds.length} tokens, ` +
            `the model's context is ${context}; leave the line out`,
        );
  return { longestPrompt, longestCompletion };
}

/** @throws RunError naming model, group and token where a score is no number: JSON would say null */
function requireFinite(
  model: string,
  groups: readonly RolloutGroup[],
  scores: readonly { readonly logprobs: Float32Array; readonly entropies: Float32Array }[],
): void {
  const places = groups.flatMap(({ group, completions }) => completions.map((_, i) => ({ group, i })));
  for (const [k, { logprobs, entropies }] of scores.entries())
    for (const [name, values] of Object.entries({ logprob: logprobs, entropy: entropies })) {
      const t = values.findIndex((value) => !Number.isFinite(value));
      if (t < 0) continue;
      const { group, i } = places[k]!;
      throw new RunError(
        `the ${name} of group ${group}, completion ${i}, token ${t} is ${values[t]}: the output of ${model} is broken; ` +
          "check its weights (NaN or infinite values) and dtype",
      );
    }
}

/** The shortest decimal of a float32. */
const shortest = (value: number): number => Number(Math.fround(value).toPrecision(9));

export const score: Command = {
  usage: `Usage: grpo score --model M --input F.jsonl --output O.jsonl [--temperature T]

Each input line has prompt_ids and completion_ids (lines of one group are adjacent and share their prompt); each output
line is {"logprobs": [...], "entropies": [...]}, in nats, of softmax(logits / temperature).

${describeSettings("score")}`,
  async run(argv) {
    const { config } = configFor("score", argv);
    const model = config.model ?? bundledModel();
    requireFreeFile(config.output, config.overwrite, { model, input: config.input });
    const folder = await resolveModel(model);
    const modelConfig = readModelConfig(folder);
    const groups = await readRollouts(config.input, { vocabSize: modelConfig.vocabSize, requireReward: false });
    const { longestPrompt, longestCompletion } = fileSizes(config.input, groups, modelConfig.maxPositionEmbeddings);
    const completions = groups.reduce((sum, g) => sum + g.completions.length, 0);
    const budget = config.microBatchTokens;
    const tokens = maxMicroBatchTokens({
      budget,
      longestPrompt,
      longestCompletion,
      groups: groups.length,
      completions,
    });
    const { temperature, dtype } = config;
    const note = (text: string) => void process.stderr.write(`${text}\n`);
    await withDeviceSession(
      config,
      note,
      (plan) => {
        const positions = longestPrompt + longestCompletion;
        const policy = planPolicy(plan, plan.folder(folder), { dtype, positions });
        return { scorer: planScoring(plan, policy, { tokens, longestPrompt }) };
      },
      async ({ scorer }) => {
        const settings = { temperature, microBatchTokens: budget };
        const scores = await scoreGroups(scorer.model, scorer.activations, groups, settings);
        requireFinite(folder, groups, scores);
        const lines = scores.map(({ logprobs, entropies }) =>
          JSON.stringify({ logprobs: Array.from(logprobs, shortest), entropies: Array.from(entropies, shortest) }),
        );
        writeOutput(config.output, lines.map((line) => `${line}\n`).join(""));
      },
    );
    process.stderr.write(`${config.output}: ${completions} completions\n`);
    return 0;
  },
};
