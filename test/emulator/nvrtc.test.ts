// The emulated NVRTC without a real one: recordings by hash, and its message if there is none. In separate processes, since the
// library reads the environment only once.
import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildEmulator } from "./build.ts";
import { recordingHash } from "./recordings.ts";

setDefaultTimeout(180_000);

const { folder } = await buildEmulator();

const request = {
  source: 'extern "C" __global__ void nothing() {} // ü',
  headers: [
    { name: "b.cuh", source: "#define B 1\n" },
    { name: "a.cuh", source: "" },
  ],
  options: ["-arch=sm_80", "-DX_TYPE=float", "--std=c++17"],
};
const hash = recordingHash({ ...request, headers: request.headers.map(({ name, source }) => [name, source] as const) });

/** Compiles in a separate process, which prints the PTX or the error's message. */
function compile(env: Record<string, string>, options = request.options): string {
  const script = `
    import { openNvrtc } from ${JSON.stringify(join(import.meta.dir, "../../ffi/bindings/nvrtc.ts"))};
    try {
      const nvrtc = openNvrtc({ folder: ${JSON.stringify(folder)} });
      const { cubin, ptx } = nvrtc.compile(${JSON.stringify({ ...request, name: "nothing.cu", options })});
      console.log(ptx, cubin.length);
    } catch (error) { console.log(error.message); }`;
  const child = Bun.spawnSync([process.execPath, "-e", script], {
    env: { ...process.env, EMULATOR_NVRTC: "", ...env },
  });
  return child.stdout.toString().trim();
}

test("the hash is that of the definition", () => {
  const field = (text: string) => `${Buffer.byteLength(text)}:${text}`;
  const fields = [
    request.source,
    "b.cuh",
    "#define B 1\n",
    "a.cuh",
    "",
    "options",
    "--std=c++17",
    "-DX_TYPE=float",
    "-arch=sm_80",
  ];
  const whole = new Bun.CryptoHasher("sha256").update(fields.map(field).join("")).digest("hex");
  expect(hash).toBe(whole.slice(0, 32));
});

test("a recording answers whatever the options' order; without one the log says what is needed", () => {
  const recordings = mkdtempSync(join(tmpdir(), "recordings-"));
  try {
    const missing = join(recordings, "missing");
    const log = compile({ EMULATOR_RECORDINGS: recordings, EMULATOR_MISSING: missing });
    for (const part of ["nothing.cu", "-DX_TYPE=float", hash, "bun test/cuda/gates/fetch-nvrtc.ts"])
      expect(log).toContain(part);
    expect(readFileSync(missing, "utf8")).toContain("nothing.cu");
    writeFileSync(join(recordings, `${hash}.ptx`), "// recorded\n");
    const reversed = [...request.options].reverse();
    expect(compile({ EMULATOR_RECORDINGS: recordings }, reversed)).toBe("// recorded 13");
    const virtual = ["-arch=compute_80"];
    expect(compile({ EMULATOR_RECORDINGS: recordings }, virtual)).toContain("no recording");
  } finally {
    rmSync(recordings, { recursive: true, force: true });
  }
});

test("a command that fetches NVRTC is run once, and its failure is the same message", () => {
  const scratch = mkdtempSync(join(tmpdir(), "recordings-"));
  try {
    const ran = join(scratch, "ran");
    const env = { EMULATOR_RECORDINGS: scratch, EMULATOR_FETCH: `echo x >> ${ran}; exit 1` };
    const child = { ...env } as Record<string, string | undefined>;
    // Without EMULATOR_NVRTC the cache may hold a real one, and then nothing is fetched.
    const script = `
      import { openNvrtc } from ${JSON.stringify(join(import.meta.dir, "../../ffi/bindings/nvrtc.ts"))};
      const nvrtc = openNvrtc({ folder: ${JSON.stringify(folder)} });
      for (let i = 0; i < 2; i++)
        try { nvrtc.compile(${JSON.stringify({ ...request, name: "nothing.cu" })}); console.log("compiled"); }
        catch (error) { console.log(error.message.includes("fetch-nvrtc")); }`;
    const result = Bun.spawnSync([process.execPath, "-e", script], {
      env: { ...process.env, EMULATOR_NVRTC: undefined, ...child },
    });
    const said = result.stdout.toString().trim().split("\n");
    if (said[0] === "compiled") expect(existsSync(ran)).toBe(false);
    else expect([said, readFileSync(ran, "utf8")]).toEqual([["true", "true"], "x\n"]);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});
