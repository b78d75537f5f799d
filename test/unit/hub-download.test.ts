/** Downloads from the hub: what arrives, what breaks off, what is refused, and where it lies in the cache. */
import { expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { resolveModel } from "../../src/checkpoint/hub.ts";
import { InputError } from "../../src/errors.ts";
import { cacheRefusal } from "../../src/hub/cache.ts";
import { beginTransfer } from "../../src/hub/progress.ts";
import { isTrusted, patience } from "../../src/hub/request.ts";
import { withHub } from "../fixtures/hub/environment.ts";
import { commitTo, gitHash, sha256 } from "../fixtures/hub/repositories.ts";

const { hub, root } = withHub();

const weights = Buffer.alloc(300_000, "weights ");
const files = {
  "config.json": '{"model_type":"llama"}',
  "README.md": "about",
  "model.safetensors": weights,
  "tokenizer.json": "{}",
  "tokenizer_config.json": "{ }",
  "generation_config.json": "{  }",
  "additional_chat_templates/rag.jinja": "rag",
  "pytorch_model.bin": "pickle",
  "consolidated.safetensors": weights,
  "model-00001-of-00001.safetensors": weights,
  "model.safetensors.index.json": "{}",
  "onnx/model.onnx": "onnx",
};
const needed = [
  ...["additional_chat_templates/rag.jinja", "config.json", "generation_config.json"],
  ...["model.safetensors", "tokenizer.json", "tokenizer_config.json"],
];
const tiny = hub.add("model", "org/tiny", files);
const commit = tiny.refs.get("main")!;

const notes: string[] = [];
const quiet = { note: (text: string) => void notes.push(text), bar: null };
const resolved = (model: string, revision: string | null = null) => resolveModel(model, { ...quiet, revision });

async function refusal(model: string, revision: string | null = null): Promise<string> {
  const error = await resolved(model, revision).catch((thrown) => thrown);
  expect(error).toBeInstanceOf(InputError);
  return (error as InputError).message;
}

const cache = () => join(process.env.HF_HOME!, "hub");
const repo = () => join(cache(), "models--org--tiny");
const inFolder = (folder: string) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => !lstatSync(join(folder, name)).isDirectory())
    .sort();

test("the files that are needed, in the layout of huggingface_hub", async () => {
  const folder = await resolved("org/tiny");
  expect(folder).toBe(join(repo(), "snapshots", commit));
  expect(inFolder(folder)).toEqual(needed);
  expect(readFileSync(join(folder, "model.safetensors"))).toEqual(weights);
  expect(readlinkSync(join(folder, "model.safetensors"))).toBe(`../../blobs/${sha256(weights)}`);
  expect(readlinkSync(join(folder, "additional_chat_templates/rag.jinja"))).toBe(
    `../../../blobs/${gitHash(Buffer.from("rag"))}`,
  );
  expect(readFileSync(join(repo(), "refs/main"), "utf8")).toBe(commit);
  const tree = JSON.parse(readFileSync(join(repo(), "trees", `${commit}.json`), "utf8"));
  expect(tree.format_version).toBe(1);
  expect(Object.keys(tree.files).sort()).toEqual(Object.keys(files).sort());
  expect(tree.files["model.safetensors"]).toMatchObject({ size: weights.length, lfs_sha256: sha256(weights) });
  expect(readFileSync(join(cache(), "CACHEDIR.TAG"), "utf8")).toStartWith(
    "Signature: 8a477f597d28d172789f06886806bc55",
  );
  expect(existsSync(join(cache(), ".locks/models--org--tiny", `${sha256(weights)}.lock`))).toBe(true);
  expect(inFolder(join(repo(), "blobs")).filter((name) => name.includes("incomplete"))).toEqual([]);
});

