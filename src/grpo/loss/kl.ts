/** The KL to the reference, token by token: three estimators of KL(π ‖ π_ref) from a sample of π. */
import type { KlEstimator } from "./config.ts";

/** exp's argument is clamped to ±20, so that no distance to the reference overflows. */
const LARGEST_EXPONENT = 20;

/**
 * Estimators k1, k2, k3 of Schulman, "Approximating KL divergence" (2020), with x = ℓ_ref − ℓ:
 * k1 = −x, k2 = x²/2, k3 = eˣ − x − 1.
 *
 * k3 beyond the clamp: above x = 20 it keeps its value there, with gradient 0; below −20 only eˣ (2e-9) is clamped, so
 * the value is −x − 1 + e⁻²⁰ and the gradient in ℓ is 1, which still pulls ℓ back to the reference.
 *
 * @returns the value, and its derivative in ℓ
 */
export const KL_ESTIMATORS: Record<KlEstimator, (logprob: number, refLogprob: number) => { kl: number; dkl: number }> =
  {
    k1: (logprob, refLogprob) => ({ kl: logprob - refLogprob, dkl: 1 }),
    k2: (logprob, refLogprob) => {
      const x = refLogprob - logprob;
      return { kl: (x * x) / 2, dkl: -x };
    },
    k3: (logprob, refLogprob) => {
      const x = Math.min(refLogprob - logprob, LARGEST_EXPONENT);
      const ratio = Math.exp(Math.max(x, -LARGEST_EXPONENT));
      const above = refLogprob - logprob >= LARGEST_EXPONENT;
      const below = x <= -LARGEST_EXPONENT;
      return { kl: ratio - x - 1, dkl: above ? 0 : below ? 1 : 1 - ratio };
    },
  };
