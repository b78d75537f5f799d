/** transformers 5's TrainingArguments, and those of earlier versions that recipes still have: what they have beyond our settings. */
import { mapped, oneProcess, recomputed, tracked } from "./reasons.ts";
import {
  drop,
  dropped,
  droppedUnlessOff,
  isNone,
  isTrue,
  numberOf,
  onlyOff,
  type Rule,
  refuse,
  renamed,
  type Setting,
  share,
  silently,
  type Trainer,
  taken,
} from "./rule.ts";

const uncompiled = "the kernels are already compiled";
const everyStep = "metrics.jsonl has every step";
const byDtype = "dtype sets the number format, float32 or bfloat16; by default it is the checkpoint's";

/** When something is done: at steps is what we do. An epoch is a share of all steps. */
const strategy =
  (key: string, never: Rule): Rule =>
  (value, other) => {
    if (isNone(value) || String(value) === "steps") return silently;
    // YAML 1.1 reads a bare no as false.
    if (/^(no|false)$/i.test(String(value))) return never(value, other);
    if (String(value) === "best" && key === "save_steps")
      return refuse("with metric_for_best_model, an evaluation better than all before saves one", [key, 0]);
    if (String(value) !== "epoch") return refuse("it is done every N steps", [key]);
    const steps = numberOf(other("max_steps")) ?? -1;
    const epochs = numberOf(other("num_train_epochs")) ?? (other("preset") === "trl" ? 3 : 1);
    const oneOnly = "the model is evaluated and saved at the end, and this run is a single epoch";
    if (steps > 0) return refuse("max_steps ends the run; use it, or another number of steps", [key, steps]);
    return epochs > 1 ? refuse("a share of all steps is an epoch", [key, share(1 / epochs)]) : drop(oneOnly);
  };

/** There a split of the same dataset is evaluated on, as often as is logged unless it is said; here it is named. */
const evaluation: Rule = (value, other) => {
  if (isNone(value) || /^(no|false)$/i.test(String(value))) return silently;
  const asked = strategy("eval_steps", () => silently)(value, other);
  const dataset = other("dataset_name") ?? other("dataset");
  const use: Setting[] = asked.kind === "refused" ? [...asked.use] : [];
  if (String(value) === "steps" && other("eval_steps") === undefined)
    use.push(["eval_steps", numberOf(other("logging_steps")) ?? 10]);
  if (other("eval_dataset") === undefined && typeof dataset === "string") use.unshift(["eval_dataset", dataset]);
  if (use.length === 0) return asked;
  return refuse(asked.kind === "refused" ? asked.note : "", ...use);
};

const sampling: Rule = (value) => {
  if (isNone(value) || String(value) === "random") return silently;
  if (String(value) === "sequential") return refuse("", ["shuffle_dataset", false]);
  return refuse("rows come in a seeded random order or one after the other", ["shuffle_dataset"]);
};

const dataSeed: Rule = (value, other) =>
  isNone(value) || numberOf(value) === (numberOf(other("seed")) ?? 42)
    ? silently
    : refuse("one seed serves everything", ["seed", numberOf(value)]);

const onCpu: Rule = (value) => (isTrue(value) ? { kind: "ours", key: "device", value: "cpu" } : silently);

const halfPrecision: Rule = (value) =>
  isTrue(value) ? refuse("float16 is not supported in training: float32 or bfloat16", ["dtype"]) : silently;

