/** From settings to what a session is made of: device, model folder, tokenizer, buffer sizes. Shared by all commands. */
import { resolveModel } from "../checkpoint/hub.ts";
import type { Device } from "../device/device.ts";
import { openDevice } from "../device/open.ts";
import type { ModelConfig } from "../families/config.ts";
import type { ActivationSizes } from "../model/activations.ts";
import { promptSlotsFor, type RolloutLimits } from "../rollout/buffers.ts";

export interface EngineSettings {
  /** auto, cpu, cuda or cuda:N */
  readonly device: string;
  readonly threads: number | null;
}

/** Opens the device of a run; says so when its kernels are compiled first, or when it is not the one hoped for. */
export function openRunDevice({ device, threads }: EngineSettings, note: (text: string) => void): Promise<Device> {
  return openDevice({ device, threads, note });
}

/** The folder that a model setting names, the model downloaded when it is a hub id. */
export function modelFolder(model: string): Promise<string> {
  return resolveModel(model);
}

/** Rows of logits in a chunk: enough to keep the product busy, few enough to stay small. */
export function headChunk(
  { headBytes }: Pick<Device, "headBytes">,
  { vocabSize }: ModelConfig,
  tokens: number,
): number {
  const rows = Math.floor(headBytes / (4 * vocabSize));
  return Math.min(tokens, Math.max(16, Math.min(1024, rows)));
}

/** Buffers of packed passes over at most `tokens` tokens. */
export function packedSizes(
  device: Device,
  config: ModelConfig,
  tokens: number,
  longestPrompt: number,
): ActivationSizes {
  return { tokens, entries: tokens, headChunk: headChunk(device, config, tokens), longestPrompt };
}

/** Prompts evaluated at once: each has a completion of its own, so each takes a prompt's pages. */
const EVALUATED_AT_ONCE = 32;

/** What a rollout of groups of `samples`, and an evaluation of one sample a prompt beside it, must hold. */
export function rolloutLimits(options: {
  readonly maxConcurrentSequences: number;
  /** Completions of the largest rollout. */
  readonly completions: number;
  readonly samples: number;
  readonly evaluates: boolean;
  readonly longestPrompt: number;
  readonly maxCompletion: number;
  readonly repetitionPenalty: number;
}): RolloutLimits {
  const { maxConcurrentSequences, completions, samples, evaluates, longestPrompt, maxCompletion } = options;
  const wanted = Math.max(completions, evaluates ? EVALUATED_AT_ONCE : 1);
  const maxSequences = Math.min(maxConcurrentSequences, wanted);
  const together = Math.max(promptSlotsFor(maxSequences, samples), evaluates ? EVALUATED_AT_ONCE : 1);
  return {
    maxSequences,
    promptSlots: Math.min(maxSequences, together),
    longestPrompt,
    maxCompletion,
    penalized: options.repetitionPenalty !== 1,
  };
}
