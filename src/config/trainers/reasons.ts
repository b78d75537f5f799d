/** Why other trainers' settings have no counterpart here, where more than one table says so. */
export const oneProcess = "a single process computes";
export const ownEngine = "rollouts run in the trainer's own engine";
export const packed = "sequences are packed by tokens and never padded (micro_batch_tokens)";
export const tracked = "metrics go to metrics.jsonl in output_dir, and to the trackers of report_to";
/** Of how it is done; whether is our `gradient_checkpointing`. */
export const recomputed = "activations are recomputed layer by layer (gradient_checkpointing)";
export const mapped = "rows are read from a mapped file";
export const otherAdapters = "adapters are plain LoRA, of projections chosen by name (lora_target_modules)";
export const noUpload = "nothing but the model is uploaded (push_to_hub): leave it out";
