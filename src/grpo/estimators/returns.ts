/** Discounted returns, and generalized advantages over a critic's values. */
import type { TokenValues } from "../loss/config.ts";

/** Rewards of a completion's tokens (T): `final` at the last one, minus a charge at each. */
export function tokenRewards(final: number, length: number, charges: TokenValues | null): Float64Array {
  const rewards = new Float64Array(length);
  for (let t = 0; t < length; t++) rewards[t] = charges ? -charges[t]! : 0;
  if (length > 0) rewards[length - 1]! += final;
  return rewards;
}

/** G_t = r_t + γ·G_{t+1}. (T) */
export function returnsToGo(rewards: Float64Array, gamma: number): Float64Array {
  const returns = new Float64Array(rewards.length);
  let rest = 0;
  for (let t = rewards.length - 1; t >= 0; t--) {
    rest = rewards[t]! + gamma * rest;
    returns[t] = rest;
  }
  return returns;
}

/**
 * Generalized advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16): δ_t = r_t + γ·V_{t+1} − V_t, A_t =
 * δ_t + γλ·A_{t+1}. The end is terminal whether the completion finished or was cut: V there is 0, as in TRL's PPO.
 *
 * @param rewards r_t (T)
 * @param values V_t, of the state before token t (T)
 */
export function generalizedAdvantages(
  rewards: Float64Array,
  values: TokenValues,
  gamma: number,
  lambda: number,
): Float64Array {
  const advantages = new Float64Array(rewards.length);
  let [rest, next] = [0, 0];
  for (let t = rewards.length - 1; t >= 0; t--) {
    const delta = rewards[t]! + gamma * next - values[t]!;
    rest = delta + gamma * lambda * rest;
    advantages[t] = rest;
    next = values[t]!;
  }
  return advantages;
}
