/** config.json: both spellings, defaults by model type, and what is refused by name. */
import { describe, expect, test } from "bun:test";
import { InputError } from "../../src/errors.ts";
import { type ModelConfig, withScalarHead } from "../../src/families/config.ts";
import { parseModelConfig } from "../../src/families/families.ts";
import { isExperts } from "../../src/families/layer.ts";

const llama = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 320,
  hidden_size: 64,
  intermediate_size: 176,
  num_hidden_layers: 2,
  num_attention_heads: 4,
};
const qwen2 = { ...llama, architectures: ["Qwen2ForCausalLM"], model_type: "qwen2", num_key_value_heads: 2 };
const qwen3 = { ...llama, architectures: ["Qwen3ForCausalLM"], model_type: "qwen3", num_key_value_heads: 1 };
const mistral = { ...llama, architectures: ["MistralForCausalLM"], model_type: "mistral", num_key_value_heads: 2 };
const gemma3 = { ...llama, architectures: ["Gemma3ForCausalLM"], model_type: "gemma3_text", num_hidden_layers: 6 };
const qwen3Moe = { ...llama, architectures: ["Qwen3MoeForCausalLM"], model_type: "qwen3_moe", num_key_value_heads: 2 };
const parse = (json: unknown) => parseModelConfig(json, "M/config.json");
/** With one layer instead of the function that creates it. */
const described = (config: ModelConfig) => ({ ...config, layer: config.layer(1) });
/** The first layer: its sizes, and which of the optional parameters it has. */
const layer = (json: unknown) => {
  const { attention, mlp } = parse(json).layer(0);
  return {
    ...attention.shape,
    attentionInputBias: attention.qkv.map(({ bias }) => bias !== null),
    attentionOutputBias: attention.o.bias !== null,
    mlpBias: isExperts(mlp) ? [] : [...mlp.gateUp, mlp.down].map(({ bias }) => bias !== null),
    qkNorm: attention.headNorms !== null,
  };
};
const three = (has: boolean) => [has, has, has];

function refusal(json: unknown): string {
  try {
    parse(json);
  } catch (error) {
    expect(error).toBeInstanceOf(InputError);
    const { message } = error as InputError;
    expect(message).not.toContain("\n");
    return message;
  }
  throw new Error("accepted");
}

