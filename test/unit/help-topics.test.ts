/** Help by topic: sections, words for them, settings by name and by text. */
import { describe, expect, test } from "bun:test";
import { commands, main } from "../../src/cli/main.ts";
import { describeTopic, topicsOf } from "../../src/config/help.ts";

async function help(...argv: string[]) {
  const said = { out: "", err: "" };
  const streams = {
    out(text: string) {
      said.out += text;
    },
    err(text: string) {
      said.err += text;
    },
  };
  return { code: await main(argv, commands, streams), ...said };
}

describe("topics", () => {
  test("a section, and words that stand for several", () => {
    expect(describeTopic("train", "optimizer")).toStartWith("Optimizer:\n  --learning_rate X");
    const losses = describeTopic("train", "losses")!;
    for (const title of ["Advantages:", "Loss:", "Critic:"]) expect(losses).toContain(title);
    expect(losses).not.toContain("--learning_rate");
    expect(describeTopic("train", "reward-functions")).toStartWith("Reward functions:");
  });

  test("settings with the word in their names, or else in their texts", () => {
    const kl = describeTopic("train", "kl")!;
    expect(kl).toContain("--kl_estimator");
    expect(kl).not.toContain("--loss_type");
    expect(describeTopic("train", "--beta")).toContain("--beta X");
    expect(describeTopic("train", "memory")).toContain("--micro_batch_tokens");
    expect(describeTopic("train", "xyzzy")).toBeNull();
  });

  test("every topic of every command has settings", () => {
    for (const command of ["train", "plan", "sft", "eval", "generate", "score", "update"] as const)
      for (const topic of topicsOf(command))
        expect(describeTopic(command, topic), `${command} ${topic}`).toContain("  --");
  });
});

test("grpo help TOPIC, grpo COMMAND --help TOPIC, and what is none", async () => {
  expect((await help("help", "sampling")).out).toContain("--temperature X");
  expect((await help("sft", "--help", "batch")).out).toStartWith("Batch:\n");
  expect((await help("help", "train")).out).toStartWith("Usage: grpo train");
  expect((await help("train", "--help", "--seed")).out).toStartWith("Usage: grpo train");
  expect(await help("help", "lossess")).toEqual({
    code: 2,
    out: "",
    err: 'grpo: "lossess" is no topic of help; did you mean losses?\n',
  });
});