export const transformers: Trainer = {
  name: "TRL",
  lines: [
    ["optim_args", onlyOff("use adam_beta1, adam_beta2, adam_epsilon and weight_decay")],
    ["optim_target_modules", onlyOff("the optimizer is AdamW for all weights: leave it out")],
    ["adafactor", onlyOff("the optimizer is AdamW: leave it out")],
    ["average_tokens_across_devices", dropped(oneProcess)],
    ["label_smoothing_factor", onlyOff("the policy loss has no labels to smooth: leave it out")],
    ["bf16", droppedUnlessOff(byDtype)],
    ["bf16_full_eval", droppedUnlessOff(byDtype)],
    ["fp16", halfPrecision],
    ["fp16_full_eval", droppedUnlessOff(byDtype)],
    ["fp16_opt_level", dropped(byDtype)],
    ["fp16_backend", dropped(byDtype)],
    ["half_precision_backend", dropped(byDtype)],
    ["tf32", droppedUnlessOff("float32 products are float32")],
    ["activation_checkpointing", taken("gradient_checkpointing")],
    ["activation_checkpointing_kwargs", droppedUnlessOff(recomputed)],
    ["gradient_checkpointing_kwargs", droppedUnlessOff(recomputed)],
    ["torch_compile", droppedUnlessOff(uncompiled)],
    ["torch_compile_*", droppedUnlessOff(uncompiled)],
    ["torchdynamo", droppedUnlessOff(uncompiled)],
    ["jit_mode_eval", droppedUnlessOff(uncompiled)],
    ["use_ipex", droppedUnlessOff(uncompiled)],
    ["use_liger_kernel", droppedUnlessOff("the loss is always fused with the language-model head")],
    ["liger_kernel_config", droppedUnlessOff("the loss is always fused with the language-model head")],
    ["use_cache", dropped("rollouts always use a key-value cache, the update never")],
    ["neftune_noise_alpha", onlyOff("no noise is added to embeddings: leave it out")],
    ["torch_empty_cache_steps", droppedUnlessOff("all memory is planned before the first step")],
    ["auto_find_batch_size", droppedUnlessOff("memory follows micro_batch_tokens, not the batch")],
    // What is shown and recorded
    ["logging_strategy", dropped(everyStep)],
    ["logging_first_step", dropped(everyStep)],
    ["logging_nan_inf_filter", dropped(everyStep)],
    ["log_on_each_node", dropped(oneProcess)],
    ["include_num_input_tokens_seen", dropped(everyStep)],
    ["include_tokens_per_second", dropped(everyStep)],
    ["log_level", dropped("the console shows remarks and steps")],
    ["log_level_replica", dropped(oneProcess)],
    ["disable_tqdm", dropped("the console shows progress on a terminal only")],
    ["logging_dir", droppedUnlessOff(tracked)],
    ["project", dropped(tracked)],
    ["trackio_*", droppedUnlessOff(tracked)],
    ["skip_memory_metrics", dropped(everyStep)],
    // Evaluation
    ["do_train", dropped("training is what the command does")],
    ["do_eval", droppedUnlessOff("there is evaluation if there is an eval_dataset")],
    ["do_predict", onlyOff("use grpo eval")],
    ["eval_strategy", evaluation],
    ["evaluation_strategy", evaluation],
    ["eval_delay", onlyOff("evaluation begins before the first step: leave it out")],
    ["eval_on_start", dropped("evaluation always begins before the first step")],
    ["per_device_eval_batch_size", dropped("sequences sampled at once are max_concurrent_sequences")],
    ["prediction_loss_only", dropped("evaluation looks at answers, not at a loss")],
    ["eval_do_concat_batches", dropped("evaluation looks at answers, not at logits")],
    ["eval_use_gather_object", dropped(oneProcess)],
    ["eval_accumulation_steps", droppedUnlessOff("evaluation looks at answers, not at logits")],
    ["include_for_metrics", droppedUnlessOff("evaluation looks at answers, not at logits")],
    ["include_inputs_for_metrics", droppedUnlessOff("evaluation looks at answers, not at logits")],
    ["batch_eval_metrics", droppedUnlessOff("evaluation looks at answers, not at logits")],
    ["label_names", droppedUnlessOff("evaluation looks at answers, not at labels")],
    // Checkpoints
    ["save_strategy", strategy("save_steps", () => ({ kind: "ours", key: "save_steps", value: 0 }))],
    ["save_only_model", onlyOff("a checkpoint always has everything needed to resume: leave it out")],
    ["save_safetensors", dropped("weights are always safetensors")],
    ["save_on_each_node", droppedUnlessOff(oneProcess)],
    ["enable_jit_checkpoint", droppedUnlessOff("Ctrl-C saves a checkpoint")],
    ["ignore_data_skip", onlyOff("a resumed run continues at its own place in the data: leave it out")],
    ["restore_callback_states_from_checkpoint", droppedUnlessOff("there are no callbacks")],
    ["hub_always_push", droppedUnlessOff("every push is waited for, and none is left out")],
    ["push_to_hub_model_id", renamed("hub_model_id")],
    ["push_to_hub_organization", onlyOff("the owner stands before the name", ["hub_model_id"])],
    ["push_to_hub_token", onlyOff("set HF_TOKEN: other users of the machine see a command's arguments")],
    // Randomness, devices, processes
    ["full_determinism", dropped("the same run always gives the same bits")],
    ["data_seed", dataSeed],
    ["use_cpu", onCpu],
    ["no_cuda", onCpu],
    ["use_mps_device", droppedUnlessOff("device is cpu or cuda")],
    ["local_rank", dropped(oneProcess)],
    ["accelerator_config", droppedUnlessOff(oneProcess)],
    ["parallelism_config", droppedUnlessOff(oneProcess)],
    ["deepspeed", droppedUnlessOff(oneProcess)],
    ["fsdp", droppedUnlessOff(oneProcess)],
    ["fsdp_*", droppedUnlessOff(oneProcess)],
    ["ddp_*", droppedUnlessOff(oneProcess)],
    ["tpu_*", droppedUnlessOff(oneProcess)],
    ["mp_parameters", droppedUnlessOff(oneProcess)],
    ["ray_scope", dropped(oneProcess)],
    ["dispatch_batches", droppedUnlessOff(oneProcess)],
    ["split_batches", droppedUnlessOff(oneProcess)],
    // Data
    ["dataloader_*", dropped(mapped)],
    ["remove_unused_columns", dropped("every column reaches the reward functions")],
    ["train_sampling_strategy", sampling],
    ["group_by_length", onlyOff("rows are drawn in a seeded order: leave it out")],
    ["length_column_name", dropped("rows are not grouped by length")],
    ["past_index", dropped("there is no past state")],
  ],
};