describe("defaults for absent fields", () => {
  test("llama", () => {
    const matrix = (name: string, n: number, k: number) => ({
      ...{ name, shape: [n, k], decays: true, trainable: true },
    });
    const vector = (name: string, n: number) => ({ name, shape: [n], decays: false, trainable: true });
    const linear = (name: string, n: number, k: number) => ({
      weight: matrix(`model.layers.1.${name}.weight`, n, k),
      bias: null,
    });
    expect(described(parse(llama))).toEqual({
      family: "Llama",
      head: "lm",
      vocabSize: 320,
      hiddenSize: 64,
      numLayers: 2,
      rmsNormEps: 1e-6,
      embedding: matrix("model.embed_tokens.weight", 320, 64),
      layer: {
        inputNorm: vector("model.layers.1.input_layernorm.weight", 64),
        attention: {
          shape: { heads: 4, kvHeads: 4, headDim: 16, scale: 0.25 },
          rope: { theta: 10000, scaling: { type: "default" } },
          qkv: ["q", "k", "v"].map((name) => linear(`self_attn.${name}_proj`, 64, 64)),
          headNorms: null,
          o: linear("self_attn.o_proj", 64, 64),
        },
        attentionNorm: null,
        postNorm: vector("model.layers.1.post_attention_layernorm.weight", 64),
        mlp: {
          activation: "silu",
          intermediateSize: 176,
          gateUp: ["gate", "up"].map((name) => linear(`mlp.${name}_proj`, 176, 64)),
          down: linear("mlp.down_proj", 64, 176),
        },
        mlpNorm: null,
      },
      layerPath: "model.layers",
      finalNorm: vector("model.norm.weight", 64),
      lmHead: matrix("lm_head.weight", 320, 64),
      tieWordEmbeddings: false,
      maxPositionEmbeddings: 2048,
      dtype: "float32",
      eosTokenIds: [2],
      bosTokenId: 1,
      padTokenId: null,
      raw: llama,
    });
    expect(layer(llama)).toMatchObject({
      attentionInputBias: three(false),
      attentionOutputBias: false,
      mlpBias: three(false),
      qkNorm: false,
    });
  });

  test("qwen2 always has biases on q, k and v, never on o", () => {
    for (const json of [
      { ...qwen2, attention_bias: false },
      { ...qwen2, attention_bias: true },
    ])
      expect(layer(json)).toMatchObject({ attentionInputBias: three(true), attentionOutputBias: false, headDim: 16 });
    expect(parse({ ...qwen2, attention_bias: false })).toMatchObject({
      maxPositionEmbeddings: 32768,
      eosTokenIds: [],
      bosTokenId: null,
    });
  });

  test("qwen3 normalizes q and k, and its head size is not width ÷ heads", () => {
    expect(layer(qwen3)).toMatchObject({ qkNorm: true, headDim: 128, attentionInputBias: three(false) });
    expect(layer({ ...qwen3, head_dim: 24, attention_bias: true })).toMatchObject({
      headDim: 24,
      attentionInputBias: three(true),
      attentionOutputBias: true,
    });
  });

  test("llama's attention_bias covers all four projections, mlp_bias the three others", () => {
    expect(layer({ ...llama, attention_bias: true, mlp_bias: true })).toMatchObject({
      attentionInputBias: three(true),
      attentionOutputBias: true,
      mlpBias: three(true),
    });
  });
});