test("a second time nothing is downloaded, and a new commit only what changed", async () => {
  await resolved("org/tiny");
  hub.log.length = 0;
  await resolved("org/tiny");
  expect(hub.log.map(({ path }) => path)).toEqual(["/api/models/org/tiny/revision/main"]);
  const newer = hub.add("model", "org/newer", files);
  await resolved("org/newer");
  commitTo(newer, "main", { "tokenizer.json": '{"a":1}' });
  hub.log.length = 0;
  const folder = await resolved("org/newer");
  expect(hub.downloads()).toEqual([`/org/newer/resolve/${newer.refs.get("main")}/tokenizer.json`]);
  expect(inFolder(folder)).toEqual(needed);
});

test("revisions: a branch, a tag, one with slashes, a commit", async () => {
  const repo = hub.add("model", "org/several", files);
  const first = repo.refs.get("main")!;
  const dev = commitTo(repo, "main", { "config.json": '{"model_type":"qwen2"}' });
  repo.refs.set("v1.0", first);
  repo.refs.set("refs/pr/7", first);
  expect(await resolved("org/several")).toEndWith(dev);
  for (const name of ["v1.0", "refs/pr/7", first]) expect(await resolved(`org/several@${name}`)).toEndWith(first);
  expect(await resolved("org/several", "v1.0")).toEndWith(first);
  expect(await resolved("org/several@v1.0", "v1.0")).toEndWith(first);
  hub.faults.status = 503;
  // A commit does not change: nobody is asked.
  hub.log.length = 0;
  expect(await resolved(`org/several@${first}`)).toEndWith(first);
  expect(hub.log).toEqual([]);
  expect(await refusal("org/several@v1.0", "main")).toContain("leave one of the revisions out");
  expect(await refusal(root, "main")).toContain("is a folder, which has no revisions");
});

test("a download goes on where it broke off: in the same run, and in the next", async () => {
  hub.faults.cut = { bytes: 100_000, times: 2 };
  await resolved("org/tiny");
  const ranges = () => hub.log.filter(({ at }) => at === "store").map(({ range }) => range);
  expect(ranges()).toEqual([null, "bytes=100000-", "bytes=200000-"]);

  rmSync(repo(), { recursive: true });
  hub.log.length = 0;
  hub.faults.cut = { bytes: 50_000, times: 1 };
  patience.waits = [];
  expect(await refusal("org/tiny")).toMatch(
    /org\/tiny: .*the download of model\.safetensors broke off after 50000 of 300000 bytes .*run the command again to continue/,
  );
  expect(existsSync(join(repo(), "refs/main"))).toBe(false);
  expect(readFileSync(join(repo(), "blobs", `${sha256(weights)}.incomplete`)).length).toBe(50_000);
  const folder = await resolved("org/tiny");
  expect(ranges()).toEqual([null, "bytes=50000-"]);
  expect(readFileSync(join(folder, "model.safetensors"))).toEqual(weights);
});

test("a server that cannot begin in the middle, an incomplete file that is too long or wrong", async () => {
  const incomplete = join(repo(), "blobs", `${sha256(weights)}.incomplete`);
  for (const [left, ignoresRange] of [
    [weights.subarray(0, 1000), true],
    [Buffer.alloc(400_000), false],
    [Buffer.alloc(1000), false],
    [Buffer.alloc(300_000), false],
  ] as const) {
    rmSync(repo(), { recursive: true, force: true });
    mkdirSync(join(repo(), "blobs"), { recursive: true });
    writeFileSync(incomplete, left);
    hub.faults.ignoresRange = ignoresRange;
    expect(readFileSync(join(await resolved("org/tiny"), "model.safetensors"))).toEqual(weights);
    expect(existsSync(incomplete)).toBe(false);
  }
});

test("what arrives is checked: once more, then it is refused and removed", async () => {
  hub.faults.flip = 1;
  expect(readFileSync(join(await resolved("org/tiny"), "model.safetensors"))).toEqual(weights);
  rmSync(repo(), { recursive: true });
  hub.faults.flip = 1000;
  expect(await refusal("org/tiny")).toMatch(/arrived twice with another (hash|SHA-256) than the hub lists/);
  expect(inFolder(join(repo(), "blobs"))).toEqual([]);
});

