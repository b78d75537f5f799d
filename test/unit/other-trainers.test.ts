/**
 * Setting names of other trainers: each is one of ours, accepted as one of ours, left out with a remark, or refused with the
 * replacement or reason; and the numbers in those cures are converted.
 */
import { describe, expect, test } from "bun:test";
import { configFor } from "../../src/config/load.ts";
import { settingsOf } from "../../src/config/schema.ts";
import { trainers } from "../../src/config/trainers/trainers.ts";
import { openR1Names, openRlhfNames, trainingArguments, trlNames, verlNames } from "./other-trainers.ts";

/** The messages to the user: refusals, or remarks. */
function told(...argv: string[]): { refusals: string[]; remarks: readonly string[] } {
  try {
    return { refusals: [], remarks: configFor("train", argv).warnings };
  } catch (error) {
    return { refusals: (error as Error).message.split("\n"), remarks: [] };
  }
}

/** `name=a b` as the words of a flag. */
function flag(text: string): string[] {
  const [name, value] = [text.replace(/=.*/s, ""), text.includes("=") ? text.replace(/^[^=]*=/, "") : undefined];
  if (value === undefined) return [`--${name}`];
  return value.includes(" ") && !/[[{]/.test(value) ? [`--${name}`, ...value.split(" ")] : [`--${name}=${value}`];
}

/** The arguments with refused ones replaced as suggested; new values override earlier ones. */
function corrected(argv: readonly string[], refusals: readonly string[]): string[] {
  const cures = new Map(
    refusals.map((line) => [line.split(":")[0]!, /; use (--.*?)( \(|$)/.exec(line)?.[1]?.split(" ") ?? []]),
  );
  const set = new Set([...cures.values()].flat().filter((word) => word.startsWith("--")));
  const left: string[] = [];
  let keeping = true;
  for (const word of argv) {
    const name = word.split("=")[0]!;
    if (word.startsWith("--") || /^[a-z_.+]+=/.test(word)) keeping = !cures.has(name) && !set.has(name);
    if (keeping) left.push(word);
  }
  return [...left, ...new Map([...cures.values()].flatMap(pairs)).entries()].flat();
}

const pairs = (words: readonly string[]): [string, string][] =>
  words.flatMap((word, i) => (word.startsWith("--") ? [[word, words[i + 1]!] as [string, string]] : []));

const known = new Set(Object.keys(settingsOf("train")));

function holds(text: string): void {
  const { refusals } = told(...flag(text));
  for (const line of refusals) {
    if (line.startsWith("all of these, translated")) continue;
    // Ours, but conflicting with our other defaults: a batch of 8 is not a whole group of 16.
    if (/^(per_device_train_batch_size|soft_punish_cache)=/.test(text)) continue;
    expect(line, text).toMatch(/: not a setting here; .{10,}/);
    const use = /; use (--.*?)( \(|$)/.exec(line)?.[1] ?? "";
    for (const [, key] of use.matchAll(/--(\w+)/g)) expect(known, `${text}: ${line}`).toContain(key!);
  }
}

describe("every name is one of four things", () => {
  const lists = { trlNames, trainingArguments, openR1Names, verlNames, openRlhfNames };
  for (const [list, names] of Object.entries(lists)) {
    test(list, () => {
      expect(new Set(names).size).toBe(names.length);
      for (const name of names) holds(name);
    });
  }

  test("a name in no table is refused as unknown", () => {
    for (const text of ["xyzzy=1", "actor_rollouts.n=1", "trainer=1"]) {
      const { refusals } = told(...flag(text));
      expect(refusals[0]).toContain("unknown setting");
    }
    expect(told("trainer.no_such_thing=1").refusals).toEqual([
      "trainer.no_such_thing: not a setting here; there is nothing like it here: leave it out",
    ]);
  });

  test("no line of a table is shadowed by an earlier one", () => {
    for (const { lines } of trainers) {
      const names = lines.map(([name]) => name);
      expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([]);
    }
  });

  // These must already be our settings, or be no change at all: TRL's and transformers' own defaults.
  test("TRL's defaults are no reason to refuse anything", () => {
    const changed =
      /^(per_device_train_batch_size|random_state|max_completion_len|max_prompt_length|num_ppo_epochs|rloo_k|response_length|soft_punish_cache)=/;
    for (const text of [...trlNames, ...trainingArguments, ...openR1Names]) {
      if (changed.test(text)) continue;
      expect(told(...flag(text)).refusals, text).toEqual([]);
    }
  });
});

test("settings that are off, or match our behaviour, are accepted silently", () => {
  const quiet = [
    ...[
      "use_vllm=false",
      "report_to=none",
      "report_to=[]",
      "optim=adamw_torch",
      "optim=adamw_torch_fused",
      "bf16=False",
    ],
    ...[
      "fp16=no",
      "push_to_hub=False",
      "eval_strategy=no",
      "save_strategy=steps",
      "eval_strategy=False",
      "use_peft=False",
      "deepspeed=None",
    ],
    ...["num_generations_eval=None", "chat_template_kwargs=None", "min_p=None", "trust_remote_code=0", "tf32=None"],
    ...["model_revision=main", "num_processes=1", "vllm_server_base_url=None", "label_smoothing_factor=0.0", "debug="],
    ...["output_dir=None", "delta=None", "max_steps=-1", "model_init_kwargs={}", "adam_beta1=0.9", "data_seed=42"],
  ];
  for (const text of quiet) {
    expect(told("--preset", "trl", `--${text}`), text).toEqual({ refusals: [], remarks: [] });
    if (text.endsWith("=")) continue;
    expect(
      told("--preset", "trl", ...text.split("=", 2).map((word, i) => (i === 0 ? `--${word}` : word))).refusals,
    ).toEqual([]);
  }
  expect(told("--preset", "trl", "--no_use_vllm", "--no-bf16", "--no_push_to_hub")).toEqual({
    refusals: [],
    remarks: [],
  });
  expect(configFor("train", ["--output_dir=None"]).config.outputDir).toBe("outputs/train");
  expect(configFor("train", ["--model=None", "--importance_sampling_clip_max=None"]).config).toMatchObject({
    model: null,
    importanceSamplingClipMax: null,
  });
});

test("settings without meaning here are left out with a remark, one line per reason", () => {
  const { refusals, remarks } = told(
    ...["--preset", "trl", "--use_vllm", "--vllm_mode", "colocate", "--bf16", "True", "--logging_dir", "logs"],
    ...["--attn_implementation=flash_attention_2", "--deepspeed", "ds.json", "--gradient_checkpointing_kwargs", "{}"],
  );
  expect(refusals).toEqual([]);
  expect(remarks).toEqual([
    "--use_vllm, --vllm_mode: ignored; rollouts run in the trainer's own engine",
    "--bf16: ignored; dtype sets the number format, float32 or bfloat16; by default it is the checkpoint's",
    "--logging_dir: ignored; metrics go to metrics.jsonl in output_dir, and to the trackers of report_to",
    "--attn_implementation: ignored; attention is the trainer's own",
    "--deepspeed: ignored; a single process computes",
  ]);
});

describe("accepted under our name", () => {
  const cases: readonly (readonly [argv: string, config: object])[] = [
    ["--save_strategy=no", { saveSteps: 0 }],
    ["--overwrite_output_dir", { overwrite: true }],
    ["--overwrite_output_dir=false", { overwrite: false }],
    ["--dataset_prompt_column=problem", { promptColumn: "problem" }],
    ["--report_to wandb tensorboard", { reportTo: ["wandb", "tensorboard"] }],
    ["--report_to=all", { reportTo: ["jsonl", "tensorboard", "wandb"] }],
    ["--report_to=none", { reportTo: [] }],
    ["--report_to=None", { reportTo: ["jsonl"] }],
    ["--use_cpu", { device: "cpu" }],
    ["--torch_dtype=torch.bfloat16", { dtype: "bfloat16" }],
    ["--dtype=bf16", { dtype: "bfloat16" }],
    ["beta=0.5", { beta: 0.5 }],
    ["+beta=0.5", { beta: 0.5 }],
  ];
  for (const [argv, config] of cases)
    test(argv, () => expect(configFor("train", argv.split(" ")).config).toMatchObject(config));
});

describe("refused, with the number converted", () => {
  const cases: readonly (readonly [argv: string, ...use: string[]])[] = [
    // TRL
    ["--generation_batch_size 64 --per_device_train_batch_size 16", "--steps_per_generation 4"],
    ["--num_processes 8 --per_device_train_batch_size 16", "--per_device_train_batch_size 128"],
    ["--save_strategy epoch --num_train_epochs 3", "--save_steps 0.333333"],
    // Truncated, not rounded: rounded up to whole steps it must not be one too many.
    ["--save_strategy epoch --num_train_epochs 7", "--save_steps 0.142857"],
    ["--save_strategy epoch --num_train_epochs 15", "--save_steps 0.066666"],
    ["--generation_batch_size 64", "--steps_per_generation 8 --per_device_train_batch_size 8"],
    ["--generation_batch_size 64 --per_device_train_batch_size 8 --num_processes 4", "--steps_per_generation 2"],
    ["--eval_strategy=epoch --num_train_epochs=4", "--eval_steps 0.25"],
    ["--save_strategy epoch --max_steps 50", "--save_steps 50"],
    ["--eval_strategy steps --logging_steps 5", "--eval_steps 5"],
    ["--eval_strategy steps --eval_steps 20 --dataset_name d", "--eval_dataset d"],
    ["--reward_model_name_or_path org/rm", "--reward_funcs org/rm"],
    ["--rloo_k 4", "--num_generations 4"],
    ["--data_seed 7", "--seed 7"],
    ["--save_strategy best", "--save_steps 0"],
    ['--model_init_kwargs {"torch_dtype":"bfloat16"}', "--dtype bfloat16"],
    ["--train_sampling_strategy sequential", "--shuffle_dataset false"],
    // verl counts prompts
    [
      "data.train_batch_size=64 actor_rollout_ref.actor.ppo_mini_batch_size=16 actor_rollout_ref.rollout.n=8",
      "--steps_per_generation 4",
      "--per_device_train_batch_size 128",
      "--num_generations 8",
    ],
    ["data.train_batch_size=64", "--steps_per_generation 1 --per_device_train_batch_size 64"],
    [
      "data.train_batch_size=1024 actor_rollout_ref.rollout.n=4",
      "--steps_per_generation 4 --per_device_train_batch_size 1024",
      "--num_generations 4",
    ],
    [
      "actor_rollout_ref.actor.ppo_mini_batch_size=512 actor_rollout_ref.rollout.n=2",
      "--per_device_train_batch_size 1024 --steps_per_generation 2",
      "--num_generations 2",
    ],
    ["actor_rollout_ref.rollout.n=5", "--num_generations 5 --per_device_train_batch_size 1280"],
    // verl counts generations: 64 ÷ 16 mini-batches, twice each
    [
      "data.train_batch_size=64 actor_rollout_ref.actor.ppo_mini_batch_size=16 actor_rollout_ref.actor.ppo_epochs=2 trainer.save_freq=5 trainer.test_freq=10 trainer.total_training_steps=100 actor_rollout_ref.actor.optim.lr_warmup_steps=3",
      "--num_iterations 2",
      "--save_steps 40",
      "--eval_steps 80",
      "--max_steps 800",
      "--warmup_steps 24",
    ],
    ["trainer.total_training_steps=10", "--max_steps 40"],
    // reported in the first round, so that nothing is left for a second one
    [
      "actor_rollout_ref.actor.use_kl_loss=False actor_rollout_ref.actor.kl_loss_coef=0.0 actor_rollout_ref.actor.kl_loss_type=low_var_kl",
      "--beta 0",
    ],
    [
      "actor_rollout_ref.actor.policy_loss.loss_mode=gspo actor_rollout_ref.actor.clip_ratio_c=10.0 actor_rollout_ref.actor.loss_agg_mode=token-mean",
      "--loss_type grpo --importance_sampling_level sequence --delta null",
    ],
    ["actor_rollout_ref.actor.use_token_level_loss=True", "--loss_type dapo"],
    // a + after the estimator: the gradient of k2
    [
      "actor_rollout_ref.actor.use_kl_loss=True actor_rollout_ref.actor.kl_loss_coef=0.01 actor_rollout_ref.actor.kl_loss_type=k3+",
      "--beta 0.01",
      "--kl_estimator k2",
    ],
    ["actor_rollout_ref.actor.clip_ratio_low=0.1", "--epsilon 0.1 --epsilon_high 0.2"],
    ["actor_rollout_ref.actor.clip_ratio=0.1 actor_rollout_ref.actor.clip_ratio_low=0.3", "--epsilon 0.3"],
    [
      "reward_model.reward_manager=dapo reward_model.overlong_buffer.enable=True reward_model.overlong_buffer.len=64 reward_model.overlong_buffer.penalty_factor=0.5",
      "--reward_funcs auto,soft_overlong --reward_weights 2,0.5",
      "--soft_punish_cache 64",
    ],
    [
      "algorithm.rollout_correction.rollout_rs_threshold=0.5_2.0",
      "--importance_sampling_clip_min 0.5 --importance_sampling_clip_max 2",
    ],
    ["actor_rollout_ref.rollout.val_kwargs.n=4", "--eval_num_generations 4"],
    [
      "actor_rollout_ref.rollout.val_kwargs.do_sample=True actor_rollout_ref.rollout.val_kwargs.temperature=0.6",
      "--eval_temperature 0.6",
    ],
    ["actor_rollout_ref.actor.clip_ratio_high=0.28", "--epsilon_high 0.28"],
    [
      "actor_rollout_ref.actor.policy_loss.loss_mode=cispo actor_rollout_ref.actor.clip_ratio_high=4",
      "--loss_type cispo",
      "--epsilon_high 5",
    ],
    [
      "actor_rollout_ref.actor.policy_loss.loss_mode=gspo",
      "--loss_type grpo --importance_sampling_level sequence --delta null",
    ],
    ["actor_rollout_ref.actor.loss_agg_mode=token-mean", "--loss_type dapo"],
    ["actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm", "--loss_type dr_grpo"],
    ["actor_rollout_ref.actor.clip_ratio_c=10.0", "--delta 10"],
    ["actor_rollout_ref.actor.grad_clip=0.5", "--max_grad_norm 0.5"],
    ["actor_rollout_ref.actor.use_kl_loss=True", "--beta 0.001"],
    ["actor_rollout_ref.actor.use_kl_loss=False", "--beta 0"],
    ["algorithm.use_kl_in_reward=True algorithm.kl_ctrl.kl_coef=0.01", "--use_kl_in_reward true", "--beta 0.01"],
    [
      "algorithm.filter_groups.enable=True algorithm.filter_groups.metric=acc",
      "--dynamic_sampling true",
      "--dynamic_sampling_reward auto",
    ],
    [
      "reward_model.overlong_buffer.enable=True reward_model.overlong_buffer.len=256",
      "--reward_funcs auto,soft_overlong",
      "--soft_punish_cache 256",
    ],
    ["algorithm.norm_adv_by_std_in_grpo=False", "--scale_rewards none"],
    ["algorithm.lam=0.95", "--lam 0.95"],
    ["actor_rollout_ref.rollout.temperature=0.8", "--temperature 0.8"],
    ["actor_rollout_ref.rollout.top_k=-1", "--top_k 0"],
    ["trainer.save_freq=-1", "--save_steps 0"],
    ["critic.optim.lr=1e-5", "--critic_learning_rate 1e-5"],
    ["data.train_files=['a.parquet']", "--dataset a.parquet"],
    ["actor_rollout_ref.actor.optim.betas=[0.9,0.95]", "--adam_beta1 0.9 --adam_beta2 0.95"],
    [
      "algorithm.rollout_correction.rollout_is=token",
      "--importance_sampling_correction true --importance_sampling_mode token_truncate --importance_sampling_clip_max 2",
    ],
    // our own names after a path
    ["algorithm.epsilon_high=0.28", "--epsilon_high 0.28"],
    ["loss.beta=0", "--beta 0"],
    ["actor_rollout_ref.rollout.min_p=0.1", "--min_p 0.1"],
    // OpenRLHF: a generation in prompts, a step in completions
    [
      "--rollout.batch_size 128 --rollout.n_samples_per_prompt 8 --train.batch_size 256",
      "--steps_per_generation 4",
      "--num_generations 8",
      "--per_device_train_batch_size 256",
    ],
    ["--actor.eps_clip_low_high 0.2 0.28", "--epsilon 0.2 --epsilon_high 0.28"],
    ["--algo.advantage.estimator group_norm", "--advantage_estimator grpo"],
    ["--algo.advantage.estimator=dr_grpo", "--advantage_estimator grpo --scale_rewards none"],
    ["--algo.kl.init_coef 0.02", "--beta 0.02 --use_kl_in_reward true"],
    [
      "--algo.kl.use_loss --algo.kl.init_coef 0.02 --algo.kl.estimator k3",
      "--beta 0.02 --use_kl_in_reward false",
      "--kl_estimator k3",
    ],
    [
      "--algo.advantage.is_correction_threshold 0.5 5",
      "--importance_sampling_clip_min 0.5 --importance_sampling_clip_max 5",
    ],
    ["--algo.advantage.is_correction_type icepop", "--importance_sampling_mode token_mask"],
    ["--algo.kl.use_loss --algo.kl.estimator k2", "--beta 0.01 --use_kl_in_reward false", "--kl_estimator k2"],
    [
      "--algo.advantage.is_correction_enable --algo.advantage.is_correction_type icepop",
      "--importance_sampling_correction true --importance_sampling_clip_min 0.5 --importance_sampling_clip_max 5",
      "--importance_sampling_mode token_mask",
    ],
    ["--eval.n_samples_per_prompt 4", "--eval_num_generations 4"],
    ["--actor.entropy_coef 0.01", "--entropy_coef 0.01"],
    ["--actor.policy_loss_type gspo", "--loss_type grpo --importance_sampling_level sequence"],
    ["--actor.adam.betas 0.9 0.95", "--adam_beta1 0.9 --adam_beta2 0.95"],
    [
      "--rollout_batch_size 16 --n_samples_per_prompt 8 --train_batch_size 64",
      "--steps_per_generation 2",
      "--per_device_train_batch_size 64",
    ],
    // it counts generations, of 16 × 8 ÷ 64 steps, twice each
    [
      "--rollout.batch_size 16 --rollout.n_samples_per_prompt 8 --train.batch_size 64 --train.max_epochs 2 --ckpt.save_steps 10 --eval.steps 5",
      "--save_steps 40",
      "--eval_steps 20",
    ],
    ["--rollout.n_samples_per_prompt 8", "--num_generations 8 --steps_per_generation 64"],
    ["--data.max_len 2048", "--max_completion_length 2048"],
    ["--l2 0.1 --entropy_loss_coef 0.01", "--weight_decay 0.1", "--entropy_coef 0.01"],
    [
      "--use_kl_loss --init_kl_coef 0.01 --use_kl_estimator_k3",
      "--beta 0.01 --use_kl_in_reward false",
      "--kl_estimator k3",
    ],
  ];
  for (const [argv, ...use] of cases) {
    test(argv, () => {
      const { refusals } = told(...argv.split(" "));
      const cures = refusals.map((line) => /; use (--.*?)( \(|$)/.exec(line)?.[1]);
      for (const each of use) expect(cures).toContain(each);
      expect(refusals.filter((line) => !line.startsWith("all of these")).length).toBeGreaterThanOrEqual(use.length);
      for (const line of refusals) expect(line).toMatch(/not a setting here|^all of these, translated: --/);
      // One round of corrections suffices.
      expect(told(...corrected(argv.split(" "), refusals)).refusals).toEqual([]);
    });
  }

  test("two values of one setting are both reported, and the preset is that of the trainer with more of the names", () => {
    const { refusals } = told(
      ..."actor_rollout_ref.actor.use_kl_loss=True actor_rollout_ref.actor.kl_loss_coef=0.001".split(" "),
      ..."algorithm.use_kl_in_reward=True algorithm.kl_ctrl.kl_coef=0.01".split(" "),
    );
    expect(refusals).toContain("beta: the names above ask for both 0.001 and 0.01; choose one");
    expect(refusals.some((line) => line.includes("--beta 0.001 ") || line.startsWith("all of"))).toBe(false);
    expect(told("--train_batch_size", "128", "--pretrain", "m").refusals.at(-1)).toContain("--preset openrlhf");
  });

  test("with the reason if there is no replacement", () => {
    const reasons: readonly (readonly [argv: string, part: string])[] = [
      ["--use_dora", "adapters are plain LoRA"],
      ["--load_in_8bit=True", "weights are float32 or bfloat16: leave it out"],
      ["--log_completions_hub_repo=a/b", "nothing but the model is uploaded (push_to_hub): leave it out"],
      ["--optim=paged_adamw_8bit", "use adamw_8bit"],
      ["--fp16", "float16 is not supported in training"],
      ["actor_rollout_ref.rollout.multi_turn.enable=True", "an answer is one turn"],
      [
        "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm",
        "verl does not divide by the number of completions",
      ],
      ["--reward.stop_properly_penalty_coef 0", "this leaves them out of the loss"],
      ["--algo.advantage.no_std_norm --algo.advantage.estimator reinforce", "divided by its deviation: leave it out"],
      [
        "--rollout_batch_size 16 --n_samples_per_prompt 8 --train_batch_size 64 --save_steps 20",
        "16 prompts × 8 answers = 128 completions; save_steps: generations there, steps here",
      ],
      ["--data.max_samples 20000", "cut the file, or end the run"],
      ["--algo.advantage.is_correction_type seq-mask-tis", "there is no mask by a sequence's mean ratio"],
      ["algorithm.rollout_correction.rollout_rs=token_k1", "also weight what they keep"],
      ["actor_rollout_ref.actor.clip_ratio_c=3", "there it defaults to 3"],
      ["algorithm.adv_estimator=remax", "there is no remax estimator"],
      ["--reward.normalize_enable", "advantages are normalized, not rewards"],
      ["estimator=gae", "this may be algo.advantage.estimator or algo.kl.estimator: write the whole name"],
    ];
    for (const [argv, part] of reasons) expect(told(...argv.split(" ")).refusals[0], argv).toContain(part);
  });
});

test("a recipe of TRL for supervised fine-tuning", () => {
  const argv = [
    "--model_name_or_path=m",
    "--dataset_name=d",
    "--packing",
    "--bf16",
    "--dataset_num_proc=4",
    "--max_length=64",
  ];
  const { config, warnings } = configFor("sft", argv);
  expect(config).toMatchObject({ model: "m", dataset: "d", maxLength: 64 });
  expect(warnings).toHaveLength(3);
  expect(() => configFor("sft", ["--max_seq_length=64"])).toThrow(
    "--max_seq_length: not a setting here; use --max_length 64",
  );
});

test("for recorded rollouts TRL's remark leaves out the file's settings", () => {
  const { warnings } = configFor("update", ["--rollouts=r", "--model_name_or_path=m"]);
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toContain("loss_type grpo (dapo), beta 0.04 (0)");
  expect(warnings[0]).not.toContain("num_generations");
});

test("rewards that are Python code, or run programs, are reported together with the rest", () => {
  const { refusals } = told(
    "--reward_funcs",
    "code",
    "my_lib.rewards.custom",
    "./r.py",
    "math",
    "./mine.ts",
    "--beta=x",
  );
  expect(refusals.map((line) => line.split(": ").slice(0, 2).join(": "))).toEqual([
    '--beta "x": must be a number ≥ 0',
    "reward_funcs: code",
    "reward_funcs: my_lib.rewards.custom",
    "reward_funcs: ./r.py",
  ]);
  expect(told("--reward_funcs", "mine.ts", "org/rm.v2", "mine.mjs").refusals).toEqual([]);
});

test("TRL's names without its preset: one remark names the paper's values; with only our names, or the preset, there is none", () => {
  const remark = (...argv: string[]) => told(...argv).remarks.filter((line) => line.includes("paper's values"));
  expect(remark("--model_name_or_path", "m")).toEqual([
    "these are TRL's names, but settings left out have the paper's values, not TRL's: loss_type grpo (dapo), beta 0.04 (0), use_bias_correction_kl false (true), lr_scheduler_type constant (linear), num_train_epochs 1 (3), num_generations 16 (8), per_device_train_batch_size 64 (8); --preset trl uses TRL's",
  ]);
  expect(remark("--bf16", "--loss_type=dapo", "--num_train_epochs=1")[0]).not.toMatch(/loss_type|num_train_epochs/);
  expect(remark("--model", "m", "--loss_type", "dapo")).toEqual([]);
  expect(remark("--model_name_or_path", "m", "--preset", "trl")).toEqual([]);
  expect(remark("--bf16", "--preset", "dr_grpo")).toEqual([]);
});
