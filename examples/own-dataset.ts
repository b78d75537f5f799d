/**
 * Problems that a program makes, and an evaluation on others: no file is written by hand. Runs the bundled model:
 * bun examples/own-dataset.ts
 */
import { evaluate, type Row, train } from "bun-grpo";

/** The same problems in the same order every time: a resumed run finds its place among them. */
async function* sums(from: number, count: number): AsyncGenerator<Row> {
  for (let i = from; i < from + count; i++) {
    const [a, b] = [(7 * i) % 50, (11 * i) % 40];
    yield { question: `Tom has ${a} apples and buys ${b} more. How many apples has he?`, answer: String(a + b) };
  }
}

const { outputDir } = await train({
  dataset: sums(0, 200),
  evalDataset: await Array.fromAsync(sums(200, 20)),
  numGenerations: 8,
  perDeviceTrainBatchSize: 32,
  maxCompletionLength: 48,
  learningRate: 1e-4,
  maxSteps: 3,
  outputDir: "outputs/own-dataset",
});
const { accuracy, problems } = await evaluate({ model: outputDir, dataset: sums(300, 20), maxCompletionLength: 48 });
console.log(`accuracy ${accuracy?.value} on ${problems.length} new problems`);
