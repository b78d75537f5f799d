/** New memory is made resident by huge pages, soon, and keeps what other work writes meanwhile. */
import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, openSync, readSync } from "node:fs";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { type CpuDevice, openCpuDevice } from "../../src/device/cpu/device.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const MiB = 2 ** 20;
const PAGE_BYTES = 4096;
let device: CpuDevice;
beforeAll(async () => {
  device = await openCpuDevice();
});

/** Bytes of a range that are in memory, by the kernel's table of 64 bits a page (bit 63: present). Page-aligned. */
function residentBytes(address: number, byteLength: number): number {
  const entries = new BigUint64Array(byteLength / PAGE_BYTES);
  const table = openSync("/proc/self/pagemap", "r");
  readSync(table, entries, 0, entries.byteLength, (address / PAGE_BYTES) * 8);
  closeSync(table);
  return entries.filter((entry) => entry >> 63n === 1n).length * PAGE_BYTES;
}

test("soon, all of it is resident, and zero", async () => {
  const memory = device.allocate(65 * MiB + 128, "a test");
  expect(memory.address % (2 * MiB)).toBe(0);
  device.populate(memory);
  const started = performance.now();
  while (residentBytes(memory.address, 65 * MiB) < 65 * MiB && performance.now() - started < 60_000)
    await Bun.sleep(20);
  expect(residentBytes(memory.address, 65 * MiB)).toBe(65 * MiB);
  expect(new Float64Array(bytesAt(memory.address, memory.byteLength)).every((x) => x === 0)).toBe(true);
  memory.free();
});

test("what is written meanwhile stays, and memory that is freed meanwhile ends it", async () => {
  const memory = device.allocate(256 * MiB, "a test");
  const words = new Uint32Array(bytesAt(memory.address, memory.byteLength));
  device.populate(memory);
  await Bun.sleep(490); // it begins about now
  const at = (i: number) => (i * 4096 + 8) / 4;
  for (let i = 0; i < memory.byteLength / 4096; i++) words[at(i)] = i + 1;
  await Bun.sleep(50);
  device.library.endPopulating();
  let wrong = 0;
  for (let i = 0; i < memory.byteLength / 4096; i++) if (words[at(i)] !== i + 1 || words[at(i) + 1] !== 0) wrong++;
  expect(wrong).toBe(0);
  device.populate(memory);
  memory.free();
  device.library.endPopulating();
});