describe("layers that differ from Llama's", () => {
  const smollm3 = { ...llama, architectures: ["SmolLM3ForCausalLM"], model_type: "smollm3", num_hidden_layers: 6 };
  const rotating = (json: object) => {
    const { layer, numLayers } = parse({ ...smollm3, ...json });
    return Array.from({ length: numLayers }, (_, i) => layer(i).attention.rope.scaling.type !== "none");
  };

  test("smollm3: some layers have no rotary embedding; theta and tying by default", () => {
    expect(rotating({})).toEqual([true, true, true, false, true, true]);
    expect(rotating({ no_rope_layer_interval: 2 })).toEqual([true, false, true, false, true, false]);
    expect(rotating({ no_rope_layers: [0, 1, 1, 0, 0, 1], no_rope_layer_interval: 2 })).toEqual(
      [0, 1, 1, 0, 0, 1].map(Boolean),
    );
    expect(parse(smollm3)).toMatchObject({ tieWordEmbeddings: true });
    expect(parse(smollm3).layer(0).attention.rope.theta).toBe(2e6);
    expect(refusal({ ...smollm3, no_rope_layers: [1, 0] })).toContain("no_rope_layers: has 2 entries");
    expect(refusal({ ...smollm3, no_rope_layers: [2] })).toContain("no_rope_layers");
    expect(refusal({ ...smollm3, no_rope_layer_interval: 0 })).toContain("no_rope_layer_interval");
  });

  const windows = (json: unknown) => {
    const { layer, numLayers } = parse(json);
    return Array.from({ length: numLayers }, (_, i) => layer(i).attention.shape.window ?? null);
  };

  test("sliding windows: mistral's 4096 by default, phi3's none, qwen's from a layer on, smollm3's without rotation", () => {
    expect(windows({ ...mistral, sliding_window: 16 })).toEqual([16, 16]);
    expect(windows(mistral)).toEqual([4096, 4096]);
    expect(windows({ ...mistral, sliding_window: null })).toEqual([null, null]);
    expect(windows({ ...mistral, max_position_embeddings: 4096 })).toEqual([null, null]);
    const phi3 = { ...llama, architectures: ["Phi3ForCausalLM"], model_type: "phi3" };
    expect(windows(phi3)).toEqual([null, null]);
    expect(windows({ ...phi3, sliding_window: 2047 })).toEqual([2047, 2047]);
    expect(windows({ ...qwen2, sliding_window: 16 })).toEqual([null, null]);
    expect(windows({ ...qwen2, sliding_window: 16, use_sliding_window: true, max_window_layers: 1 })).toEqual([
      null,
      16,
    ]);
    const types = ["sliding_attention", "full_attention"];
    expect(windows({ ...qwen3, sliding_window: 16, use_sliding_window: true, layer_types: types })).toEqual([16, null]);
    const sliding = { sliding_window: 8, use_sliding_window: true, no_rope_layer_interval: 2 };
    expect(windows({ ...smollm3, ...sliding })).toEqual([null, 8, null, 8, null, 8]);
  });

  test("phi3: one product for q, k and v, one for gate and up", () => {
    const { attention, mlp } = parse({
      ...llama,
      ...{ architectures: ["Phi3ForCausalLM"], model_type: "phi3", num_key_value_heads: 2 },
    }).layer(1);
    expect(
      [...attention.qkv, ...(isExperts(mlp) ? [] : mlp.gateUp)].map(({ weight }) => [weight.name, weight.shape]),
    ).toEqual([
      ["model.layers.1.self_attn.qkv_proj.weight", [128, 64]],
      ["model.layers.1.mlp.gate_up_proj.weight", [352, 64]],
    ]);
  });

  test("gemma3: a window in five of six layers, two rotary embeddings in both spellings, norms of 1 + weight", () => {
    expect(windows(gemma3)).toEqual([4096, 4096, 4096, 4096, 4096, null]);
    expect(windows({ ...gemma3, sliding_window: 512, sliding_window_pattern: 2 })).toEqual([
      512,
      null,
      512,
      null,
      512,
      null,
    ]);
    const old = { rope_theta: 5e5, rope_local_base_freq: 2e4, rope_scaling: { rope_type: "linear", factor: 8 } };
    const now = {
      rope_parameters: {
        full_attention: { rope_type: "linear", factor: 8, rope_theta: 5e5 },
        sliding_attention: { rope_type: "default", rope_theta: 2e4 },
      },
    };
    for (const spelling of [old, now]) {
      const { layer } = parse({ ...gemma3, ...spelling });
      expect(layer(5).attention.rope).toEqual({ theta: 5e5, scaling: { type: "linear", factor: 8 } });
      expect(layer(0).attention.rope).toEqual({ theta: 2e4, scaling: { type: "default" } });
    }
    expect(parse(gemma3).layer(0).attention.rope.theta).toBe(1e4);
    expect(parse(gemma3).layer(5).attention.rope.theta).toBe(1e6);
    const { layer, finalNorm, tieWordEmbeddings, embeddingScale, logitCap } = parse(gemma3);
    expect({ tieWordEmbeddings, embeddingScale, logitCap }).toEqual({
      ...{ tieWordEmbeddings: true, embeddingScale: 8, logitCap: undefined },
    });
    const { inputNorm, attentionNorm, postNorm, mlpNorm, attention } = layer(0);
    for (const norm of [inputNorm, attentionNorm, postNorm, mlpNorm, finalNorm, attention.headNorms?.q])
      expect(norm?.offset).toBe(1);
    expect(postNorm?.name).toBe("model.layers.0.pre_feedforward_layernorm.weight");
    expect(attention.shape).toMatchObject({ headDim: 256, kvHeads: 4, scale: 1 / 16 });
    expect(parse({ ...gemma3, final_logit_softcapping: 30 }).logitCap).toBe(30);
  });

  test("qwen3_moe: experts where the file says so", () => {
    const kinds = (json: object) => {
      const { layer, numLayers } = parse({ ...qwen3Moe, num_hidden_layers: 4, ...json });
      return Array.from({ length: numLayers }, (_, i) => isExperts(layer(i).mlp));
    };
    expect(kinds({})).toEqual([true, true, true, true]);
    expect(kinds({ decoder_sparse_step: 2 })).toEqual([false, true, false, true]);
    expect(kinds({ mlp_only_layers: [0, 2] })).toEqual([false, true, false, true]);
    for (const field of ["num_experts", "num_local_experts"]) {
      const { mlp } = parse({ ...qwen3Moe, [field]: 6, num_experts_per_tok: 3, moe_intermediate_size: 24 }).layer(0);
      if (!isExperts(mlp)) throw new Error("no experts");
      expect(mlp).toMatchObject({ perToken: 3, normalized: false, intermediateSize: 24 });
      expect(mlp.gate.map(({ shape }) => shape)).toEqual(Array.from({ length: 6 }, () => [24, 64]));
      expect(mlp.down[5]?.name).toBe("model.layers.0.mlp.experts.5.down_proj.weight");
      expect(mlp.router).toMatchObject({ name: "model.layers.0.mlp.gate.weight", shape: [6, 64] });
    }
  });

  test("olmo2: norms after, and over all heads of q and k", () => {
    const olmo2 = { ...llama, architectures: ["Olmo2ForCausalLM"], model_type: "olmo2", num_key_value_heads: 2 };
    const { inputNorm, postNorm, attentionNorm, mlpNorm, attention } = parse(olmo2).layer(1);
    expect([inputNorm, postNorm]).toEqual([null, null]);
    expect([attentionNorm?.name, mlpNorm?.name]).toEqual([
      "model.layers.1.post_attention_layernorm.weight",
      "model.layers.1.post_feedforward_layernorm.weight",
    ]);
    expect(attention.headNorms).toMatchObject({ over: "all heads", q: { shape: [64] }, k: { shape: [32] } });
    expect(parse(olmo2).rmsNormEps).toBe(1e-5);
  });
});

