/**
 * The controller of the entropy bonus (`use_adaptive_entropy`): a coefficient that rises while the policy's entropy is at
 * or under its target and falls above it, and that acts only after a step at or under it (Skywork-OR1, arXiv 2505.22312;
 * the numbers are TRL 1.16's, held by test/golden/make_entropy_control.py). Pure: the state is a record that a trainer
 * keeps in its checkpoints.
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

/** Between two optimizer steps. */
export interface EntropyControl {
  readonly coef: number;
  /** Mean entropy at the last step, in nats; null before the first. */
  readonly lastEntropy: number | null;
}

export function startEntropyControl(settings: EntropySettings): EntropyControl {
  return { coef: settings.entropyCoef, lastEntropy: null };
}

/**
 * The coefficient that the next step's loss takes: 0 while the last step's entropy was above the target, and in the first
 * step, before any was measured.
 */
export function appliedEntropyCoef(control: EntropyControl, settings: EntropySettings): number {
  if (!settings.useAdaptiveEntropy) return settings.entropyCoef;
  const { coef, lastEntropy } = control;
  return lastEntropy !== null && lastEntropy <= settings.entropyTarget ? coef : 0;
}

/**
 * What a step reports of its bonus where it has one, as TRL does: the coefficient after the step, which the next one may
 * apply, and the loss before the bonus.
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
 * @param meanEntropy of the whole optimizer step (`UpdateResult.meanEntropy`), in nats; null where no token counted, which
 *   is no measurement and changes nothing
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
