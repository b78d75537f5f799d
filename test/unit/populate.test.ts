/** New memory is made resident by huge pages, at once or beside other work, and keeps what that work writes. */
import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { type CpuDevice, openCpuDevice } from "../../src/device/cpu/device.ts";
import { anonymousBytes } from "../../src/session/memory.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const MiB = 2 ** 20;
let device: CpuDevice;
beforeAll(async () => {
  device = await openCpuDevice();
});

test("at once: all of it is resident, and zero", () => {
  const memory = device.allocate(65 * MiB + 128, "a test");
  expect(memory.address % (2 * MiB)).toBe(0);
  const before = anonymousBytes();
  device.populate(memory, 0, memory.byteLength, false);
  const after = anonymousBytes();
  if (before > 0) expect(after - before).toBeGreaterThan(48 * MiB); // the heap may give some back meanwhile
  expect(new Float64Array(bytesAt(memory.address, memory.byteLength)).every((x) => x === 0)).toBe(true);
  memory.free();
});

test("later: what is written meanwhile stays, and memory that is freed meanwhile ends it", () => {
  const memory = device.allocate(256 * MiB, "a test");
  const words = new Uint32Array(bytesAt(memory.address, memory.byteLength));
  device.populate(memory, 0, memory.byteLength, true);
  const at = (i: number) => (i * 4096 + 8) / 4;
  for (let i = 0; i < memory.byteLength / 4096; i++) words[at(i)] = i + 1;
  device.library.endPopulating();
  let wrong = 0;
  for (let i = 0; i < memory.byteLength / 4096; i++) if (words[at(i)] !== i + 1 || words[at(i) + 1] !== 0) wrong++;
  expect(wrong).toBe(0);
  device.populate(memory, 0, memory.byteLength, true);
  memory.free();
  device.library.endPopulating();
});