test("the token goes to the hub, never to the store of large files", async () => {
  const hidden = hub.add("model", "org/hidden", files, "private");
  hidden.allowed.add("writer");
  expect(await refusal("org/hidden")).toMatch(
    /no such folder, and the hub has no such model or does not show it to you/,
  );
  mkdirSync(process.env.HF_HOME!, { recursive: true });
  writeFileSync(join(process.env.HF_HOME!, "token"), "hf_writer00000000\n");
  hub.log.length = 0;
  await resolved("org/hidden");
  expect(hub.log.filter(({ at }) => at === "hub").every(({ token }) => token === "hf_writer00000000")).toBe(true);
  const stored = hub.log.filter(({ at }) => at === "store");
  expect(stored.map(({ token }) => token)).toEqual([null]);
  expect(["https://huggingface.co/x", `${hub.url}/x`].map(isTrusted)).toEqual([true, true]);
  expect(["http://huggingface.co/x", "https://huggingface.co.evil.org/", "http://localhost:1/"].map(isTrusted)).toEqual(
    [false, false, false],
  );
});

test("gated repositories, and tokens that are not accepted", async () => {
  const gated = hub.add("model", "org/gated", files, "gated");
  expect(await refusal("org/gated")).toBe(
    `org/gated: this repository is gated (401); accept its terms at ${hub.url}/org/gated, then set HF_TOKEN to a token of ` +
      "that account (or: hf auth login)",
  );
  process.env.HF_TOKEN = "hf_writer00000000";
  const message = await refusal("org/gated");
  expect(message).toMatch(/gated \(403\); accept its terms at .* with the account of your token/);
  expect(message).not.toContain("hf_writer");
  gated.allowed.add("writer");
  expect(inFolder(await resolved("org/gated"))).toEqual(needed);
  process.env.HF_TOKEN = "hf_expired00000000";
  expect(await refusal("org/gated")).toMatch(/does not accept your token \(401\); make one at .*\/settings\/tokens/);
});

test("a renamed repository is followed, and its new name told", async () => {
  hub.rename("model", "org/old", "org/tiny");
  notes.length = 0;
  expect(inFolder(await resolved("org/old"))).toEqual(needed);
  expect(notes).toContain(`note: org/old is now called org/tiny (${hub.url}/org/tiny)`);
});

test("missing repositories and revisions, and repositories without a model", async () => {
  expect(await refusal("org/absent")).toMatch(/^org\/absent: no such folder, and the hub has no such model/);
  expect(await refusal("org/tiny@nowhere")).toBe(
    'org/tiny: there is no revision "nowhere"; name a branch, tag or commit',
  );
  hub.add("model", "org/pickle", { "config.json": "{}", "pytorch_model.bin": "x" });
  expect(await refusal("org/pickle")).toMatch(/holds no safetensors weights \(it has pytorch_model\.bin\)/);
  hub.add("model", "org/empty", { "README.md": "x" });
  expect(await refusal("org/empty")).toContain("holds no config.json");
});

test("no network, a proxy's page, a server that is down: the cache, or one line", async () => {
  const cases: (() => void)[] = [
    () => {
      hub.faults.status = 503;
    },
    () => {
      hub.faults.page = true;
    },
    () => {
      process.env.HF_ENDPOINT = "http://127.0.0.1:1";
    },
    () => {
      process.env.HF_ENDPOINT = "http://no-such-host.invalid";
    },
  ];
  const lines = [/cannot be reached \(it answers 503\)/, /is not the hub/, /refuses the connection/, /no-such-host/];
  for (const [i, fail] of cases.entries()) {
    fail();
    expect(await refusal("org/tiny")).toMatch(lines[i]!);
    delete hub.faults.status;
    delete hub.faults.page;
    process.env.HF_ENDPOINT = hub.url;
    await resolved("org/tiny");
    notes.length = 0;
    fail();
    expect(await resolved("org/tiny")).toEndWith(commit);
    expect(notes.join()).toContain("the copy in the cache is used");
    delete hub.faults.status;
    delete hub.faults.page;
    process.env.HF_ENDPOINT = hub.url;
    rmSync(repo(), { recursive: true });
  }
  hub.faults.status = 407;
  expect(await refusal("org/tiny")).toContain("give it in HTTPS_PROXY");
});

