/** Recordings match the current sources: without NVIDIA's compiler, a stale one would run unnoticed. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { readSignatures, signatureFault } from "./compiled.ts";
import { kernelDefinitions } from "./kernels.ts";
import { missingRecordings } from "./record.ts";
import { readIndex, recordingFaults, recordingFile } from "./recordings.ts";

test("every recording matches its current source, and belongs to something", () => {
  expect(recordingFaults()).toEqual([]);
});

test("every variant that models launch, and every planted bug, is recorded", async () => {
  expect(await missingRecordings(readIndex())).toEqual([]);
});

test("a changed source, a missing file and an extra one are noticed", () => {
  const [first, ...rest] = readIndex();
  const changed = recordingFaults([{ ...first!, hash: "0".repeat(32) }, ...rest]);
  expect(changed.some((fault) => fault.startsWith(first!.source) && fault.includes("has changed since"))).toBe(true);
  expect(changed.some((fault) => fault.includes("0.ptx.gz is missing"))).toBe(true);
  expect(changed.some((fault) => fault.includes(`${first!.hash}.ptx.gz: belongs to nothing`))).toBe(true);
  const gone = recordingFaults([...rest, { ...first!, source: "no-such-kernel.cu" }]);
  expect(gone).toEqual([expect.stringContaining("there is no such source")]);
});

test("parameters and block sizes of the recorded kernels match the launches", async () => {
  const recorded = new Map(readIndex().map(({ source, hash }) => [source, hash]));
  for (const definition of await kernelDefinitions()) {
    const ptx = gunzipSync(readFileSync(recordingFile(recorded.get(definition.file)!))).toString();
    const fault = signatureFault(definition, readSignatures(ptx).get(definition.name));
    expect({ kernel: definition.name, fault }).toEqual({ kernel: definition.name, fault: undefined });
  }
});
