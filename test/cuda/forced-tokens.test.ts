/** Forced tokens on the emulated GPU: a recorded decode step takes them like sampled ones. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { openCudaDevice } from "../../src/device/cuda/device.ts";
import { expectSameWhenForced, samplings, withRollout } from "../e2e/forced-rollout.ts";
import { buildEmulator } from "../emulator/build.ts";
import { openControl } from "../emulator/control.ts";

// The emulator may have to be compiled first.
setDefaultTimeout(180_000);

test.each(samplings)("%s: forcing the tokens that would be sampled changes nothing after them", async (_, sampling) => {
  const { folder: libraryFolder } = await buildEmulator();
  const control = openControl(libraryFolder);
  // At most four, so that a step has at most one padding row: padding rows share the marks of one slot.
  await withRollout({ open: () => openCudaDevice({ libraryFolder }), maxSequences: 4, sampling }, expectSameWhenForced);
  expect(control.reports().map(({ text }) => text)).toEqual([]);
});
