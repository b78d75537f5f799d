/** `--model` as a hub id, against a local hub server. */
import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { resolveModel } from "../../src/checkpoint/hub.ts";
import { InputError } from "../../src/errors.ts";
import { withHub } from "../fixtures/hub/environment.ts";

const { hub, root } = withHub();
const commit = hub
  .add("model", "org/tiny", {
    "config.json": '{"model_type":"llama"}',
    "model.safetensors": "weights",
    "tokenizer.json": "{}",
    "pytorch_model.bin": "pickle",
    "onnx/model.onnx": "onnx",
  })
  .refs.get("main")!;

const resolved = (model: string) => resolveModel(model, { note() {} });
const cache = () => join(process.env.HF_HOME!, "hub");
const requested = () => hub.log.map(({ method, path }) => `${method} ${path}`);

async function refusal(model: string): Promise<string> {
  const error = await resolved(model).catch((thrown) => thrown);
  expect(error).toBeInstanceOf(InputError);
  return (error as InputError).message;
}

test("a folder is used as it is", async () => {
  const folder = join(root, "org", "tiny");
  mkdirSync(folder, { recursive: true });
  expect(await resolved(folder)).toBe(folder);
});

test("a hub id is downloaded once, without unused files, and then works offline", async () => {
  const folder = await resolved("org/tiny");
  expect(folder).toBe(join(cache(), "models--org--tiny", "snapshots", commit));
  expect(readdirSync(folder).sort()).toEqual(["config.json", "model.safetensors", "tokenizer.json"]);
  expect(readFileSync(join(folder, "model.safetensors"), "utf8")).toBe("weights");
  hub.log.length = 0;
  expect(await resolved("org/tiny")).toBe(folder);
  expect(requested().filter((line) => line.includes("/resolve/"))).toEqual([]);

  hub.faults.status = 503;
  expect(await resolved("org/tiny")).toBe(folder);
  process.env.HF_HUB_OFFLINE = "1";
  hub.log.length = 0;
  expect(await resolved("org/tiny")).toBe(folder);
  expect(requested()).toEqual([]);
});

test("a model missing from the hub", async () => {
  expect(await refusal("org/absent")).toMatch(/^org\/absent: no such folder, and the hub has no such model/);
});

test("an unresponsive hub", async () => {
  hub.faults.status = 503;
  expect(await refusal("org/tiny")).toMatch(/the hub cannot be reached .*; go online, or download/);
  process.env.HF_ENDPOINT = "http://localhost:1";
  expect(await refusal("org/tiny")).toContain("the hub cannot be reached");
});

test("offline without a copy", async () => {
  process.env.HF_HUB_OFFLINE = "1";
  hub.log.length = 0;
  expect(await refusal("org/tiny")).toContain("HF_HUB_OFFLINE");
  expect(requested()).toEqual([]);
});

test.each(["/no/such/folder", "./folder", "name", "a/b/c", "../no-such-folder", ""])(
  "%p is not a hub id",
  async (model) => {
    hub.log.length = 0;
    expect(await refusal(model)).toContain("it is not a hub id");
    expect(requested()).toEqual([]);
    expect(existsSync(join(cache(), "models--a--b"))).toBe(false);
  },
);
