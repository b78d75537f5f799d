/** Recordings on the CPU: lists of kernel calls that the library runs. Rollouts through them: test/e2e/forced-tokens.test.ts. */
import { afterAll, expect, test } from "bun:test";
import { openCpuDevice } from "../../src/device/cpu/device.ts";
import { tensor } from "../../src/tensor/tensor.ts";

const device = await openCpuDevice({ threads: 2, trace: true });
const memory = device.allocate(1 << 20, "test");
afterAll(() => memory.free());

const N = 70_000; // several blocks of work per call
const x = tensor("x", memory.address, "float32", [N]);
const y = tensor("y", memory.address + 4 * N, "float32", [N]);
const { ops } = device;
const calls = (kernel: string) => device.library.trace.get(kernel as "add")?.calls ?? 0;
const valuesOf = (t: typeof x) => [...new Set(device.download(t) as Float32Array)];

test("recording runs the work once; a replay runs it on what the buffers contain then", async () => {
  ops.fill(x, 2);
  ops.fill(y, 0);
  await device.record("growth", function* () {
    ops.add(y, x);
    yield;
    ops.scale(y, 1.5);
  });
  expect(valuesOf(y)).toEqual([3]);
  ops.fill(x, -1);
  await device.replay("growth");
  expect(valuesOf(y)).toEqual([3]); // (3 − 1) · 1.5
  expect([calls("add"), calls("scale"), calls("fill")]).toEqual([2, 2, 3]);
});

test("a recording made again replaces the first, and a failed one leaves nothing", async () => {
  await device.record("again", function* () {
    ops.fill(x, 1);
    yield;
  });
  await device.record("again", function* () {
    ops.fill(x, 8);
    yield;
  });
  ops.fill(x, 0);
  await device.replay("again");
  expect(valuesOf(x)).toEqual([8]);
  const bad = async () =>
    device.record("again", function* () {
      ops.fill(x, 5);
      yield;
      throw new Error("half way");
    });
  await expect(bad()).rejects.toThrow("half way");
  expect(valuesOf(x)).toEqual([8]); // nothing was run
  ops.fill(x, 4); // and calls run again
  expect(valuesOf(x)).toEqual([4]);
  await expect(device.replay("again")).rejects.toThrow("nothing recorded under again");
});

test("a recording without calls does nothing, and a forgotten one cannot be replayed", async () => {
  await device.record("one empty", function* () {});
  await device.replay("one empty");
  await device.record("two", function* () {
    ops.fill(x, 6);
    yield;
  });
  device.forget("one ");
  await expect(device.replay("one empty")).rejects.toThrow("nothing recorded under one empty");
  await device.replay("two");
  expect(valuesOf(x)).toEqual([6]);
});

test("the event loop turns while a long recording runs", async () => {
  let turns = 0;
  let running = true;
  const turn = (): void => {
    turns++;
    if (running) setImmediate(turn);
  };
  const untraced = await openCpuDevice({ threads: 2, trace: false });
  setImmediate(turn);
  const start = performance.now();
  await untraced.record("long", function* () {
    for (let i = 0; i < 20_000; i++) untraced.ops.add(y, x);
    yield;
  });
  running = false;
  expect(turns).toBeGreaterThan(Math.floor((performance.now() - start) / 250));
  untraced.forget("");
});
