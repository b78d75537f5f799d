/** A model folder with random weights, for what must start from files: any shape, with the bundled tokenizer or the folder's own. */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bundledModel } from "../src/api/bundled.ts";
import { copyModelAssets } from "../src/checkpoint/huggingface.ts";
import { writeWeights } from "../src/checkpoint/safetensors-write.ts";
import { parameterSpecs } from "../src/families/parameters.ts";
import { numberToBfloat16 } from "../src/tensor/dtype.ts";
import { elementCount } from "../src/tensor/tensor.ts";
import { modelNamed } from "./models.ts";
import { scattered } from "./ops/workspace.ts";

/** Numbers before they repeat: a prime, so that the rows of a matrix start differently. */
const PERIOD = 2 ** 20 - 3;

/**
 * Writes config.json, bfloat16 weights and a tokenizer.
 *
 * @param shape a name of models.ts, or a folder with a config.json
 * @returns the folder
 */
export async function writeRandomModel(folder: string, shape: string): Promise<string> {
  const { config } = modelNamed(shape);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config.raw, dtype: "bfloat16" }));
  copyModelAssets(existsSync(join(shape, "tokenizer.json")) ? shape : bundledModel(), folder);
  const at = scattered(1);
  const matrix = Uint16Array.from({ length: PERIOD }, (_, i) => numberToBfloat16(at(i) / 32));
  const [ones, bias] = [1, 1 / 16].map((value) => new Uint16Array(PERIOD).fill(numberToBfloat16(value)));
  await writeWeights(
    folder,
    parameterSpecs(config).map(({ name, shape }, i) => ({
      ...{ name, shape, dtype: "BF16" as const },
      *chunks() {
        const from = shape.length > 1 ? matrix : name.endsWith("bias") ? bias! : ones!;
        const count = elementCount(shape);
        for (let done = 0; done < count; ) {
          const piece = from.subarray(((i + 1) * 7919 + done) % PERIOD).subarray(0, count - done);
          yield new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
          done += piece.length;
        }
      },
    })),
  );
  return folder;
}
