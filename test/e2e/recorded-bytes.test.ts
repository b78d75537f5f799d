/** The short runs of recorded-bytes.ts give their recorded bytes, on every recorded instruction path of this machine. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { bytesOf, pathsHere, recordedBytes, runs } from "./recorded-bytes.ts";
import { workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

/** Left to the script, as they take half a minute or more. */
const long = ["emulated", "bundled"];
const recorded = recordedBytes();

const short = Object.keys(runs).filter((name) => !long.includes(name));
const paths = pathsHere();

// Bits are only recorded on x86-64: on other processors the host library rounds transcendental functions differently.
test.skipIf(process.arch !== "x64").each(short)("%s", async (name) => {
  const run = async (path: string) => [path, bytesOf(await runs[name]!.run(work, path))];
  const bytes = Object.fromEntries(await Promise.all(paths.map(run)));
  expect(bytes).toEqual(Object.fromEntries(paths.map((path) => [path, recorded[path]![name]!])));
});
