/** The NaN guard: broken weights end a run with one line before anything is saved, and no broken weight is saved. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { score } from "../../src/cli/score.ts";
import { RunError } from "../../src/errors.ts";
import { argvOf, bundledModel, type Flags, problems, train, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

/** A copy of the bundled model. `change` is called with the file's bytes and where a tensor lies in them. */
function changedModel(name: string, tensor: string, change: (bytes: Buffer, begin: number, end: number) => void) {
  const folder = work.at(name);
  cpSync(bundledModel, folder, { recursive: true });
  const path = join(folder, "model.safetensors");
  const bytes = readFileSync(path);
  const data = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, data)) as Record<string, { data_offsets: [number, number] }>;
  const [begin, end] = header[tensor]!.data_offsets;
  change(bytes, data + begin, data + end);
  writeFileSync(path, bytes);
  return folder;
}

/** The bundled model with `value` in one element of a tensor. */
const brokenModel = (name: string, tensor: string, value: number): string =>
  changedModel(name, tensor, (bytes, begin) => bytes.writeFloatLE(value, begin + 4 * 100));

/** Checks that every number in every safetensors file below `folder` is finite; returns the number of files. */
function expectFinite(folder: string): number {
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((f) => f.endsWith(".safetensors"));
  for (const name of files) {
    const file = openSafetensors(join(folder, name));
    for (const { name: tensor, dtype, address, byteLength } of file.tensors.values()) {
      // All exponent bits set: infinite or NaN.
      const bits = bytesAt(address, byteLength).slice(0);
      const bad =
        dtype === "BF16"
          ? new Uint16Array(bits).some((x) => (x & 0x7f80) === 0x7f80)
          : new Uint32Array(bits).some((x) => (x & 0x7f800000) === 0x7f800000);
      expect(`${name} ${tensor} ${bad ? "is broken" : "is finite"}`).toBe(`${name} ${tensor} is finite`);
    }
    file.close();
  }
  return files.length;
}

describe("a model with a broken weight", () => {
  test("score reports it, and writes nothing", async () => {
    const model = brokenModel("scored", "model.layers.1.self_attn.q_proj.weight", Number.NaN);
    const [input, output] = [work.at("scored.jsonl"), work.at("scores.jsonl")];
    writeFileSync(input, `${JSON.stringify({ group: 7, prompt_ids: [1, 2], completion_ids: [3, 4] })}\n`);
    const failure = score.run(argvOf({ device: "cpu", model, input, output }));
    await expect(failure).rejects.toThrow(/group 7, completion 0, token 0 is NaN: .*check its weights/);
    await expect(failure).rejects.toBeInstanceOf(RunError);
    expect(existsSync(output)).toBe(false);
  });

  test.each([
    ["infinite", "model.layers.0.mlp.down_proj.weight", Number.POSITIVE_INFINITY],
    ["nan", "model.layers.1.self_attn.q_proj.weight", Number.NaN],
    ["huge", "model.layers.1.self_attn.v_proj.weight", 3e38],
  ])("%s: the run ends before anything is written", async (name, tensor, value) => {
    const model = brokenModel(name, tensor, value);
    for (const evaluated of [{}, { eval_dataset: problems, eval_samples: 4 }] as Flags[]) {
      const folder = work.at(`run ${name}`);
      const failure = train(folder, { model, save_steps: 1, ...evaluated });
      await expect(failure).rejects.toThrow(/not finite.*(weights are broken|check the checkpoint)/);
      await expect(failure).rejects.toBeInstanceOf(RunError);
      expect(readdirSync(folder).filter((entry) => entry !== "metrics.jsonl" && entry !== "run.json")).toEqual([]);
      expect(readFileSync(join(folder, "metrics.jsonl"), "utf8")).toBe("");
    }
  });
});

test("logits that only a repetition penalty makes infinite are reported as that", async () => {
  // of about 1e37, so that a tenth of the largest float32 is passed once they are divided by 0.01
  const model = changedModel("penalized", "model.norm.weight", (bytes, begin, end) => {
    for (let at = begin; at < end; at += 4) bytes.writeFloatLE(bytes.readFloatLE(at) * 3e36, at);
  });
  const failure = train(work.at("run penalized"), { model, repetition_penalty: 0.01 });
  await expect(failure).rejects.toThrow(
    /^repetition_penalty 0\.01 makes the model's logits infinite \(prompt \d, token \d+\)/,
  );
  await expect(failure).rejects.toBeInstanceOf(RunError);
});

describe("an absurd learning rate", () => {
  const rates = [1, 1e20, 1e38, 1e300];
  test.each(rates.flatMap((rate) => ["float32", "bfloat16"].map((dtype) => [rate, dtype] as const)))(
    "%p in %s: no broken weight is ever saved",
    async (learning_rate, dtype) => {
      // The last step is the dangerous one: no forward pass follows it.
      for (const max_steps of [1, 3]) {
        const folder = work.at(`rate ${learning_rate} ${dtype} ${max_steps}`);
        const flags: Flags = { learning_rate, dtype, max_steps, save_steps: 1, max_grad_norm: 0 };
        const failure = await train(folder, flags).then(
          () => null,
          (error: unknown) => error,
        );
        if (failure !== null) expect(failure).toBeInstanceOf(RunError);
        if (learning_rate > 1e38) expect(String(failure)).toMatch(/not finite/);
        const files = expectFinite(folder);
        if (failure === null) expect(files).toBeGreaterThan(2);
        else expect(existsSync(join(folder, "model.safetensors"))).toBe(false);
      }
    },
  );
});
