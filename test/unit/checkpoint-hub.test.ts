/** `--model` as a hub id, against a local hub server. */
import { afterAll, beforeEach, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveModel } from "../../src/checkpoint/hub.ts";
import { InputError } from "../../src/errors.ts";

const commit = "0123456789abcdef0123456789abcdef01234567";
const files: Record<string, string> = {
  "config.json": '{"model_type":"llama"}',
  "model.safetensors": "weights",
  "tokenizer.json": "{}",
  "pytorch_model.bin": "pickle",
  "onnx/model.onnx": "onnx",
};
const entry = (path: string) => {
  const content = files[path]!;
  const oid = createHash("sha1").update(content).digest("hex");
  return { type: "file", path, size: content.length, oid, lastCommit: { id: commit, title: "", date: "2024-01-01" } };
};

let isUp = true;
const requested: string[] = [];
const hub = Bun.serve({
  port: 0,
  async fetch(request) {
    const { pathname } = new URL(request.url);
    requested.push(`${request.method} ${pathname}`);
    if (!isUp) return new Response("down", { status: 503 });
    if (pathname === "/api/models/org/tiny/revision/main")
      return Response.json({ _id: "1", id: "org/tiny", sha: commit, lastModified: "2024-01-01T00:00:00Z" });
    if (pathname.startsWith("/api/models/org/tiny/tree/")) return Response.json(Object.keys(files).map(entry));
    if (pathname.startsWith("/api/models/org/tiny/paths-info/")) {
      const { paths } = (await request.json()) as { paths: string[] };
      return Response.json(paths.map(entry));
    }
    const content = files[pathname.replace(`/org/tiny/resolve/${commit}/`, "")];
    if (content === undefined) return Response.json({ error: "Repository not found" }, { status: 401 });
    const etag = createHash("sha1").update(content).digest("hex");
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
    const [start, end] = range === null ? [0, content.length - 1] : [Number(range[1]), Number(range[2])];
    const headers = {
      etag: `"${etag}"`,
      "content-range": `bytes ${start}-${Math.min(end, content.length - 1)}/${content.length}`,
    };
    return new Response(content.slice(start, end + 1), { status: range === null ? 200 : 206, headers });
  },
});

const root = mkdtempSync(join(tmpdir(), "hub-"));
const saved = { ...process.env };
afterAll(() => {
  hub.stop(true);
  for (const name of ["HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"]) {
    if (saved[name] === undefined) delete process.env[name];
    else process.env[name] = saved[name];
  }
  rmSync(root, { recursive: true, force: true });
});
beforeEach(() => {
  isUp = true;
  process.env.HF_HUB_CACHE = mkdtempSync(join(root, "cache-"));
  process.env.HF_ENDPOINT = `http://localhost:${hub.port}`;
  delete process.env.HF_HUB_OFFLINE;
});

async function refusal(model: string): Promise<string> {
  const error = await resolveModel(model).catch((thrown) => thrown);
  expect(error).toBeInstanceOf(InputError);
  return (error as InputError).message;
}

test("a folder is used as it is", async () => {
  const folder = join(root, "org", "tiny");
  mkdirSync(folder, { recursive: true });
  expect(await resolveModel(folder)).toBe(folder);
});

test("a hub id is downloaded once, without unused files, and then works offline", async () => {
  const folder = await resolveModel("org/tiny");
  expect(folder).toBe(join(process.env.HF_HUB_CACHE!, "models--org--tiny", "snapshots", commit));
  expect(readdirSync(folder).sort()).toEqual(["config.json", "model.safetensors", "tokenizer.json"]);
  expect(readFileSync(join(folder, "model.safetensors"), "utf8")).toBe("weights");
  requested.length = 0;
  expect(await resolveModel("org/tiny")).toBe(folder);
  expect(requested.filter((line) => line.includes("/resolve/"))).toEqual([]);

  isUp = false;
  expect(await resolveModel("org/tiny")).toBe(folder);
  process.env.HF_HUB_OFFLINE = "1";
  requested.length = 0;
  expect(await resolveModel("org/tiny")).toBe(folder);
  expect(requested).toEqual([]);
});

test("a model missing from the hub", async () => {
  expect(await refusal("org/absent")).toMatch(/^org\/absent: no such folder, and the hub has no such model/);
});

test("an unresponsive hub", async () => {
  isUp = false;
  expect(await refusal("org/tiny")).toMatch(/the hub cannot be reached .*; go online, or download/);
  process.env.HF_ENDPOINT = "http://localhost:1";
  expect(await refusal("org/tiny")).toContain("the hub cannot be reached");
});

test("offline without a copy", async () => {
  process.env.HF_HUB_OFFLINE = "1";
  requested.length = 0;
  expect(await refusal("org/tiny")).toContain("HF_HUB_OFFLINE");
  expect(requested).toEqual([]);
});

test.each(["/no/such/folder", "./folder", "name", "a/b/c", "../no-such-folder", ""])(
  "%p is not a hub id",
  async (model) => {
    requested.length = 0;
    expect(await refusal(model)).toContain("it is not a hub id");
    expect(requested).toEqual([]);
    expect(existsSync(join(process.env.HF_HUB_CACHE!, "models--a--b"))).toBe(false);
  },
);
