// Streams, events and copies: what is ordered, and what only appears to be. In lazy mode, work that nothing waits for has not
// run. See README.md.
import { beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { nativeBlock } from "../../ffi/bindings/native.ts";
import { buildEmulator } from "./build.ts";
import { CUDA, openCalls } from "./calls.ts";

setDefaultTimeout(180_000);

const { folder } = await buildEmulator();
const calls = openCalls(folder);
const { control, cu, out } = calls;
const kinds = () => control.reports().map(({ kind }) => kind);

const UNWRITTEN = 0xffffffff;
const BLOCKING = 0;

beforeEach(() => calls.restart());

test("eager streams run work in the call that queues it", () => {
  const address = calls.alloc(4);
  calls.launch(calls.kernel("put"), address, 7, calls.stream());
  expect(calls.peek(address)).toBe(7);
});

describe("lazy streams", () => {
  beforeEach(() => control.setStreams("lazy"));

  test("a wait runs only the stream it names", () => {
    const [a, b] = [calls.alloc(4), calls.alloc(4)];
    const [first, second] = [calls.stream(), calls.stream()];
    calls.launch(calls.kernel("put"), a, 1, first);
    calls.launch(calls.kernel("put"), b, 2, second);
    expect([calls.peek(a), calls.peek(b)]).toEqual([UNWRITTEN, UNWRITTEN]);
    expect(cu.cuStreamSynchronize(second)).toBe(0);
    expect([calls.peek(a), calls.peek(b)]).toEqual([UNWRITTEN, 2]);
    cu.cuCtxSynchronize();
    expect(calls.peek(a)).toBe(1);
  });

  test("an event orders two streams; without one they are unordered", () => {
    for (const ordered of [true, false]) {
      const [from, to] = [calls.alloc(4), calls.alloc(4)];
      const [first, second] = [calls.stream(), calls.stream()];
      const event = calls.event();
      calls.launch(calls.kernel("put"), from, 3, first);
      cu.cuEventRecord(event, first);
      calls.launch(calls.kernel("put"), from, 4, first); // after the event
      if (ordered) cu.cuStreamWaitEvent(second, event, 0);
      cu.cuMemcpyDtoDAsync_v2(to, from, 4, second);
      cu.cuStreamSynchronize(second);
      expect(calls.peek(to)).toBe(ordered ? 3 : UNWRITTEN);
    }
  });

  test("the legacy stream and blocking streams wait for each other, the others do not", () => {
    for (const flags of [BLOCKING, 1]) {
      const [a, b] = [calls.alloc(4), calls.alloc(4)];
      const stream = calls.stream(flags);
      calls.launch(calls.kernel("put"), a, 1, stream);
      cu.cuMemcpyDtoDAsync_v2(b, a, 4, 0);
      cu.cuStreamSynchronize(0);
      expect(calls.peek(b)).toBe(flags === BLOCKING ? 1 : UNWRITTEN);
    }
  });

  test("a query returns not ready once, after which its work has run", () => {
    const address = calls.alloc(4);
    const [stream, event] = [calls.stream(), calls.event()];
    expect(cu.cuEventQuery(event)).toBe(0); // never recorded
    calls.launch(calls.kernel("put"), address, 1, stream);
    cu.cuEventRecord(event, stream);
    expect(cu.cuEventQuery(event)).toBe(CUDA.NOT_READY);
    expect([cu.cuEventQuery(event), cu.cuStreamQuery(stream), calls.peek(address)]).toEqual([0, 0, 1]);
  });

  test("elapsed time needs two events that have passed", () => {
    const [start, end, stream] = [calls.event(), calls.event(), calls.stream()];
    expect(cu.cuEventElapsedTime(out.address, start, end)).toBe(CUDA.INVALID_HANDLE);
    cu.cuEventRecord(start, stream);
    cu.cuEventRecord(end, stream);
    expect(cu.cuEventElapsedTime(out.address, start, end)).toBe(CUDA.NOT_READY);
    cu.cuEventSynchronize(end);
    expect(cu.cuEventElapsedTime(out.address, start, end)).toBe(0);
    expect(out.view.getFloat32(0, true)).toBeGreaterThanOrEqual(0);
  });

  test("a pinned source is read late: a change before a wait is reported and copied", () => {
    const { address, words } = calls.pinned(4);
    const device = calls.alloc(4);
    const stream = calls.stream();
    words[0] = 1;
    cu.cuMemcpyHtoDAsync_v2(device, address, 4, stream);
    words[0] = 2;
    cu.cuStreamSynchronize(stream);
    expect([calls.peek(device), kinds()]).toEqual([2, ["early-reuse"]]);
  });

  test("a pageable source is staged: it may be changed at once", () => {
    const host = nativeBlock(4);
    const device = calls.alloc(4);
    const stream = calls.stream();
    host.view.setUint32(0, 1, true);
    cu.cuMemcpyHtoDAsync_v2(device, host.address, 4, stream);
    host.view.setUint32(0, 2, true);
    expect(calls.peek(device)).toBe(UNWRITTEN);
    cu.cuStreamSynchronize(stream);
    expect([calls.peek(device), kinds()]).toEqual([1, []]);
  });

  test("a pinned target holds poison until its copy is waited for; writing to it before that is reported", () => {
    const { address, words } = calls.pinned(8);
    const device = calls.alloc(8);
    const stream = calls.stream();
    calls.launch(calls.kernel("put"), device, 9, stream);
    words[0] = 5;
    cu.cuMemcpyDtoHAsync_v2(address, device, 8, stream);
    expect(words[0]).toBe(UNWRITTEN);
    words[1] = 5;
    cu.cuStreamSynchronize(stream);
    expect([words[0], kinds()]).toEqual([9, ["early-write"]]);
  });

  test("a copy into pageable memory waits", () => {
    const host = nativeBlock(4);
    const device = calls.alloc(4);
    const stream = calls.stream();
    calls.launch(calls.kernel("put"), device, 9, stream);
    cu.cuMemcpyDtoHAsync_v2(host.address, device, 4, stream);
    expect(host.view.getUint32(0, true)).toBe(9);
  });

  test("one buffer in, then out of the device on one stream is in order and gives no report", () => {
    const { address, words } = calls.pinned(4);
    const device = calls.alloc(4);
    const stream = calls.stream();
    words[0] = 1;
    cu.cuMemcpyHtoDAsync_v2(device, address, 4, stream);
    calls.launch(calls.kernel("add"), device, 10, stream);
    cu.cuMemcpyDtoHAsync_v2(address, device, 4, stream);
    cu.cuStreamSynchronize(stream);
    expect([words[0], kinds()]).toEqual([11, []]);
  });

  test("pinned memory freed under a queued copy is reported", () => {
    const { address } = calls.pinned(4);
    cu.cuMemcpyHtoDAsync_v2(calls.alloc(4), address, 4, calls.stream());
    expect(cu.cuMemFreeHost(address)).toBe(0);
    expect(kinds()).toEqual(["early-free"]);
  });

  test("work of a destroyed stream still runs", () => {
    const address = calls.alloc(4);
    const stream = calls.stream();
    calls.launch(calls.kernel("put"), address, 1, stream);
    expect(cu.cuStreamDestroy_v2(stream)).toBe(0);
    expect(cu.cuStreamSynchronize(stream)).toBe(CUDA.INVALID_HANDLE);
    cu.cuCtxSynchronize();
    expect(calls.peek(address)).toBe(1);
    expect(control.live().streams).toBe(0);
  });
});

test("destroyed handles are rejected", () => {
  const [stream, event] = [calls.stream(), calls.event()];
  cu.cuEventDestroy_v2(event);
  expect(cu.cuEventRecord(event, stream)).toBe(CUDA.INVALID_HANDLE);
  expect(cu.cuEventDestroy_v2(event)).toBe(CUDA.INVALID_HANDLE);
  cu.cuStreamDestroy_v2(stream);
  expect(calls.launch(calls.kernel("put"), calls.alloc(4), 1, stream)).toBe(CUDA.INVALID_HANDLE);
  expect(cu.cuStreamDestroy_v2(0)).toBe(CUDA.INVALID_HANDLE);
});
