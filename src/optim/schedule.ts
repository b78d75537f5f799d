/** The learning rate of a step: linear warm-up, then constant, linear or cosine decay to 0. */

export type LearningRateSchedule = "constant" | "linear" | "cosine";

export interface ScheduleConfig {
  readonly type: LearningRateSchedule;
  /** The rate at the end of warm-up. */
  readonly base: number;
  /** w */
  readonly warmupSteps: number;
  /** S; `constant` doesn't read it. */
  readonly totalSteps: number;
}

/**
 * The rate of 0-based step s of S: base · s/w during the w warm-up steps, then base times 1, (S − s)/(S − w), or
 * ½(1 + cos π(s − w)/(S − w)). From step S on a decaying schedule stays at 0.
 */
export function learningRate({ type, base, warmupSteps, totalSteps }: ScheduleConfig, step: number): number {
  if (step < warmupSteps) return (base * step) / warmupSteps;
  if (type === "constant") return base;
  // The part of the decay still to come; a run that is all warm-up has nothing to decay.
  const left = Math.min(Math.max((totalSteps - step) / Math.max(totalSteps - warmupSteps, 1), 0), 1);
  return type === "linear" ? base * left : base * 0.5 * (1 + Math.cos(Math.PI * (1 - left)));
}
