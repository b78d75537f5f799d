/** How work is followed and stopped once it has started: by hooks from a program, by the terminal from a command. */
import type { CompletionSample, Progress, RunConsole } from "../metrics/console.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";

/** What a hook throws ends the work, as a failure of its own does. */
export interface Hooks {
  /**
   * Once aborted, it stops the work: between two tokens or micro-batches, or after the step that runs. What was reached is
   * kept by `train` and `sft`, which resolve; the others leave nothing and reject with the signal's reason.
   */
  readonly signal?: AbortSignal | undefined;
  /** A line on what runs: the model and the device, settings without effect, rows left out, where something was saved. */
  readonly onNote?: ((note: string) => void) | undefined;
}

export interface ProgressHooks extends Hooks {
  /** How far the current phase has come, many times a second. */
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

export interface RunHooks extends ProgressHooks {
  /** After every step that `loggingSteps` names (by default each), with the line of metrics.jsonl. */
  readonly onStep?: ((metrics: MetricsRecord) => void) | undefined;
  /** After each evaluation, with the line of metrics.jsonl. */
  readonly onEvaluation?: ((metrics: MetricsRecord) => void) | undefined;
  /** Some of the completions that `step` is the first to learn from, as `logCompletions` asks for. */
  readonly onCompletions?: ((step: number, samples: readonly CompletionSample[]) => void) | undefined;
}

/** The other side of the hooks, and of a command's terminal and signals. */
export interface Control {
  readonly console: RunConsole;
  readonly stopRequested: () => boolean;
  /** Called when the work begins: from here on it ends by `stopRequested`. */
  readonly onBegin?: (() => void) | undefined;
}

export function controlOf(hooks: RunHooks): Control {
  return {
    console: {
      progress: (progress) => hooks.onProgress?.(progress),
      step: (record) => hooks.onStep?.(record),
      completions: (step, samples) => hooks.onCompletions?.(step, samples),
      evaluation: (record) => hooks.onEvaluation?.(record),
      note: (text) => hooks.onNote?.(text),
      close() {},
    },
    stopRequested: () => hooks.signal?.aborted ?? false,
  };
}
