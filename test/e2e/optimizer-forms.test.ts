/**
 * Moments in 8 bits and masters in bfloat16: a run with them resumes to the bytes of one that never stopped, for any number
 * of threads; and a checkpoint of another form, or a damaged one, is refused.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { usualForm } from "../../src/optim/form.ts";
import { argvOf, type Flags, fingerprint, grpo, metricsOf, tinyTraining, train, untimed, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const forms: readonly [name: string, Flags][] = [
  ["eight", { optim: "adamw_8bit" }],
  ["eight-bfloat16", { optim: "adamw_8bit", dtype: "bfloat16" }],
  ["rounded", { master_dtype: "bfloat16", dtype: "bfloat16" }],
  ["eight-rounded", { optim: "adamw_8bit", master_dtype: "bfloat16", dtype: "bfloat16" }],
  [
    "eight-adapters",
    { optim: "adamw_8bit", use_peft: true, lora_target_modules: "all-linear", lora_r: 16, dtype: "bfloat16" },
  ],
];

function outcome(folder: string, flags: Flags) {
  const weights = flags.use_peft ? "adapter_model.safetensors" : "model.safetensors";
  return {
    weights: fingerprint(folder, weights),
    optimizer: fingerprint(folder, "checkpoint-4/optimizer.safetensors"),
    metrics: untimed(metricsOf(folder)),
  };
}

const flagsOf = (form: Flags): Flags => ({ ...form, max_steps: 4, save_steps: 2 });

beforeAll(async () => {
  for (const [name, form] of forms) await train(work.at(name), { ...flagsOf(form), threads: 2 });
});

test.each(forms)("%s resumes to the same bytes", async (name, form) => {
  const folder = work.at(`${name}-resumed`);
  cpSync(work.at(name), folder, { recursive: true });
  for (const made of ["checkpoint-4", "model.safetensors", "adapter_model.safetensors"])
    rmSync(join(folder, made), { recursive: true, force: true });
  const checkpoint = join(folder, "checkpoint-2");
  const flags = { ...flagsOf(form), threads: 1, resume_from_checkpoint: checkpoint };
  const { code } = await train(folder, flags);
  expect(code).toBe(0);
  expect(outcome(folder, form)).toEqual(outcome(work.at(name), form));
});

test("a run differs from the usual one, and learns about as much", async () => {
  const usual = work.at("usual");
  await train(usual, { ...flagsOf({ dtype: "bfloat16" }) });
  const lossOf = (folder: string) => metricsOf(folder).findLast(({ loss }) => loss !== undefined)!;
  for (const name of ["eight-bfloat16", "rounded", "eight-rounded"]) {
    expect(fingerprint(work.at(name), "model.safetensors")).not.toBe(fingerprint(usual, "model.safetensors"));
    expect(Math.abs(Number(lossOf(work.at(name)).entropy) / Number(lossOf(usual).entropy) - 1)).toBeLessThan(0.2);
  }
});

/** What a checkpoint holds of an optimizer's state. */
function tensorsOf(name: string) {
  const file = openSafetensors(work.at(`${name}/checkpoint-4/optimizer.safetensors`));
  try {
    return {
      metadata: file.metadata,
      of: (parameter: string) =>
        [...file.tensors.values()]
          .flatMap((t) =>
            t.name.endsWith(`.${parameter}`) ? [`${t.name.slice(0, -parameter.length - 1)} ${t.dtype}`] : [],
          )
          .sort(),
    };
  } finally {
    file.close();
  }
}

test("embeddings and small parameters keep float32 moments", () => {
  const eight = tensorsOf("eight");
  expect(eight.metadata).toMatchObject({ optim: "adamw_8bit" });
  expect(eight.of("model.layers.0.mlp.down_proj.weight")).toEqual([
    "exp_avg U8",
    "exp_avg.absmax F32",
    "exp_avg_sq U8",
    "exp_avg_sq.absmax F32",
  ]);
  for (const parameter of ["model.embed_tokens.weight", "model.norm.weight"])
    expect(eight.of(parameter)).toEqual(["exp_avg F32", "exp_avg_sq F32"]);
  expect(tensorsOf("rounded").of("model.norm.weight")).toEqual(["exp_avg F32", "exp_avg_sq F32"]);
  expect(usualForm).toMatchObject({ optim: "adamw_torch", masterDtype: "float32" });
});

