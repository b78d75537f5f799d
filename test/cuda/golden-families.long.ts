/**
 * Each model family on the emulated GPU against numbers of transformers, TRL and torch.optim.AdamW
 * (test/golden/make_families.py): logprobs in float32 and, within its limit, in bfloat16; losses, gradient norms and weights
 * after three steps.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { expectUpdated, familyModels, scoreFlags, scoresApart, updateFlags } from "../e2e/golden.ts";
import { overBfloat16Line } from "../e2e/logprob-line.ts";
import { workFolder } from "../e2e/runs.ts";
import { succeeds } from "./emulated.ts";

// The emulator may have to be compiled first, and kernels are compiled on demand.
setDefaultTimeout(600_000);

const work = workFolder();
afterAll(work.remove);
const output = (model: string, what: string) => work.at(`${model.replace("/", "-")}-${what}`);

describe.each(familyModels)("%s", (model) => {
  test("logprobs and entropies; in bfloat16 close to float32", async () => {
    const [exact, close] = [output(model, "float32.jsonl"), output(model, "bfloat16.jsonl")];
    await Promise.all([
      succeeds("score", scoreFlags(model, exact, { micro_batch_tokens: 64 })),
      succeeds("score", scoreFlags(model, close, { dtype: "bfloat16" })),
    ]);
    const apart = scoresApart(model, exact);
    expect(apart.logprob).toBeLessThanOrEqual(2e-5);
    expect(apart.entropy).toBeLessThanOrEqual(1e-4);
    const rounded = scoresApart(model, close);
    // Rounding may send a token to the other one of two experts that are about as probable.
    const rerouted = model.includes("moe") ? Math.ceil(rounded.tokens / 100) : 0;
    expect(overBfloat16Line({ ...rounded, beyond: Math.max(0, rounded.beyond - rerouted) })).toEqual([]);
  });

  test("losses, gradient norms, metrics, weights", async () => {
    await succeeds("update", updateFlags(model, "grpo", output(model, "update")));
    expectUpdated(model, "grpo", output(model, "update"));
  });
});
