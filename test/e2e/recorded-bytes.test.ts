/** The short runs of recorded-bytes.ts give their recorded bytes, on every recorded instruction path of this machine. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { bytesOf, pathsHere, recordedBytes, runs } from "./recorded-bytes.ts";
import { workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

/** Left to the script, as they take half a minute or more. */
const long = ["emulated", "bundled"];
const recorded = recordedBytes();

// Bits are only recorded on x86-64: on other processors the host library rounds transcendental functions differently.
describe.skipIf(process.arch !== "x64").each(pathsHere())("%s", (path) => {
  test.each(Object.keys(runs).filter((name) => !long.includes(name)))("%s", async (name) => {
    const bytes = bytesOf(await runs[name]!.run(work, path));
    expect(bytes).toEqual(recorded[path]![name]!);
  });
});
