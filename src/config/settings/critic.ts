/** PPO's critic: which model it starts from and how it learns. Gamma, lambda and clipping are in loss.ts. */
import { number, text } from "./kinds.ts";

export const criticSettings = {
  critic_model: text(null, "FOLDER|ID")`
    advantage_estimator gae: the model that the critic starts from, with the policy's tokenizer: a sequence classification
    model with one label, or a language model, whose values start at 0. null: the model that training starts from.`,
  critic_learning_rate: number({ min: 0 }, null)`The critic's peak learning rate. null: learning_rate.`,
} as const;
