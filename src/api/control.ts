/** How work is followed and stopped once it has started: by hooks or events from a program, by the terminal from a command. */
import type { CompletionSample, Progress, RunConsole } from "../metrics/console.ts";
import type { MetricsRecord } from "../metrics/metrics-file.ts";
import type { Followers } from "./running.ts";

export type { MetricsRecord, Progress };

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

/** What happens in a run, by `type`: the same things, at the same times, as the hooks of those names. */
export type RunEvent =
  | { readonly type: "note"; readonly text: string }
  /** Only the newest, if several have come since the last event was taken. */
  | { readonly type: "progress"; readonly progress: Progress }
  | { readonly type: "step"; readonly step: number; readonly metrics: MetricsRecord }
  | { readonly type: "evaluation"; readonly step: number; readonly metrics: MetricsRecord }
  | { readonly type: "completions"; readonly step: number; readonly samples: readonly CompletionSample[] };

/** Of two events in a row: progress is worth nothing once there is newer progress. */
export const isNewerProgress = (last: RunEvent, next: RunEvent): boolean =>
  last.type === "progress" && next.type === "progress";

/** The other side of hooks and events, and of a command's terminal and signals. */
export interface Control {
  readonly console: RunConsole;
  readonly stopRequested: () => boolean;
  /** Called when the work begins: from here on it ends by `stopRequested`. */
  readonly onBegin?: (() => void) | undefined;
}

export function controlOf(hooks: RunHooks, { emit, left }: Followers<RunEvent>): Control {
  return {
    console: {
      progress(progress) {
        hooks.onProgress?.(progress);
        emit({ type: "progress", progress });
      },
      step(metrics) {
        hooks.onStep?.(metrics);
        emit({ type: "step", step: metrics.step, metrics });
      },
      completions(step, samples) {
        hooks.onCompletions?.(step, samples);
        emit({ type: "completions", step, samples });
      },
      evaluation(metrics) {
        hooks.onEvaluation?.(metrics);
        emit({ type: "evaluation", step: metrics.step, metrics });
      },
      note(text) {
        hooks.onNote?.(text);
        emit({ type: "note", text });
      },
      close() {},
    },
    stopRequested: () => left() || (hooks.signal?.aborted ?? false),
  };
}

/** What came of the work; where it was stopped and has left nothing, the promise is rejected as `fetch`'s is. */
export function unlessStopped<T>(result: T | null, { signal }: Hooks): T {
  if (result !== null) return result;
  // Without a signal, a loop over its events was left.
  throw signal?.aborted ? signal.reason : new DOMException("The loop over the events was left.", "AbortError");
}
