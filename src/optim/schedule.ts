/**
 * The learning rate of a step, by Hugging Face's schedules (transformers' optimization.py) with the same numbers:
 * warm-up, then the schedule's decay. Steps count from 0, so the first step of a warm-up has rate 0.
 */
import { type ScheduleName, type ScheduleShape, scheduleShape } from "../config/schedules.ts";

export interface ScheduleConfig {
  /** The rate at the end of warm-up. */
  readonly base: number;
  readonly shape: ScheduleShape;
  /** w; `constant` has no warm-up and ignores it. */
  readonly warmupSteps: number;
  /** S; ignored by the constant schedules and `inverse_sqrt`. */
  readonly totalSteps: number;
}

/** A run's settings from which a schedule is made. */
export interface ScheduleSettings {
  readonly learningRate: number;
  readonly lrSchedulerType: ScheduleName;
  readonly lrSchedulerKwargs: Readonly<Record<string, unknown>> | null;
  /** Steps; below 1, a fraction of all steps, rounded up. */
  readonly warmupSteps: number;
  /** A fraction of all steps, rounded up; used if `warmupSteps` is 0. */
  readonly warmupRatio: number;
}

/**
 * @param base the peak rate if not `learning_rate`, e.g. the critic's
 * @throws InputError if `lr_scheduler_kwargs` do not match the schedule
 */
export function scheduleOf(
  settings: ScheduleSettings,
  totalSteps: number,
  base = settings.learningRate,
): ScheduleConfig {
  const { warmupSteps, warmupRatio, lrSchedulerType, lrSchedulerKwargs } = settings;
  return {
    base,
    shape: scheduleShape(lrSchedulerType, lrSchedulerKwargs ?? {}, base),
    warmupSteps: warmupSteps >= 1 ? Math.floor(warmupSteps) : Math.ceil((warmupSteps || warmupRatio) * totalSteps),
    totalSteps,
  };
}

/** The rate of 0-based step s of S. */
export function learningRate({ shape, base, warmupSteps, totalSteps }: ScheduleConfig, step: number): number {
  if (shape.type === "constant") return base;
  const steps = { step, warmup: warmupSteps, total: totalSteps };
  if (shape.type === "warmup_stable_decay") return base * stableDecay(shape, steps);
  if (shape.type === "cosine_warmup_with_min_lr") return base * minRateWarmup(shape, base, steps);
  if (step < warmupSteps) return (base * step) / warmupSteps;
  // The remaining fraction of the decay, 0 from step S on. max(…, 1): a run that is all warm-up has no decay.
  const left = Math.min(Math.max((totalSteps - step) / Math.max(totalSteps - warmupSteps, 1), 0), 1);
  switch (shape.type) {
    case "constant_with_warmup":
      return base;
    case "linear":
      return base * left;
    case "cosine":
      return base * halfCosine(2 * shape.num_cycles * (1 - left));
    case "cosine_with_restarts":
      return left === 0 ? 0 : base * halfCosine((shape.num_cycles * (1 - left)) % 1);
    case "cosine_with_min_lr":
      return base * raised(halfCosine(2 * shape.num_cycles * (1 - left)), floorOf(shape, base));
    case "polynomial":
      return (base - shape.lr_end) * left ** shape.power + shape.lr_end;
    case "inverse_sqrt": {
      const timescale = shape.timescale ?? (warmupSteps || 10_000);
      return base / Math.sqrt((step - warmupSteps + timescale) / timescale);
    }
  }
}

interface Steps {
  readonly step: number;
  readonly warmup: number;
  readonly total: number;
}
type Shape<N extends ScheduleName> = Extract<ScheduleShape, { readonly type: N }>;

/** 1 at 0, 0 at 1. */
const halfCosine = (progress: number): number => 0.5 * (1 + Math.cos(Math.PI * progress));

/** Rescales a factor that falls from 1 to 0 so that it falls to `floor`. */
const raised = (factor: number, floor: number): number => factor * (1 - floor) + floor;

/** As a fraction of the base. */
const floorOf = (
  shape: { readonly min_lr?: number | undefined; readonly min_lr_rate?: number | undefined },
  base: number,
) => shape.min_lr_rate ?? (base === 0 ? 0 : shape.min_lr! / base);

/** Its warm-up starts above 0, and its decay one step early, so that the last step has exactly the floor. */
function minRateWarmup(
  shape: Shape<"cosine_warmup_with_min_lr">,
  base: number,
  { step, warmup, total }: Steps,
): number {
  const { warmup_lr_rate: start, num_cycles: cycles } = shape;
  if (step < warmup)
    return start === undefined ? (step + 1) / warmup : start + ((1 - start) * step) / Math.max(warmup - 1, 1);
  const progress = (step - warmup + 1) / Math.max(total - warmup, 1);
  return raised(halfCosine(2 * cycles * progress), floorOf(shape, base));
}

function stableDecay(shape: Shape<"warmup_stable_decay">, { step, warmup, total }: Steps): number {
  const { num_decay_steps: decay, min_lr_ratio: floor, num_cycles: cycles } = shape;
  const stable = shape.num_stable_steps ?? total - warmup - decay;
  if (step < warmup) {
    const progress = step / warmup;
    const rising = { linear: progress, cosine: 1 - halfCosine(progress), "1-sqrt": 1 - Math.sqrt(1 - progress) };
    return raised(rising[shape.warmup_type], floor);
  }
  if (step < warmup + stable) return 1;
  if (step >= warmup + stable + decay) return floor;
  const progress = (step - warmup - stable) / decay;
  const falling = {
    linear: 1 - progress,
    cosine: halfCosine(2 * cycles * progress),
    "1-sqrt": 1 - Math.sqrt(progress),
  };
  return raised(falling[shape.decay_type], floor);
}
