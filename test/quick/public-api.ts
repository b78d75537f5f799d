/**
 * A program that uses the TypeScript API, for the compiler alone: arguments and results have the types that the interface
 * promises, and a misspelled setting is a type error. Never run.
 */
import {
  type ConfigInput,
  configFrom,
  createRewardPool,
  InputError,
  loadTokenizer,
  type Message,
  openDataset,
  type RewardFunction,
  type Tokenizer,
  type TrainConfig,
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

export async function score(prompt: readonly Message[], completion: string): Promise<readonly (number | null)[]> {
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