describe("spellings", () => {
  test("transformers 4 and 5 are equivalent", () => {
    const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 512 };
    const old = parse({
      ...llama,
      rope_theta: 5e5,
      torch_dtype: "bfloat16",
      rope_scaling: { ...scaling, type: "llama3" },
    });
    const now = parse({
      ...llama,
      dtype: "bfloat16",
      rope_parameters: { ...scaling, rope_type: "llama3", rope_theta: 5e5 },
    });
    expect({ ...described(old), raw: null }).toEqual({ ...described(now), raw: null });
    expect(now.dtype).toBe("bfloat16");
    expect(now.layer(0).attention.rope).toEqual({
      theta: 5e5,
      scaling: {
        type: "llama3",
        factor: 8,
        lowFreqFactor: 1,
        highFreqFactor: 4,
        originalMaxPositionEmbeddings: 512,
      },
    });
  });

  test("rope_scaling null leaves rope_theta alone", () => {
    expect(parse({ ...llama, rope_theta: 1e6, rope_scaling: null }).layer(0).attention.rope).toEqual({
      theta: 1e6,
      scaling: { type: "default" },
    });
  });

  test("yarn takes its context from max_position_embeddings, and a null factor from the ratio", () => {
    const yarn = (parameters: object) =>
      parse({
        ...llama,
        max_position_embeddings: 4096,
        rope_parameters: { rope_type: "yarn", ...parameters },
      }).layer(0).attention.rope.scaling;
    expect(yarn({ factor: 4 })).toEqual({
      type: "yarn",
      factor: 4,
      betaFast: 32,
      betaSlow: 1,
      originalMaxPositionEmbeddings: 4096,
    });
    expect(yarn({ factor: null, original_max_position_embeddings: 1024 })).toMatchObject({ factor: 4 });
  });

  test("eos_token_id is one id, a list, or null; a padding id of −1 is none", () => {
    expect(parse({ ...llama, eos_token_id: 7 }).eosTokenIds).toEqual([7]);
    expect(parse({ ...llama, eos_token_id: [7, 9] }).eosTokenIds).toEqual([7, 9]);
    expect(parse({ ...llama, eos_token_id: null }).eosTokenIds).toEqual([]);
    expect(parse({ ...llama, pad_token_id: -1 }).padTokenId).toBeNull();
  });

  test("gelu_pytorch_tanh is gelu_tanh", () => {
    expect(parse({ ...llama, hidden_act: "gelu_pytorch_tanh" }).layer(0).mlp.activation).toBe("gelu_tanh");
  });
});

