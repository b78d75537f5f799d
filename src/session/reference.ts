/**
 * The reference model in a session: only weights, since it scores in the buffers of the policy's passes. A reference
 * that follows the policy is moved by ../grpo/learner/moving-reference.ts.
 */
import type { ModelFolder } from "../checkpoint/huggingface.ts";
import { InputError } from "../errors.ts";
import { differentSize, parameterSpecs } from "../families/parameters.ts";
import { type Model, withoutAdapters } from "../model/model.ts";
import { type PlannedModel, planModel } from "./planned-model.ts";
import type { SessionPlan, Tenant } from "./tenant.ts";

/** Policy and reference score the same tokens in the same buffers. */
function requireSameShape(policy: ModelFolder, reference: ModelFolder): void {
  const difference = differentSize(reference.config, policy.config);
  if (difference !== null)
    throw new InputError(
      `ref_model ${reference.folder}: ${difference.what} is ${difference.own}, the policy's is ${difference.other}; the reference must have the policy's architecture`,
    );
}

/** A moving reference is mixed with the policy parameter by parameter. */
function requireSameParameters(policy: ModelFolder, reference: ModelFolder): void {
  const names = ({ config }: ModelFolder) => parameterSpecs(config).map(({ name }) => name);
  const [own, others] = [new Set(names(policy)), new Set(names(reference))];
  const odd = [...own, ...others].find((name) => !own.has(name) || !others.has(name));
  if (odd !== undefined)
    throw new InputError(
      `ref_model ${reference.folder}: only one of reference and policy has ${odd}; sync_ref_model needs a reference with the policy's parameters`,
    );
}

/**
 * Opens a reference's folder, to be planned after the policy.
 *
 * @param moves it follows the policy
 * @throws InputError for a model whose shape differs from the policy's
 */
export function openReference(plan: SessionPlan, path: string, policy: ModelFolder, moves: boolean): ModelFolder {
  const folder = plan.folder(path);
  requireSameShape(policy, folder);
  if (moves) requireSameParameters(policy, folder);
  return folder;
}

/** The reference of a policy with adapters: the same model without them, on the same weights. */
export function referenceWithoutAdapters(policy: PlannedModel): Tenant<Model> {
  return { open: async (place) => withoutAdapters(await place.open(policy)) };
}

/** Plans a reference for the policy's tokens. */
export function planReference(plan: SessionPlan, from: ModelFolder, policy: PlannedModel): PlannedModel {
  const { dtype, positions, passes } = policy;
  return planModel(plan, from, { prefix: "reference", dtype, positions, twin: policy, companion: policy, passes });
}
