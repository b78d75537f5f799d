/**
 * A program that uses the TypeScript API, for the compiler alone: arguments and results have the types that the interface
 * promises, and a misspelled setting is a type error. Never run.
 */
import {
  type ConfigInput,
  configFrom,
  createRewardPool,
  evaluate,
  type Generated,
  generate,
  InputError,
  loadTokenizer,
  type Message,
  openDataset,
  type RewardFunction,
  type RunResult,
  score,
  sft,
  type Tokenizer,
  type TokenScores,
  type TrainConfig,
  train,
  type UpdateResult,
  update,
  type Verdict,
  verify,
} from "bun-grpo";

const input: ConfigInput<"train"> = { model: "FOLDER", lossType: "dapo", epsilonHigh: 0.28, rewardFuncs: ["math"] };
const { config, warnings } = configFrom("train", input);
export const typed: TrainConfig = config;
export const steps: number | null = config.maxSteps;
export const estimator: "grpo" | "rloo" | "reinforce_plus_plus" | "reinforce_plus_plus_baseline" | "gae" =
  config.advantageEstimator;
export const notes: readonly string[] = warnings;
export const answered: number = configFrom("eval", { numGenerations: 4, temperature: 1 }).config.numGenerations;

// @ts-expect-error no such setting
configFrom("train", { betta: 0.1 });
// @ts-expect-error must be a number
configFrom("train", { beta: "0.1" });
// @ts-expect-error must be one of the losses
configFrom("train", { lossType: "grop" });
// @ts-expect-error belongs to another command
configFrom("score", { lossType: "grpo" });

export const brief: RewardFunction = ({ completions }) =>
  completions.map((completion) => (completion.length < 100 ? 1 : null));

export async function reward(prompt: readonly Message[], completion: string): Promise<readonly (number | null)[]> {
  const pool = createRewardPool({ functions: ["gsm8k"] });
  try {
    const batch = { prompts: [prompt], completions: [completion], completionIds: [[]], golds: ["18"], columns: {} };
    const { total } = await pool.score(batch);
    return total;
  } finally {
    await pool.close();
  }
}

export const tokenizer: Tokenizer = loadTokenizer("FOLDER");
export const ids: number[] = tokenizer.encodePrompt([{ role: "user", content: "2 + 2?" }]);
export const verdict: Verdict = verify({ gold: "4", response: "\\boxed{4}", extraction: "strict" });
export const rows: number = openDataset("FILE").numRows;
export const status: number = new InputError("").exitCode;

const { signal } = new AbortController();
export const trained: Promise<RunResult> = train(input, {
  signal,
  onStep: ({ step, reward }) => console.log(step + 1, reward),
  onNote: (note) => console.log(note.trim()),
});
export const tuned: Promise<{ readonly steps: number; readonly stopped: boolean }> = sft({ maxSteps: 1 }, { signal });
export const updated: Promise<UpdateResult> = update({ rollouts: "FILE", lossType: "dapo" });
export const evaluated: Promise<number | undefined> = evaluate({ benchmark: "gsm8k", passAtK: [1, 8] }).then(
  ({ accuracy, atK, problems }) => accuracy?.value ?? atK.lenient[0]?.pass.low ?? problems[0]?.answers[0]?.reward ?? 0,
);
export const groups: Promise<Generated[]> = generate({
  model: "FOLDER",
  prompts: ["2 + 2 =", [{ role: "user", content: "2?" }]],
});
export const scores: Promise<TokenScores[][]> = generate({ prompt: "2 + 2?", temperature: 1 }).then((made) =>
  score({ model: "FOLDER", groups: made }),
);
export const logprobs: Promise<Float32Array | undefined> = scores.then((all) => all[0]?.[0]?.logprobs);

// @ts-expect-error there is no such setting
train({ betta: 0.1 });
// @ts-expect-error of another command
score({ groups: [], rewardFuncs: ["math"] });
// @ts-expect-error steps are of a run
generate({ prompt: "2 + 2?" }, { onStep: () => {} });