test("offline: a complete copy or nothing, and nobody is asked", async () => {
  const folder = await resolved("org/tiny");
  process.env.HF_HUB_OFFLINE = "1";
  hub.log.length = 0;
  expect(await resolved("org/tiny")).toBe(folder);
  expect(await resolved(`org/tiny@${commit}`)).toBe(folder);
  expect(await refusal("org/tiny@dev")).toContain("HF_HUB_OFFLINE limits this run to the cache");
  rmSync(join(folder, "tokenizer.json"));
  expect(await refusal("org/tiny")).toContain("or not completely");
  expect(hub.log).toEqual([]);
});

test("a full disk and a cache that cannot be written", async () => {
  hub.faults.size = 1e16;
  expect(await refusal("org/tiny")).toMatch(
    /TiB are to be downloaded, and .* has room for .*; free some space, or set HF_HOME/,
  );
  const failed = (code: string) => Object.assign(new Error(code), { code, syscall: "write" });
  expect((cacheRefusal(failed("ENOSPC")) as Error).message).toMatch(/the disk is full \(ENOSPC\); free some space/);
  expect((cacheRefusal(failed("EROFS")) as Error).message).toContain("it is read-only (EROFS)");
  delete hub.faults.size;
  process.env.HF_HOME = join(root, "a-file");
  writeFileSync(process.env.HF_HOME, "");
  expect(await refusal("org/tiny")).toMatch(/the hub's cache .*a-file\/hub: it cannot be written/);
});

test("two processes at once: each file is downloaded by one of them", async () => {
  hub.faults.delay = 300;
  const script = join(root, "download.ts");
  writeFileSync(
    script,
    `import { resolveModel } from ${JSON.stringify(resolve(import.meta.dir, "../../src/checkpoint/hub.ts"))};
console.log(await resolveModel("org/tiny", { note() {} }));`,
  );
  const run = () => Bun.spawn([process.execPath, script], { env: { ...process.env }, stdout: "pipe", stderr: "pipe" });
  const children = [run(), run()];
  const folders = await Promise.all(children.map((child) => child.stdout.text()));
  const errors = await Promise.all(children.map((child) => child.stderr.text()));
  expect({ folders, errors }).toEqual({
    folders: [`${join(repo(), "snapshots", commit)}\n`, `${join(repo(), "snapshots", commit)}\n`],
    errors: ["", ""],
  });
  const paths = hub.downloads();
  expect(paths.length).toBe(new Set(paths).size);
  expect(readFileSync(realpathSync(join(folders[0]!.trim(), "model.safetensors")))).toEqual(weights);
});

test("names that would leave the cache are refused", async () => {
  hub.add("model", "org/evil", { ...files, "../../../evil.json": "x" });
  expect(await refusal("org/evil")).toContain("impossible name");
});

test("progress: lines without a terminal, a bar with one", () => {
  let now = 0;
  const lines: string[] = [];
  const piped = beginTransfer({ note: (text) => void lines.push(text), bar: null }, "org/tiny", 4096, 0, () => now);
  for (let i = 0; i < 4; i++) {
    now += 6000;
    piped.add(1024);
  }
  piped.end();
  expect(lines).toEqual(["org/tiny: 50 % of 4.0 KiB", "org/tiny: 100 % of 4.0 KiB"]);
  const drawn: string[] = [];
  now = 0;
  const bar = beginTransfer({ note() {}, bar: (text) => void drawn.push(text) }, "org/tiny", 4096, 0, () => now);
  now += 1000;
  bar.add(1024);
  bar.end();
  expect(drawn).toEqual([
    expect.stringMatching(/org\/tiny \[#+-+\] 1\.0 KiB of 4\.0 KiB, 1\.0 KiB\/s, 3 s left$/),
    "\r\x1b[2K",
  ]);
  expect(drawn[0]).toStartWith("\r\x1b[2K");
});
