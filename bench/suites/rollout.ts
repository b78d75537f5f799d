/**
 * `bench rollout`: how fast a model samples, through the program's own rollout engine. Completions have exactly the requested
 * length; the whole of it, from prompts to the last token, is timed, and decode steps at several fills of the cache. Leaves out
 * tokenizing.
 */
import type { Device } from "../../src/device/device.ts";
import { RunError } from "../../src/errors.ts";
import { forward } from "../../src/model/lm-head.ts";
import { cutMicroBatches } from "../../src/model/micro-batches.ts";
import type { RolloutRequest, RolloutSettings, SampledCompletion } from "../../src/rollout/sequence.ts";
import { launchCounter, type PhaseCount, phaseBytes, phaseLine } from "../emulated-counts.ts";
import { type Figure, more } from "../figures.ts";
import { limitOf } from "../limits.ts";
import { type Meter, median } from "../measure.ts";
import {
  type MeasuredModel,
  measuredModel,
  modelFlops,
  type OpenedModel,
  openMeasured,
  requireModel,
  stepShape,
} from "../model.ts";
import { withMeter } from "../open.ts";
import type { StepShape } from "../roofline/phases.ts";
import { reportOf, type Suite } from "./suite.ts";

const sampling = { seed: 1, stream: 0, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, step: 1 };

function settingsOf(maxCompletionLength: number): RolloutSettings {
  return { ...sampling, maxCompletionLength, isStop: () => false };
}

/** The prompts of `sequences` completions, `samples` of each. */
function requestsOf(vocabSize: number, { samples, promptTokens }: StepShape, sequences: number): RolloutRequest[] {
  return Array.from({ length: Math.ceil(sequences / samples) }, (_, prompt) => ({
    promptIds: Int32Array.from({ length: promptTokens }, (_, i) => (i * 131 + prompt) % vocabSize),
    samples: Math.min(samples, sequences - prompt * samples),
    prompt,
  }));
}

/** How far recorded logprobs may be from training's, in nats: 0 where both come from the same sums (promise 2). */
export function allowedDifference(device: Device, dtype: "float32" | "bfloat16"): { mean: number; worst: number } {
  if (device.exactlyOnPolicy) return { mean: 0, worst: 0 };
  // The project's line for activations stored in bfloat16; in float32 only the order of sums differs.
  return device.activationDType(dtype) === "bfloat16" ? { mean: 0.02, worst: 0.25 } : { mean: 1e-4, worst: 1e-3 };
}

/**
 * Compares the logprobs recorded while sampling with those of the training pass.
 *
 * @returns what was compared, in words
 * @throws RunError if they differ by more than the device promises
 */
export async function checkLogprobs(
  { model, activations }: Pick<OpenedModel, "model" | "activations">,
  requests: readonly RolloutRequest[],
  results: readonly (readonly SampledCompletion[])[],
  microBatchTokens: number,
): Promise<string> {
  const { device, weights } = model;
  const groups = requests.map(({ promptIds }, i) => ({ promptIds, completions: results[i]! }));
  const recorded = results.flat();
  let [tokens, sum, worst] = [0, 0, 0];
  for (const batch of cutMicroBatches(groups, microBatchTokens)) {
    const { logprobs } = await forward(model, batch, { ...activations, gradient: null }, sampling.temperature);
    for (const [i, index] of batch.completions.entries())
      for (const [t, want] of recorded[index]!.logprobs.entries()) {
        const apart = Math.abs(want - logprobs[batch.entryStarts[i]! + t]!);
        tokens++;
        sum += apart;
        worst = Math.max(worst, apart); // NaN if one is
      }
  }
  const allowed = allowedDifference(device, weights.dtype);
  if (tokens === 0 || !(sum / tokens <= allowed.mean && worst <= allowed.worst))
    throw new RunError(
      `rollout on ${device.description}: wrong result: the logprobs of ${tokens} sampled tokens are ${sum / tokens} from training's in the mean and ${worst} at worst; allowed are ${allowed.mean} and ${allowed.worst}`,
    );
  return device.exactlyOnPolicy
    ? `the logprobs of ${tokens} sampled tokens are training's, bit for bit`
    : `the logprobs of ${tokens} sampled tokens are ${worst.toExponential(1)} from training's at worst`;
}

/** Steps per timed stretch. */
const STRETCH = 40;

/** The stretches of a rollout's decode steps: near the beginning, in the middle, at the end. */
export function stretchesOf(steps: number): { readonly start: number; readonly length: number }[] {
  const length = Math.min(STRETCH, Math.max(1, Math.floor(steps / 3)));
  // The first steps record their graphs.
  const starts = [Math.min(10, (steps - length) >> 2), (steps - length) >> 1, steps - length];
  return [...new Set(starts.map((start) => Math.max(0, start)))]
    .sort((a, b) => a - b)
    .map((start) => ({ start, length }));
}

interface Timed {
  readonly results: SampledCompletion[][];
  /** Milliseconds: of everything, until the first tokens, and of each decode step. */
  readonly total: number;
  readonly first: number;
  readonly gaps: readonly number[];
}

