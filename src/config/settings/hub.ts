/** Where a model goes on the Hugging Face hub; the names are those of transformers' TrainingArguments. */
import { choice, text, toggle } from "./kinds.ts";

/** For `push`, and with `push_to_hub` for a run. */
export const pushTargetSettings = {
  hub_model_id: text(null, "ID")`
    The repository, owner/name; without an owner, the token's. null: the name of the folder.`,
  hub_private_repo: toggle(null)`
    Whether a repository that is made is private; one that exists stays as it is. null: what the owner has set.`,
  hub_revision: text(null, "BRANCH")`The branch to push to, made if it does not exist. null: main.`,
  hub_token: text(null, "TOKEN")`
    A token with write access; it is never written anywhere. null: that of HF_TOKEN or \`hf auth login\`, which other users of
    the machine cannot see.`,
} as const;

export const hubStrategies = ["end", "every_save", "checkpoint", "all_checkpoints"] as const;

export const hubSettings = {
  push_to_hub: toggle(false)`Push the model to the Hugging Face hub, with a model card.`,
  hub_strategy: choice(hubStrategies, "every_save")`
    When: at the end; whenever a checkpoint is saved as well; these and the last checkpoint, to resume from
    (last-checkpoint/); or all checkpoints.`,
  ...pushTargetSettings,
} as const;
