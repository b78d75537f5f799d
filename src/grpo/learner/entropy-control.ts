/**
 * The controller of the entropy bonus (`use_adaptive_entropy`): the coefficient rises while the policy's entropy is at
 * or below its target and falls while it is above, and applies only after a step at or below the target (Skywork-OR1,
 * arXiv 2505.22312; the numbers are TRL 1.16's, see test/golden/make_entropy_control.py). Pure: the trainer keeps the
 * state in its checkpoints.
 */

export interface EntropySettings {
  readonly entropyCoef: number;
  readonly useAdaptiveEntropy: boolean;
  readonly entropyCoefMin: number;
  readonly entropyCoefMax: number;
  readonly entropyCoefDelta: number;
  /** Mean entropy per token in nats. */
  readonly entropyTarget: number;
}

/** The controller's state between two optimizer steps. */
export interface EntropyControl {
  readonly coef: number;
  /** Mean entropy at the last step, in nats; null before the first. */
  readonly lastEntropy: number | null;
}

export function startEntropyControl(settings: EntropySettings): EntropyControl {
  return { coef: settings.entropyCoef, lastEntropy: null };
}

/**
 * The coefficient for the next step's loss: 0 if the last step's entropy was above the target, and in the first step,
 * before any was measured.
 */
export function appliedEntropyCoef(control: EntropyControl, settings: EntropySettings): number {
  if (!settings.useAdaptiveEntropy) return settings.entropyCoef;
  const { coef, lastEntropy } = control;
  return lastEntropy !== null && lastEntropy <= settings.entropyTarget ? coef : 0;
}

/**
 * A step's metrics about its bonus, as in TRL: the coefficient after the step, which the next one may apply, and the
 * loss before the bonus. Empty without a bonus.
 */
export function entropyMetrics(
  update: Readonly<Record<string, number | null>>,
  after: EntropyControl,
  settings: EntropySettings,
): Record<string, number | null> {
  if (!settings.useAdaptiveEntropy && settings.entropyCoef === 0) return {};
  return { policy_loss: update.policy_loss ?? update.loss ?? null, entropy_coef: after.coef };
}

/**
 * The state after a step.
 *
 * @param meanEntropy of the whole optimizer step (`UpdateResult.meanEntropy`), in nats; null if no token counted, which
 *   changes nothing
 */
export function nextEntropyControl(
  control: EntropyControl,
  meanEntropy: number | null,
  settings: EntropySettings,
): EntropyControl {
  if (!settings.useAdaptiveEntropy || meanEntropy === null) return control;
  const { entropyCoefMin, entropyCoefMax, entropyCoefDelta, entropyTarget } = settings;
  const coef =
    meanEntropy <= entropyTarget
      ? Math.min(control.coef + entropyCoefDelta, entropyCoefMax)
      : Math.max(control.coef - entropyCoefDelta, entropyCoefMin);
  return { coef, lastEntropy: meanEntropy };
}