/** The ids of every step reach the host, so its clock sees when the device is done with one. */
async function timed(
  { rollout }: Pick<OpenedModel, "rollout">,
  requests: readonly RolloutRequest[],
  length: number,
  onStep: () => void = () => {},
): Promise<Timed> {
  const stamps: number[] = [];
  const start = performance.now();
  const results = await rollout.generate(requests, settingsOf(length), {
    onProgress() {
      stamps.push(performance.now());
      onStep();
    },
  });
  return {
    results,
    total: performance.now() - start,
    first: stamps[0]! - start,
    gaps: stamps.slice(1).map((stamp, i) => stamp - stamps[i]!),
  };
}

async function measureRollout(meter: Meter, measured: MeasuredModel, shape: StepShape, dtype: "float32" | "bfloat16") {
  const { device } = meter;
  const { config } = measured;
  const { samples, sequences, promptTokens, completionTokens, microBatchTokens } = shape;
  const peaks = [await meter.peak()];
  const opened = await openMeasured(device, measured, shape, dtype);
  const bytes = opened.arena.byteLength;
  try {
    // A short rollout first: it is checked, and graphs, algorithms and kernels exist afterwards.
    const few = requestsOf(config.vocabSize, shape, Math.min(sequences, 2 * samples));
    const short = await timed(opened, few, Math.min(completionTokens, 8));
    const checked = await checkLogprobs(opened, few, short.results, microBatchTokens);

    const counter = launchCounter(device);
    const launched: number[] = [];
    counter?.clear();
    const all = await timed(opened, requestsOf(config.vocabSize, shape, sequences), completionTokens, () => {
      if (counter) launched.push(counter.launches());
      counter?.clear();
    });
    const alone =
      sequences === 1
        ? null
        : await timed(opened, requestsOf(config.vocabSize, shape, 1), Math.min(completionTokens, 3 * STRETCH));
    peaks.push(await meter.peak());

    const flops = modelFlops(config);
    const wide = dtype === "bfloat16";
    const stored = device.activationDType(dtype);
    const prompts = Math.ceil(sequences / samples);
    const decode = (run: Timed, B: number, P: number) =>
      stretchesOf(run.gaps.length).map(({ start, length }): Figure => {
        const milliseconds = median(run.gaps.slice(start, start + length));
        const cached = promptTokens + start + (length >> 1) + 1;
        const distinct = P * promptTokens + B * (cached - promptTokens);
        const amount = {
          flops: flops.forward(B, B, B * cached),
          bytes: flops.decodeBytes(dtype) + distinct * flops.cacheBytes(stored),
        };
        const name = `decode of ${B} sequence${B === 1 ? "" : "s"}, ${cached} tokens each`;
        return more(name, (1000 * B) / milliseconds, "tokens/s", limitOf(amount, milliseconds, peaks, wide));
      });
    const pairs = (prompts * promptTokens * (promptTokens + 1)) / 2;
    const prefill = { flops: flops.forward(prompts * promptTokens, prompts, pairs), bytes: flops.decodeBytes(dtype) };
    const figures: Figure[] = [
      more(
        `rollout of ${sequences} × ${completionTokens} tokens`,
        (1000 * sequences * completionTokens) / all.total,
        "tokens/s",
      ),
      more(
        `prefill of ${prompts} × ${promptTokens} tokens, with the first tokens`,
        (1000 * prompts * promptTokens) / all.first,
        "tokens/s",
        limitOf(prefill, all.first, peaks, wide),
      ),
      ...decode(all, sequences, prompts),
      ...(alone === null ? [] : decode(alone, 1, 1).slice(-1)),
    ];
    const perPhase: PhaseCount[] = [];
    if (counter) {
      const bytesOf = await phaseBytes(device, config, shape, { dtype, checkpointing: true });
      const decodeStep = launched[launched.length >> 1]!;
      // A device that queues work has been given the step after the first tokens too.
      const prefillOnly = launched[0]! - (device.queuesWork ? decodeStep : 0);
      perPhase.push({ phase: "prefill", launches: prefillOnly, bytes: bytesOf("prefill") });
      perPhase.push({ phase: "decode step", launches: decodeStep, bytes: bytesOf("decode") });
    }
    opened.rollout.close();
    return { checked, figures, perPhase, bytes, peaks };
  } finally {
    opened.arena.free();
  }
}

export const rollout: Suite = {
  summary: "tokens/s of sampling: whole, prefill, decode of many sequences and of one",
  usual: true,
  takes: [
    ...(["device", "shape", "model", "dtype", "threads", "path", "quick", "num_generations"] as const),
    ...(["max_concurrent_sequences", "prompt_tokens", "max_completion_length", "micro_batch_tokens"] as const),
  ],
  async run(flags, line) {
    requireModel(flags);
    return withMeter(flags, async (meter) => {
      const model = await measuredModel(flags, meter.device);
      const [shape, dtype] = [stepShape(meter.device, flags), flags.dtype ?? "bfloat16"];
      const { checked, figures, ...details } = await measureRollout(meter, model, shape, dtype);
      const report = reportOf("rollout", meter.device, checked, figures, line, {
        ...{ model: model.name, dtype, shape },
        ...details,
      });
      line(`  ${model.name}, ${dtype}, ${Math.round(details.bytes / 2 ** 20)} MiB planned`);
      for (const phase of details.perPhase) line(phaseLine(phase));
      return report;
    });
  },
};