/** The one line with which a resumed run ends. */
async function refusal(from: string, flags: Flags): Promise<string> {
  const argv = argvOf({ ...tinyTraining, ...flags, output_dir: work.at("refused"), overwrite: false });
  const { code, err: stderr } = await grpo(["train", ...argv, "--resume_from_checkpoint", from]);
  expect(code).toBe(2);
  const lines = stderr.split("\n").filter((line) => line.includes("optimizer.safetensors: "));
  expect(lines).toHaveLength(1);
  return lines[0]!;
}

test("a checkpoint of another optimizer is refused", async () => {
  const eight = join(work.at("eight"), "checkpoint-2");
  expect(await refusal(eight, { max_steps: 4 })).toContain(
    `${join(eight, "optimizer.safetensors")}: the checkpoint was written with optim adamw_8bit, now it is adamw_torch; resume with the setting that the run had`,
  );
  const rounded = join(work.at("rounded"), "checkpoint-2");
  expect(await refusal(rounded, { max_steps: 4, dtype: "bfloat16" })).toContain(
    "was written with master_dtype bfloat16, now it is float32",
  );
  expect(
    await refusal(rounded, { max_steps: 4, dtype: "bfloat16", master_dtype: "bfloat16", optim: "adamw_8bit" }),
  ).toContain("was written with optim adamw_torch, now it is adamw_8bit");
});

/** A copy of a checkpoint of `eight`, with some bytes of its optimizer's file replaced. */
function damaged(name: string, change: (bytes: Buffer, dataFrom: number) => void): string {
  const folder = work.at(name);
  cpSync(join(work.at("eight"), "checkpoint-2"), folder, { recursive: true });
  const path = join(folder, "optimizer.safetensors");
  const bytes = readFileSync(path);
  change(bytes, 8 + Number(bytes.readBigUInt64LE(0)));
  writeFileSync(path, bytes);
  return folder;
}

test("moments that lie in another order, or damaged scales, are refused", async () => {
  const moved = damaged("moved", (bytes) => {
    const at = bytes.indexOf('"layout":"panels"');
    expect(at).toBeGreaterThan(0);
    bytes.write('"layout":"rows"  ', at);
  });
  expect(await refusal(moved, { max_steps: 4, optim: "adamw_8bit" })).toContain('metadata field layout is "rows"');
  const name = "exp_avg.absmax.model.layers.0.mlp.down_proj.weight";
  const negative = damaged("negative", (bytes, data) => {
    const header = JSON.parse(bytes.toString("utf8", 8, data));
    bytes.writeFloatLE(-1, data + header[name].data_offsets[0]);
  });
  expect(await refusal(negative, { max_steps: 4, optim: "adamw_8bit" })).toContain(
    `tensor ${name} has numbers that are negative`,
  );
});

test("masters in bfloat16 need bfloat16 weights", async () => {
  const argv = argvOf({ ...tinyTraining, master_dtype: "bfloat16", dtype: "float32", output_dir: work.at("float32") });
  const { code, err: stderr } = await grpo(["train", ...argv]);
  expect(code).toBe(2);
  expect(stderr).toContain("master_dtype bfloat16: the weights are float32");
});

test("a CPU has no other memory for states", async () => {
  const argv = argvOf({ ...tinyTraining, offload_optimizer: true, device: "cpu", output_dir: work.at("offloaded") });
  const { code, err: stderr } = await grpo(["train", ...argv]);
  expect(code).toBe(2);
  expect(stderr).toContain("offload_optimizer: the device is a CPU");
});
