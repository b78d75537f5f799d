/** Settings that may be a share of all steps, in steps. */

/** Every how many steps: a share is rounded up, as transformers does. */
export const stepsOf = (every: number, steps: number): number =>
  every > 0 && every < 1 ? Math.ceil(every * steps) : every;

/**
 * @param steps of the whole run, the ones before a resumed one included
 * @returns every how many steps there is a checkpoint (0: never), an evaluation (null: never), a line on the console
 */
export function everySteps(
  config: { readonly saveSteps: number; readonly evalSteps: number | null; readonly loggingSteps: number },
  steps: number,
): { readonly save: number; readonly eval: number | null; readonly logging: number } {
  return {
    save: stepsOf(config.saveSteps, steps),
    eval: config.evalSteps === null ? null : stepsOf(config.evalSteps, steps),
    logging: stepsOf(config.loggingSteps, steps),
  };
}
