/** Warnings from the metrics of a run's steps: what is in traps.ts, each told once when it begins. */
import { type Seen, traps, type Values, windowSteps } from "./traps.ts";

/** Steps in a row for which a trap must be over before it can be told again. */
export const rearmSteps = 20;

export interface StepWarnings {
  /**
   * @param record a step's metrics under TRL's names, `step` from 1
   * @param hasSpread rewards differ within some group
   */
  step(record: Values & { readonly step: number }, hasSpread: boolean): string[];
  /** An evaluation after the last step. */
  evaluated(values: Values): void;
}

/** @param usesGroups whether the advantage estimator compares completions of a group with each other */
export function createStepWarnings({ usesGroups = true }: { readonly usesGroups?: boolean } = {}): StepWarnings {
  const recent: Values[] = [];
  const beginning: Values[] = [];
  let step = 0;
  let evaluations: { readonly step: number; readonly accuracy: number }[] = [];
  /** Of each trap that has been told: for how many steps it has been over. */
  const over = new Map<string, number>();

  const numbers = (records: readonly Values[], name: string): number[] =>
    records
      .map((record) => record[name])
      .filter((value) => typeof value === "number" && !Number.isNaN(value)) as number[];

  return {
    step(record, hasSpread) {
      step = record.step;
      recent.push(record);
      if (recent.length > windowSteps) recent.shift();
      if (beginning.length < 5) beginning.push(record);
      // One before the window: what the window's evaluations are compared with.
      const within = evaluations.findIndex((evaluation) => evaluation.step > step - windowSteps);
      evaluations = evaluations.slice(within < 0 ? -1 : Math.max(0, within - 1));
      const seen: Seen = {
        ...{ record, flat: usesGroups && !hasSpread, accuracies: evaluations.map(({ accuracy }) => accuracy) },
        last: (name, count) => numbers(recent.slice(-count), name),
        first: (name) => numbers(beginning, name),
      };
      return traps.flatMap((trap) => {
        const steps = over.get(trap.name);
        if (steps !== undefined && steps < rearmSteps) {
          over.set(trap.name, trap.isOver(seen) ? steps + 1 : 0);
          return [];
        }
        if (!trap.holds(seen)) return [];
        over.set(trap.name, 0);
        return [`step ${step}: ${trap.text(seen)}`];
      });
    },
    evaluated({ eval_accuracy: accuracy }) {
      if (typeof accuracy === "number") evaluations.push({ step, accuracy });
    },
  };
}
