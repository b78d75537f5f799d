/** Checks of a mixture of experts in bfloat16: see rounded-routes.ts. */
import { expect } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { expectedOf } from "./golden.ts";
import { logprobsApart, overBfloat16Line } from "./logprob-line.ts";
import { affected, only, type RoutedPass, roundingOf, routedPass } from "./rounded-routes.ts";

/**
 * bfloat16 on `device` is within its limit of float32 with the same experts, token by token; of transformers' float32 where
 * neither a token nor one that it attends to has other experts; and other experts are chosen only where rounding explains it.
 *
 * @param reference computes in float32
 * @returns the bfloat16 pass
 */
export async function expectOnlyRounding(device: Device, reference: Device, model: string): Promise<RoutedPass> {
  const { logprobs: published } = expectedOf(model);
  const rounded = await routedPass(device, model, "bfloat16");
  const free = await routedPass(reference, model, "float32");
  const exact = await routedPass(reference, model, "float32", rounded.routes);

  expect(overBfloat16Line(logprobsApart(rounded.logprobs, exact.logprobs))).toEqual([]);

  const same = affected(rounded, free).map((own) => own.map((is) => !is));
  const [found, repeated, wanted] = [rounded.logprobs, exact.logprobs, published].map((all) => only(all, same)) as [
    number[][],
    number[][],
    number[][],
  ];
  expect(overBfloat16Line(logprobsApart(found, wanted))).toEqual([]);
  // No other experts affect these tokens: float32 has the same logprobs with either's.
  expect(logprobsApart(repeated, wanted).worst).toBeLessThanOrEqual(2e-5);

  for (const { bound, moved, margin } of roundingOf(rounded, exact)) {
    expect(moved).toBeLessThanOrEqual(bound);
    expect(margin).toBeLessThanOrEqual(bound);
  }
  return rounded;
}
