/** Parameters side by side: which ones, and where they lie. */
import { describe, expect, test } from "bun:test";
import { parseModelConfig } from "../../src/families/families.ts";
import { parameterBlocks, parameterSpecs } from "../../src/families/parameters.ts";
import { bindBlock, planBlock } from "../../src/tensor/blocks.ts";
import { placeTensors, planMemory } from "../../src/tensor/plan.ts";

const config = (fields: Readonly<Record<string, unknown>>) =>
  parseModelConfig(
    {
      ...{ model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1 },
      ...{ num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16, eos_token_id: 1, ...fields },
    },
    "a test's model",
  );
const joined = (fields: Readonly<Record<string, unknown>>, rowBlock = 16) =>
  parameterBlocks(config(fields), rowBlock)
    .filter(({ parts }) => parts.length > 1)
    .map(({ name }) => name.replaceAll(/model\.layers\.0\.(self_attn|mlp)\./g, ""));

describe("parameters of products that share their input", () => {
  const weights = ["q_proj.weight + k_proj.weight + v_proj.weight", "gate_proj.weight + up_proj.weight"];

  test("lie side by side, and their biases", () => {
    expect(joined({})).toEqual(weights);
    const biases = ["q_proj.bias + k_proj.bias + v_proj.bias", "gate_proj.bias + up_proj.bias"];
    expect(joined({ attention_bias: true, mlp_bias: true }).sort()).toEqual([...weights, ...biases].sort());
  });

  test("stay apart if their rows do not fill whole blocks of the layout", () => {
    expect(joined({ intermediate_size: 40 })).toEqual(weights.slice(0, 1));
    expect(joined({ intermediate_size: 40 }, 8)).toEqual(weights);
    expect(joined({ head_dim: 24 })).toEqual(weights.slice(1));
  });

  test("every parameter is in one block", () => {
    const model = config({ attention_bias: true });
    const names = parameterBlocks(model, 16).flatMap(({ parts }) => parts.map(({ name }) => name));
    expect(names.sort()).toEqual(
      parameterSpecs(model)
        .map(({ name }) => name)
        .sort(),
    );
  });
});

test("a block is one buffer, and its parts follow each other in it", () => {
  const plan = planMemory();
  const block = {
    name: "a + b",
    parts: [
      { name: "a", elements: 5 },
      { name: "b", elements: 7 },
    ],
  };
  plan.add("weights", "before", "float32", [3]);
  planBlock(plan, ["weights", "policy", "bfloat16"], block);
  const tensors = placeTensors(plan.build(), 4096);
  const [whole, a, b] = ["a + b", "a", "b"].map((name) => bindBlock(tensors, "policy", block).get(name)!);
  expect([whole!.shape, a!.shape, b!.shape]).toEqual([[12], [5], [7]]);
  expect([a!.address - whole!.address, b!.address - whole!.address]).toEqual([0, 10]);
  expect(() => bindBlock(tensors, "critic", block)).toThrow("critic/a + b is not in the memory plan");
});
