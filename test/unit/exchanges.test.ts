/** `bench roofline --ranks`: its bytes are those that ranks exchange, counted where they send them. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { exchangedModels } from "../../bench/models.ts";
import { exchangeOf } from "../../bench/roofline/exchanges.ts";
import { exchangeTable } from "../../bench/roofline/report.ts";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import type { Weight } from "../../src/device/device.ts";
import { parseModelConfig } from "../../src/families/families.ts";
import { parameterBlocks } from "../../src/families/parameters.ts";
import { planOptimizer, trainedSizes } from "../../src/optim/adamw.ts";
import { alone, type Ranks } from "../../src/ranks/ranks.ts";
import { cutShards, ownedRanges, planGradientShards } from "../../src/session/gradient-shards.ts";
import { placeTensors, planMemory } from "../../src/tensor/plan.ts";
import { tensor } from "../../src/tensor/tensor.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const device = await openCpuDevice({ threads: 1 });
/** No size has padding on the CPU. */
const config = parseModelConfig(
  {
    ...{ model_type: "llama", architectures: ["LlamaForCausalLM"], vocab_size: 432, hidden_size: 128 },
    ...{ intermediate_size: 256, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 32 },
    ...{ max_position_embeddings: 512, rms_norm_eps: 1e-6, rope_theta: 10000, tie_word_embeddings: false },
    ...{ torch_dtype: "bfloat16", eos_token_id: 0 },
  },
  "a test",
);

/** Bytes that a rank sends, of gradients and of what is updated. */
async function sentBy(rank: number, size: number, shards: number, zero: boolean) {
  let sent = 0;
  const ranks: Ranks = {
    ...alone(),
    ...{ rank, size },
    gather: async (_, value) => Array.from({ length: size }, () => value),
    async exchange(send) {
      for (const bytes of send.flat()) sent += bytes.length;
    },
  };
  const division = { ranks, shards, zero };
  const plan = planMemory();
  const blocks = parameterBlocks(config, device.rowBlock);
  const sizes = trainedSizes(device, blocks, "bfloat16");
  const bind = planOptimizer(plan, device, blocks, "bfloat16", undefined, ownedRanges(division, sizes));
  const bindShards = planGradientShards(plan, device, division, sizes);
  const layout = plan.build();
  const arena = device.allocate(layout.totalBytes, "a test");
  const weights = sizes.map(({ name, elements }): Weight => {
    const { address } = device.allocate(2 * elements, name);
    return { name, address, dtype: "bfloat16", shape: [elements], elements };
  });
  const tensors = placeTensors(layout, arena.address);
  const own = bindShards(tensors, bind(tensors, weights))!;
  const completions = [{ completionIds: Int32Array.of(1) }];
  const cut = cutShards(
    Array.from({ length: shards }, () => ({ promptIds: Int32Array.of(1), completions })),
    shards,
  );
  await own.accumulate(cut, async () => {});
  await own.sum(cut);
  const summed = sent;
  if (zero) await own.share(new Map(weights.map((w) => [w.name, tensor(w.name, w.address, w.dtype, [w.elements])])));
  arena.free();
  return { summed, all: sent };
}

describe.each([
  [2, 8],
  [3, 8],
  [4, 4],
  [5, 16],
])("%d ranks, %d shards", (size, shards) => {
  test.each([true, false])("send what the table says, optimizer divided: %p", async (zero) => {
    const said = exchangeOf(config, { ranks: size, shards, zero, completionTokens: 0 });
    const all = await Promise.all(Array.from({ length: size }, (_, r) => sentBy(r, size, shards, zero)));
    if (zero) expect(Math.max(...all.map(({ summed }) => summed))).toBe(said.gradients);
    // The rank that sends most gradients may not be the one that sends most of the rest.
    const most = Math.max(...all.map((each) => each.all));
    expect(most).toBeLessThanOrEqual(said.gradients + said.updated);
    expect(most).toBeGreaterThan(0.8 * (said.gradients + said.updated));
  });
});

test("the table: divided, a rank sends a quarter less and keeps an N-th", () => {
  const lines = exchangeTable(exchangedModels, 8).join("\n");
  expect(lines).toStartWith("A model, not a measurement:");
  for (const { name } of exchangedModels) expect(lines).toContain(`\n${name} `);
  for (const { config: each } of exchangedModels) {
    const shape = { ranks: 8, shards: 8, completionTokens: 2 ** 20 };
    const [divided, whole] = [exchangeOf(each, { ...shape, zero: true }), exchangeOf(each, { ...shape, zero: false })];
    const bytes = ({ gradients, updated }: typeof divided) => gradients + updated;
    expect(bytes(divided) / bytes(whole)).toBeCloseTo(0.75, 2);
    expect(divided.optimizer / whole.optimizer).toBeCloseTo(1 / 8, 2);
  }
});