test.each([
  ["model_type", { ...llama, model_type: "mamba" }],
  ["model_type", { ...llama, model_type: "__proto__" }],
  ["model_type", { vocab_size: 3 }],
  ["architectures", { ...llama, architectures: ["LlamaForSequenceClassification"] }],
  ["architectures", { ...qwen2, architectures: ["Qwen3ForCausalLM"] }],
  ["use_sliding_window", { ...llama, use_sliding_window: true }],
  ["layer_types.1", { ...qwen2, layer_types: ["full_attention", "sliding_attention"] }],
  ["layer_types.0", { ...llama, layer_types: ["sliding_attention", "full_attention"] }],
  ["layer_types.1", { ...llama, layer_types: ["full_attention", "chunked_attention"] }],
  ["layer_types.0", { ...mistral, layer_types: ["full_attention", "sliding_attention"] }],
  ["sliding_window", { ...mistral, sliding_window: 0 }],
  ["num_experts", { ...qwen3, num_experts: 8 }],
  ["num_experts_per_tok", { ...qwen3Moe, num_experts: 4, num_experts_per_tok: 5 }],
  ["num_experts_per_tok", { ...qwen3Moe, num_experts_per_tok: 0 }],
  ["num_experts", { ...qwen3Moe, num_experts: -1 }],
  ["mlp_only_layers", { ...qwen3Moe, mlp_only_layers: [-1] }],
  ["decoder_sparse_step", { ...qwen3Moe, decoder_sparse_step: 0 }],
  ["attn_logit_softcapping", { ...gemma3, attn_logit_softcapping: 50 }],
  ["use_bidirectional_attention", { ...gemma3, use_bidirectional_attention: true }],
  ["final_logit_softcapping", { ...gemma3, final_logit_softcapping: -1 }],
  ["query_pre_attn_scalar", { ...gemma3, query_pre_attn_scalar: "256" }],
  ["sliding_window_pattern", { ...gemma3, sliding_window_pattern: 0 }],
  ["rope_parameters.sliding_attention", { ...gemma3, rope_parameters: { full_attention: { rope_theta: 1e6 } } }],
  ["hidden_activation", { ...gemma3, hidden_activation: "silu2" }],
  ["hidden_act", { ...llama, hidden_act: "gelu" }],
  ["hidden_act", { ...llama, hidden_act: "toString" }],
  ["num_key_value_heads", { ...llama, num_key_value_heads: 3 }],
  ["head_dim", { ...llama, head_dim: 15 }],
  ["hidden_size", { ...llama, hidden_size: 65 }],
  ["vocab_size", { ...llama, vocab_size: undefined }],
  ["vocab_size", { ...llama, vocab_size: -1 }],
  ["hidden_size", { ...llama, hidden_size: "64" }],
  ["num_hidden_layers", { ...llama, num_hidden_layers: 2.5 }],
  ["eos_token_id", { ...llama, eos_token_id: "</s>" }],
  ["dtype", { ...llama, dtype: "float8_e4m3fn" }],
  ["partial_rotary_factor", { ...llama, partial_rotary_factor: 0.5 }],
  ["rope_parameters.partial_rotary_factor", { ...llama, rope_parameters: { partial_rotary_factor: 0.25 } }],
  ["rope_scaling", { ...llama, rope_scaling: "yarn" }],
  ["rope_scaling", { ...llama, rope_scaling: { type: "dynamic", factor: 2 } }],
  ["rope_parameters", { ...llama, rope_parameters: { rope_type: "longrope" } }],
  ["rope_parameters.full_attention", { ...llama, rope_parameters: { full_attention: { rope_theta: 1 } } }],
  ["rope_parameters.factor", { ...llama, rope_parameters: { rope_type: "linear" } }],
  ["rope_parameters.factor", { ...llama, rope_parameters: { rope_type: "yarn" } }],
  ["rope_parameters.factor", { ...llama, rope_parameters: { rope_type: "linear", factor: -2 } }],
  ["rope_parameters.rope_theta", { ...llama, rope_parameters: { rope_theta: 0 } }],
  [
    "rope_parameters.high_freq_factor",
    { ...llama, rope_parameters: { rope_type: "llama3", factor: 8, low_freq_factor: 4, high_freq_factor: 4 } },
  ],
  ["not a JSON object", []],
  ["not a JSON object", null],
])("refused by name: %s", (field, json) => {
  const message = refusal(json);
  expect(message).toStartWith("M/config.json: ");
  expect(message).toContain(field);
});

