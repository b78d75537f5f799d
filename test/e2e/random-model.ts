/** Models of random weights in Hugging Face's format, any size and head, with the bundled model's tokenizer. */
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseModelConfig } from "../../src/config/model.ts";
import { parameterSpecs } from "../../src/model/parameters.ts";
import { bundledModel } from "./runs.ts";

export interface RandomModel {
  /** `score`: sequence classification with one label. */
  readonly head: "lm" | "score";
  /** Fields of config.json in place of the bundled model's. */
  readonly config?: Readonly<Record<string, unknown>>;
  readonly seed?: number;
}

/** Uniform in [−1, 1). */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
    const mixed = Math.imul(state ^ (state >>> 13), 0x297a2d39) >>> 0;
    return mixed / 2 ** 31 - 1;
  };
}

/** Writes the model into `folder` and returns it. Weights are float32. */
export function writeRandomModel(folder: string, { head, config = {}, seed = 1 }: RandomModel): string {
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(bundledModel))
    if (/token|chat|special/.test(name)) cpSync(join(bundledModel, name), join(folder, name));
  const bundled = JSON.parse(readFileSync(join(bundledModel, "config.json"), "utf8"));
  const kind = head === "score" ? "ForSequenceClassification" : "ForCausalLM";
  const family = String(bundled.architectures[0]).replace(/For.*/, "");
  const json = { ...bundled, ...config, architectures: [family + kind], dtype: "float32" };
  delete json.torch_dtype;
  if (head === "score") Object.assign(json, { id2label: { 0: "LABEL_0" }, label2id: { LABEL_0: 0 }, num_labels: 1 });
  const path = join(folder, "config.json");
  writeFileSync(path, JSON.stringify(json));
  const random = generator(seed);
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const { name, shape } of parameterSpecs(parseModelConfig(json, path, head))) {
    const size = shape.reduce((a, b) => a * b, 1);
    const isNorm = shape.length === 1 && /norm/.test(name);
    const range = Math.sqrt(3 / (shape[1] ?? 1));
    const values = Float32Array.from({ length: size }, () => (isNorm ? 1 : range * random()));
    header[name] = { dtype: "F32", shape, data_offsets: [offset, offset + 4 * size] };
    parts.push(new Uint8Array(values.buffer));
    offset += 4 * size;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padded = new Uint8Array(Math.ceil(text.length / 8) * 8).fill(0x20);
  padded.set(text);
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(padded.length), true);
  writeFileSync(join(folder, "model.safetensors"), Buffer.concat([length, padded, ...parts]));
  return folder;
}
