/** config.json against its weights: false counts are refused before they are used; unused tensors are reported. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { type TensorSource, writeSafetensors, writeWeights } from "../../src/checkpoint/safetensors-write.ts";
import { InputError } from "../../src/errors.ts";
import { type ModelHead, withScalarHead } from "../../src/families/config.ts";
import { checkWeights } from "../../src/model/weights.ts";
import { openModelFolder, parameterSource } from "../../src/session/planned-model.ts";
import { unusedRemark } from "../../src/session/unused-tensors.ts";

const golden = resolve(import.meta.dir, "../golden");
const root = mkdtempSync(join(tmpdir(), "model-counts-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

type Layout = "one file" | "shards";
type Edit = Readonly<Record<string, unknown>>;

/** A copy of a golden model with additional tensors and changed fields in config.json. */
async function model(options: {
  readonly name?: string;
  readonly edit?: Edit;
  readonly more?: readonly string[];
  readonly layout?: Layout;
}): Promise<string> {
  const from = join(golden, options.name ?? "llama-tied");
  const folder = mkdtempSync(join(root, "model-"));
  const json = JSON.parse(readFileSync(join(from, "config.json"), "utf8")) as Record<string, unknown>;
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...json, ...options.edit }));
  const file = openSafetensors(join(from, "model.safetensors"));
  const own = [...file.tensors.values()].map(
    ({ name, dtype, shape, address, byteLength }): TensorSource => ({
      ...{ name, dtype: dtype as "F32", shape },
      chunks: () => [new Uint8Array(bytesAt(address, byteLength))],
    }),
  );
  const more = (options.more ?? []).map(
    (name): TensorSource => ({ name, dtype: "F32", shape: [2], chunks: () => [new Uint8Array(8)] }),
  );
  await writeWeights(folder, [...own, ...more], options.layout === "shards" ? { maxShardBytes: 200_000 } : {});
  file.close();
  return folder;
}

function refusal(folder: string, wanted: ModelHead | "either" = "lm"): string {
  try {
    const { config, checkpoint } = openModelFolder(folder, wanted);
    try {
      checkWeights(config, parameterSource(checkpoint));
    } finally {
      checkpoint.close();
    }
  } catch (error) {
    if (error instanceof InputError) return error.message.replaceAll(folder, "");
    throw error;
  }
  return "none";
}

/** Numbers that determine a loop, an allocation or a table. */
const counts: Readonly<Record<string, RegExp>> = {
  num_hidden_layers: /^\/config\.json: num_hidden_layers: the checkpoint holds 2 layers, config\.json says N; weights/,
  vocab_size: /embed_tokens\.weight has shape \[320,64\], config\.json implies \[N,64\]/,
  hidden_size: /has shape \[320,64\], config\.json implies \[320,N\]/,
  intermediate_size: /gate_proj\.weight has shape \[\d+,64\], config\.json implies \[N,64\]/,
  num_attention_heads: /num_attention_heads|q_proj\.weight has shape/,
  num_key_value_heads: /^\/config\.json: num_key_value_heads: N does not divide num_attention_heads/,
  head_dim: /q_proj\.weight has shape \[\d+,64\], config\.json implies/,
};

describe("a count that contradicts the weights", () => {
  for (const [field, said] of Object.entries(counts))
    for (const layout of ["one file", "shards"] as const)
      test(`${field}, ${layout}`, async () => {
        for (const count of [1_000_000_000, 2 ** 31]) {
          const folder = await model({ edit: { [field]: count }, layout });
          expect(refusal(folder).replaceAll(String(count), "N")).toMatch(said);
        }
      });

  test("one layer too many, and no layer at all", async () => {
    expect(refusal(await model({ edit: { num_hidden_layers: 3 } }))).toMatch(/holds 2 layers, config\.json says 3/);
    const folder = await model({});
    const path = join(folder, "model.safetensors");
    await writeSafetensors(`${path}.new`, [{ name: "a", dtype: "F32", shape: [1], chunks: () => [new Uint8Array(4)] }]);
    renameSync(`${path}.new`, path);
    expect(refusal(folder)).toMatch(/holds 0 layers, config\.json says 2/);
  });

  test("a layer number too large for any file", async () => {
    const folder = await model({ edit: { num_hidden_layers: 999_999_999 }, more: ["model.layers.999999998.x.weight"] });
    expect(refusal(folder)).toMatch(/the checkpoint holds \d\d? layers, config\.json says 999999999/);
  });

  test("layer_types of another length", async () => {
    const folder = await model({ name: "qwen3-qknorm", edit: { layer_types: Array(3).fill("full_attention") } });
    expect(refusal(folder)).toMatch(
      /config\.json: layer_types: has 3 entries, num_hidden_layers is 2; take the values/,
    );
  });

  test("a reward model's", async () => {
    const edit = { architectures: ["LlamaForSequenceClassification"], num_labels: 1, num_hidden_layers: 1e9 };
    expect(refusal(await model({ edit, more: ["score.weight"] }), "score")).toMatch(/holds 2 layers.*says 1000000000/);
    expect(refusal(await model({ edit: { ...edit, num_labels: 1e9 } }), "score")).toMatch(
      /num_labels: 1000000000 is not/,
    );
  });
});

describe("tensors that the model does not use", () => {
  const remark = async (options: Parameters<typeof model>[0], scalar = false) => {
    const folder = await model(options);
    const { config, checkpoint } = openModelFolder(folder);
    const text = unusedRemark(scalar ? withScalarHead(config) : config, checkpoint);
    checkpoint.close();
    return text?.replace(folder, "F") ?? null;
  };
  const third = (name: string) => `model.layers.2.mlp.${name}_proj.weight`;

  test("are counted, the first named", async () => {
    for (const layout of ["one file", "shards"] as const) {
      expect(await remark({ more: [third("up")], layout })).toMatch(
        /^F: the weights hold 1 tensor that this model does not use \(model\.layers\.2\.mlp\.up_proj\.weight\); if that is not intended/,
      );
      const more = ["up", "gate", "down", "other"].map(third);
      expect(await remark({ more, layout })).toMatch(/hold 4 tensors that this model does not use \(([\w.]+, ){3}…\)/);
    }
    expect(await remark({ edit: { num_hidden_layers: 1 } })).toMatch(/hold 9 tensors .*\(model\.layers\.1\./);
    expect(await remark({ more: ["a\n\u001b[2J"] })).toMatch(/^F: .*\("a\\n\\u001b\[2J"\)/);
  });

  test("count where a shard holds them and the index does not list them", async () => {
    const folder = await model({ more: ["extra"], layout: "shards" });
    const path = join(folder, "model.safetensors.index.json");
    const index = JSON.parse(readFileSync(path, "utf8")) as { weight_map: Record<string, string> };
    delete index.weight_map.extra;
    writeFileSync(path, JSON.stringify(index));
    const { config, checkpoint } = openModelFolder(folder);
    expect(unusedRemark(config, checkpoint)).toMatch(/hold 1 tensor that this model does not use \(extra\)/);
    checkpoint.close();
  });

  test("are not mentioned if they are commonly ignored", async () => {
    expect(await remark({})).toBeNull();
    const buffers = ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"];
    expect(await remark({ more: [...buffers, "lm_head.weight"] })).toBeNull();
    expect(await remark({ name: "qwen3-qknorm", more: buffers })).toBeNull(); // its lm_head is used
    expect(await remark({ name: "qwen3-qknorm", more: buffers }, true)).toBeNull(); // and is replaced by a scalar one
    expect(await remark({ more: ["lm_head.bias"] })).toMatch(/\(lm_head\.bias\)/);
  });
});
