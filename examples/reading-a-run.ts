/** What a run has recorded: its curve, its best and worst completions, with their logprobs. bun examples/reading-a-run.ts OUTPUT_DIR */
import { InputError, loadTokenizer, readRun } from "bun-grpo";

const [outputDir = "outputs/train"] = process.argv.slice(2);
try {
  const { command, settings, steps, evaluations, generations, rollouts } = readRun(outputDir);
  console.log(`${command} at learning rate ${settings.learning_rate}, ${steps.length} steps`);
  for (const { step, reward } of steps)
    console.log(`${step}\t${"#".repeat(Math.round(40 * Number(reward)))} ${reward}`);
  for (const { step, eval_accuracy } of evaluations) console.log(`accuracy at step ${step}: ${eval_accuracy}`);

  const tokenizer = loadTokenizer(outputDir);
  const completions = (await rollouts(generations.at(-1)!)).flatMap((group) => group.completions);
  const sorted = completions.toSorted((a, b) => (b.reward ?? 0) - (a.reward ?? 0));
  for (const completion of [sorted[0]!, sorted.at(-1)!]) {
    const { reward, completionIds, oldLogprobs } = completion;
    const mean = oldLogprobs && oldLogprobs.reduce((sum, value) => sum + value, 0) / oldLogprobs.length;
    const text = tokenizer.decode([...completionIds], { skipSpecialTokens: true });
    console.log(`reward ${reward}, mean logprob ${mean?.toFixed(3)}: ${JSON.stringify(text)}`);
  }
} catch (error) {
  if (!(error instanceof InputError)) throw error;
  console.error(error.message);
  process.exit(2);
}
