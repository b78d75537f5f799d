/**
 * docs/recipes.md against the program: every name in its tables is a setting, a name accepted for one, or one in a table of
 * src/config/trainers; and its three recipes get the messages shown there, and then become the configurations shown there.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configFor } from "../../src/config/load.ts";
import { presetNames } from "../../src/config/presets.ts";
import { commandSections, commandsWith, settingsOf } from "../../src/config/schema.ts";
import { foreignSetting } from "../../src/config/trainers/trainers.ts";
import { aliases } from "../../src/config/trl.ts";

const text = readFileSync(join(import.meta.dir, "../../docs/recipes.md"), "utf8");
const cells = text.split("\n").map((line) =>
  line
    .split("|")
    .slice(1, -1)
    .map((cell) => cell.trim()),
);
const rows = cells.filter(({ length, 0: what }) => length === 5 && what !== "what" && what !== "---");
const codes = (cell: string) => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1]!);
const keyOf = (code: string) => code.split(" = ")[0]!;
const known = (name: string) => (commandsWith(aliases[name] ?? name).includes("train") ? name : undefined);
const foreign = (code: string) => foreignSetting(keyOf(code), code.split(" = ")[1], known, () => undefined);

test("the tables are read", () => {
  expect(rows.length).toBeGreaterThan(40);
});

describe("other trainers' names", () => {
  for (const [what, trl, verl, openRlhf, here] of rows as [string, string, string, string, string][]) {
    test(what, () => {
      const own = codes(here);
      expect(own).not.toBeEmpty();
      for (const code of own) {
        expect(commandsWith(keyOf(code)), code).toContain("train");
        const value = code.split(" = ")[1];
        if (value !== undefined) expect(() => configFor("train", [`--${keyOf(code)}`, value])).not.toThrow();
      }
      for (const code of [trl, verl, openRlhf].flatMap(codes)) {
        if (code.includes(" + ")) continue;
        expect(known(keyOf(code)) ?? foreign(code), code).toBeDefined();
      }
    });
  }
});

test("every preset has its row and its command line", () => {
  for (const name of presetNames) {
    expect(text).toContain(`| \`${name}\` | `);
    const line = text.split("\n").find((each) => each.startsWith("grpo train") && `${each} `.includes(` ${name} `))!;
    const { config } = configFor("train", line.split(" ").slice(2));
    expect(config.preset).toBe(name);
  }
});

test("a cure names existing settings", () => {
  const ours = new Set(Object.keys(commandSections).flatMap((command) => Object.keys(settingsOf(command as "train"))));
  for (const code of rows.flatMap((row) => row.slice(1, 4)).flatMap((cell) => codes(cell!))) {
    const outcome = foreign(code)?.outcome;
    if (outcome?.kind !== "refused") continue;
    for (const [key] of outcome.use) expect(ours, code).toContain(key);
  }
});

test("another trainer's name is refused with ours, also without its path", () => {
  for (const flag of ["--adv_estimator", "--algorithm.adv_estimator"])
    expect(() => configFor("train", [flag, "rloo"])).toThrow(
      `${flag}: not a setting here; use --advantage_estimator rloo`,
    );
});

describe("three recipes, translated", () => {
  const folder = mkdtempSync(join(tmpdir(), "grpo-recipes-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** A block of the page: the first in this language below a heading with this start. */
  function block(heading: string, language: string): string {
    const below = text.slice(text.indexOf(`### ${heading}`));
    const start = below.indexOf(`\`\`\`${language}\n`) + language.length + 4;
    return below.slice(start, below.indexOf("\n```", start));
  }

  function told(argv: readonly string[]): string[] {
    try {
      configFor("train", argv);
    } catch (error) {
      return (error as Error).message.replaceAll(`${folder}/`, "").split("\n");
    }
    return [];
  }

  const flagsOf = (command: string) => command.replace(/^grpo train /, "").split(" ");

  // open-r1 at the commit of the page's names; the system prompt is a different text here.
  const demo = [
    ...["", "model_name_or_path: Qwen/Qwen2.5-1.5B-Instruct", "model_revision: main", "torch_dtype: bfloat16"],
    ...["attn_implementation: flash_attention_2", "", "dataset_name: open-r1/OpenR1-Math-220k"],
    ...["dataset_prompt_column: problem", 'system_prompt: "You first think and then answer."', "", "bf16: true"],
    ...["use_vllm: true", "do_eval: false", "gradient_accumulation_steps: 4", "gradient_checkpointing: true"],
    ...["gradient_checkpointing_kwargs:", "  use_reentrant: false", "hub_model_id: Qwen2.5-1.5B-Open-R1-GRPO"],
    ...["hub_strategy: every_save", "learning_rate: 2.0e-05", "log_completions: true", "log_level: info"],
    ...["logging_first_step: true", "logging_steps: 1", "logging_strategy: steps", "lr_scheduler_type: cosine"],
    ...["max_prompt_length: 512", "max_completion_length: 1024", "max_steps: -1", "num_generations: 16"],
    ...["num_train_epochs: 1", "output_dir: data/Qwen2.5-1.5B-Open-R1-GRPO", "overwrite_output_dir: true"],
    ...["per_device_eval_batch_size: 16", "per_device_train_batch_size: 16", "", "", "push_to_hub: true", "report_to:"],
    ...["- wandb", "reward_funcs:", "- accuracy", "- format", "- tag_count", "reward_weights:", "- 1.0", "- 1.0"],
    ...["- 1.0", 'save_strategy: "epoch"', "save_total_limit: 1", "seed: 42", "warmup_ratio: 0.1"],
  ];

  test("open-r1's demo", () => {
    const path = join(folder, "config_demo.yaml");
    writeFileSync(path, demo.join("\n"));
    expect(told([path])).toEqual([]);
    const { config, warnings } = configFor("train", ["--config", path, "--preset", "trl"]);
    for (const name of ["use_vllm", "bf16", "max_prompt_length", "save_strategy"])
      expect(warnings.filter((line) => line.includes(`: ${name}`))).toHaveLength(1);
    const translated = join(folder, "demo.toml");
    writeFileSync(translated, block("open-r1", "toml"));
    const ours = configFor("train", [translated]);
    expect<typeof config>(config).toEqual(ours.config);
    expect(ours.warnings).toEqual([]);
    // Without TRL's preset, one line lists the paper's values.
    const paper = configFor("train", [path]).warnings.filter((line) => line.includes("paper's values"));
    expect(paper).toHaveLength(1);
    expect(paper[0]).toContain("loss_type grpo (dapo), beta 0.04 (0), use_bias_correction_kl false (true)");
    expect(paper[0]).not.toContain("num_generations");
  });

  test("TRL's example of GSPO", () => {
    const flags =
      "--model_name_or_path Qwen/Qwen3-0.6B --output_dir gspo-Qwen3-0.6B --learning_rate 1e-5 --dtype bfloat16 --max_completion_length 1024 --use_peft --lora_target_modules q_proj, v_proj --log_completions --per_device_train_batch_size 8 --num_generations 8 --importance_sampling_level sequence --epsilon 3e-4 --epsilon_high 4e-4 --beta 0.0 --loss_type grpo --gradient_accumulation_steps 2 --steps_per_generation 8";
    expect(told(flags.split(" "))).toEqual([]);
    // Settings that the script has in Python.
    const code = ["--dataset_name", "AI-MO/NuminaMath-TIR", "--dataset_prompt_column", "problem"];
    const rewards = ["--reward_funcs", "think_format_reward", "accuracy_reward", "--preset", "trl"];
    const { config } = configFor("train", [...flags.split(" "), ...code, ...rewards]);
    const ours = configFor("train", flagsOf(block("TRL: examples", "sh")));
    expect<typeof config>(config).toEqual(ours.config);
    expect(ours.warnings).toEqual([]);
  });

  test("verl's GSM8K script with LoRA", () => {
    const words =
      'algorithm.adv_estimator=grpo trainer.val_before_train=False data.train_files=gsm8k/train.parquet data.val_files=gsm8k/test.parquet data.train_batch_size=16 data.max_prompt_length=512 data.max_response_length=1024 data.filter_overlong_prompts=True data.truncation=error data.shuffle=False actor_rollout_ref.model.path=Qwen/Qwen2.5-3B-Instruct actor_rollout_ref.model.lora_rank=64 actor_rollout_ref.model.lora_alpha=32 actor_rollout_ref.actor.optim.lr=3e-6 actor_rollout_ref.model.use_remove_padding=True actor_rollout_ref.actor.ppo_mini_batch_size=16 actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=40 actor_rollout_ref.actor.use_kl_loss=True actor_rollout_ref.actor.kl_loss_coef=0.001 actor_rollout_ref.actor.kl_loss_type=low_var_kl actor_rollout_ref.actor.entropy_coeff=0 actor_rollout_ref.model.enable_gradient_checkpointing=True actor_rollout_ref.actor.fsdp_config.param_offload=False actor_rollout_ref.actor.fsdp_config.optimizer_offload=False actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=40 actor_rollout_ref.rollout.tensor_model_parallel_size=2 actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.gpu_memory_utilization=0.6 actor_rollout_ref.rollout.n=5 actor_rollout_ref.rollout.load_format=safetensors actor_rollout_ref.rollout.layered_summon=True actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=40 actor_rollout_ref.ref.fsdp_config.param_offload=True algorithm.use_kl_in_reward=False trainer.critic_warmup=0 trainer.logger=["console","wandb"] trainer.project_name=verl_grpo_example_gsm8k trainer.experiment_name=qwen2.5_3b_grpo_lora trainer.n_gpus_per_node=2 trainer.nnodes=1 trainer.save_freq=20 trainer.test_freq=5 trainer.total_epochs=15'.split(
        " ",
      );
    const lines = told(words);
    expect(lines.slice(0, -1)).toEqual(block("verl: examples", "text").split("\n"));
    const all = block("verl: examples", "sh").replace("grpo train", "all of these, translated:");
    expect(lines.at(-1)).toStartWith(`${all} (the preset`);
    // The words with refused ones replaced as suggested are a configuration; so are the words with their line breaks kept.
    const refused = new Map(
      lines.slice(0, -1).map((line) => [line.split(":")[0]!, /; use (--.*?)( \(|$)/.exec(line)?.[1]]),
    );
    const corrected = words.flatMap((word) => {
      const name = word.split("=")[0]!;
      return refused.has(name) ? (refused.get(name)?.split(" ") ?? []) : [word];
    });
    const { config } = configFor("train", [...corrected, "--preset", "verl"]);
    const ours = configFor("train", flagsOf(block("verl: examples", "sh")));
    expect<typeof config>(config).toEqual(ours.config);
    expect(config).toMatchObject({ lossType: "dapo", delta: 3, perDeviceTrainBatchSize: 80, numGenerations: 5 });
  });

  test("the same settings as verl keeps them in YAML", () => {
    const path = join(folder, "verl.yaml");
    const lines = [
      "actor_rollout_ref:",
      "  rollout:",
      "    n: 5",
      "    name: vllm",
      "  actor:",
      "    clip_ratio_high: 0.28",
      "    _target_: verl.workers.config.ActorConfig",
      // Settings that are implied by others.
      "    ppo_max_token_len_per_gpu: $" + "{data.max_response_length}",
    ];
    writeFileSync(path, [...lines, "trainer:", "  nnodes: 1"].join("\n"));
    expect(told([path])).toEqual([
      "verl.yaml:3: actor_rollout_ref.rollout.n: not a setting here; use num_generations: 5, per_device_train_batch_size: 1280 (a step is 256 prompts × 5 answers)",
      "verl.yaml:6: actor_rollout_ref.actor.clip_ratio_high: not a setting here; use epsilon_high: 0.28",
    ]);
  });
});