describe("the head", () => {
  const scorer = {
    ...llama,
    architectures: ["LlamaForSequenceClassification"],
    id2label: { "0": "LABEL_0" },
    label2id: { LABEL_0: 0 },
  };
  const refused = (json: unknown, wanted: "lm" | "score" | "either") => {
    try {
      parseModelConfig(json, "M/config.json", wanted);
    } catch (error) {
      expect(error).toBeInstanceOf(InputError);
      return (error as InputError).message;
    }
    throw new Error("accepted");
  };

  test("sequence classification with one label is read on request", () => {
    for (const [family, json] of [
      ["Llama", llama],
      ["Qwen2", qwen2],
      ["Qwen3", qwen3],
    ] as const)
      for (const wanted of ["score", "either"] as const) {
        const config = { ...scorer, ...json, architectures: [`${family}ForSequenceClassification`] };
        expect(parseModelConfig(config, "M/config.json", wanted).head).toBe("score");
      }
    expect(parseModelConfig(llama, "M/config.json", "either").head).toBe("lm");
  });

  test("each is refused if the other is needed", () => {
    expect(refused(scorer, "lm")).toMatch(/M\/config\.json: architectures: .*give a causal language model/);
    expect(refused(llama, "score")).toMatch(/M\/config\.json: architectures: .*give a sequence classification model/);
    expect(refused({ ...scorer, architectures: ["Qwen3ForSequenceClassification"] }, "score")).toMatch(/not supported/);
    expect(refused({ ...scorer, architectures: ["LlamaForTokenClassification"] }, "either")).toMatch(/not supported/);
    expect(refused({ ...scorer, architectures: [] }, "either")).toMatch(/not supported/);
  });

  test("the labels are counted as transformers does: two if the file does not say", () => {
    const { id2label: _, label2id: __, ...silent } = scorer;
    expect(refused(silent, "score")).toMatch(/num_labels: 2 is not supported/);
    expect(refused({ ...scorer, id2label: { "0": "a", "1": "b", "2": "c" } }, "score")).toMatch(/num_labels: 3/);
    expect(parseModelConfig({ ...silent, num_labels: 1 }, "M/config.json", "score").head).toBe("score");
  });

  test("a language model's config becomes that of a critic", () => {
    const critic = withScalarHead(parse(qwen3));
    expect(critic.head).toBe("score");
    expect(critic.raw).toMatchObject({ architectures: ["Qwen3ForSequenceClassification"], vocab_size: 320 });
    expect(described(parseModelConfig(critic.raw, "M/config.json", "score"))).toEqual(described(critic));
    expect(withScalarHead(critic)).toBe(critic);
  });
});
