// Capture and replay: nodes keep their parameters, and forbidden calls end the capture with the driver's status. See README.md.
import { beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { nativeBlock } from "../../ffi/bindings/native.ts";
import { buildEmulator } from "./build.ts";
import { CUDA, openCalls } from "./calls.ts";

setDefaultTimeout(180_000);

const { folder } = await buildEmulator();
const calls = openCalls(folder);
const { control, cu, out, made } = calls;

const [GLOBAL, THREAD_LOCAL, RELAXED] = [0, 1, 2];
const begin = (stream: number, mode = GLOBAL) => cu.cuStreamBeginCapture_v2(stream, mode);
const end = (stream: number) => made(cu.cuStreamEndCapture(stream, out.address));
const instantiate = (graph: number) => made(cu.cuGraphInstantiateWithFlags(out.address, graph, 0));

beforeEach(() => calls.restart());

describe.each(["eager", "lazy"] as const)("%s", (streams) => {
  beforeEach(() => control.setStreams(streams));

  test("captured work does not run; replays do, with the parameters of the capture", () => {
    const address = calls.alloc(4);
    const stream = calls.stream();
    cu.cuMemsetD32Async(address, 0, 1, stream);
    cu.cuStreamSynchronize(stream);
    const add = calls.kernel("add");
    begin(stream);
    calls.launch(add, address, 3, stream);
    calls.launch(add, address, 4, stream);
    const graph = end(stream);
    expect(calls.peek(address)).toBe(0);
    cu.cuGraphGetNodes(graph, 0, out.address);
    expect(out.u64()).toBe(2);
    const executable = instantiate(graph);
    cu.cuGraphDestroy(graph);
    for (let i = 0; i < 3; i++) expect(cu.cuGraphLaunch(executable, stream)).toBe(0);
    cu.cuStreamSynchronize(stream);
    expect(calls.peek(address)).toBe(21);
    expect(control.launches()).toEqual({ add: 6 });
    cu.cuGraphExecDestroy(executable);
    expect(control.live()).toMatchObject({ graphs: 0, executables: 0 });
  });

  test("copies and fills are nodes; pinned memory is read and written at the replay", () => {
    const input = calls.pinned(4);
    const output = calls.pinned(4);
    const [x, y] = [calls.alloc(4), calls.alloc(4)];
    const stream = calls.stream();
    const add = calls.kernel("add");
    begin(stream);
    cu.cuMemcpyHtoDAsync_v2(x, input.address, 4, stream);
    cu.cuMemsetD32Async(y, 100, 1, stream);
    calls.launch(add, x, 1, stream);
    cu.cuMemcpyDtoHAsync_v2(output.address, x, 4, stream);
    const graph = end(stream);
    cu.cuGraphGetNodes(graph, 0, out.address);
    const count = out.u64();
    const nodes = nativeBlock(8 * count);
    cu.cuGraphGetNodes(graph, nodes.address, out.address);
    const types = Array.from({ length: count }, (_, i) => {
      cu.cuGraphNodeGetType(nodes.u64(8 * i), out.address);
      return out.i32();
    });
    expect(types).toEqual([1, 2, 0, 1]); // copy, fill, kernel, copy
    const executable = instantiate(graph);
    for (const value of [10, 20]) {
      input.words[0] = value;
      cu.cuGraphLaunch(executable, stream);
      cu.cuStreamSynchronize(stream);
      expect([output.words[0], calls.peek(y)]).toEqual([value + 1, 100]);
    }
    expect(control.reports()).toEqual([]);
  });

  test("a stream that forks off by an event is captured too and must be joined again", () => {
    const [a, b] = [calls.alloc(4), calls.alloc(4)];
    const [main, side] = [calls.stream(), calls.stream()];
    const [fork, join] = [calls.event(), calls.event()];
    const put = calls.kernel("put");
    for (const joined of [true, false]) {
      begin(main);
      cu.cuEventRecord(fork, main);
      cu.cuStreamWaitEvent(side, fork, 0);
      calls.launch(put, a, 1, side);
      cu.cuEventRecord(join, side);
      if (joined) cu.cuStreamWaitEvent(main, join, 0);
      cu.cuMemcpyDtoDAsync_v2(b, a, 4, main);
      const status = cu.cuStreamEndCapture(main, out.address);
      expect(status).toBe(joined ? 0 : CUDA.STREAM_CAPTURE_UNJOINED);
      if (!joined) break;
      cu.cuGraphLaunch(instantiate(out.u64()), main);
      cu.cuStreamSynchronize(main);
      expect(calls.peek(b)).toBe(1);
    }
  });
});

describe("calls that end a capture", () => {
  let address = 0;
  const cases: [name: string, call: (stream: number) => number, status: number, mode?: number][] = [
    ["waiting for the stream", (stream) => cu.cuStreamSynchronize(stream), CUDA.STREAM_CAPTURE_UNSUPPORTED],
    ["asking the stream", (stream) => cu.cuStreamQuery(stream), CUDA.STREAM_CAPTURE_UNSUPPORTED],
    ["waiting for the context", () => cu.cuCtxSynchronize(), CUDA.STREAM_CAPTURE_UNSUPPORTED],
    ["allocating", () => cu.cuMemAlloc_v2(out.address, 64), CUDA.STREAM_CAPTURE_UNSUPPORTED],
    ["allocating, by thread", () => cu.cuMemAlloc_v2(out.address, 64), CUDA.STREAM_CAPTURE_UNSUPPORTED, THREAD_LOCAL],
    [
      "an event recorded outside",
      (stream) => {
        const event = calls.event();
        cu.cuEventRecord(event, 0);
        return cu.cuStreamWaitEvent(stream, event, 0);
      },
      CUDA.STREAM_CAPTURE_ISOLATION,
    ],
    [
      "waiting for an event recorded inside",
      (stream) => {
        const event = calls.event();
        cu.cuEventRecord(event, stream);
        return cu.cuEventSynchronize(event);
      },
      CUDA.CAPTURED_EVENT,
    ],
    [
      "a copy from pageable memory",
      (stream) => cu.cuMemcpyHtoDAsync_v2(address, nativeBlock(64).address, 64, stream),
      CUDA.STREAM_CAPTURE_UNSUPPORTED,
      RELAXED,
    ],
  ];
  test.each(cases)("%s", (_, call, status, mode = GLOBAL) => {
    const stream = calls.stream();
    const put = calls.kernel("put");
    address = calls.alloc(64);
    expect(begin(stream, mode)).toBe(0);
    expect(call(stream)).toBe(status);
    expect(calls.launch(put, 0, 0, stream)).toBe(CUDA.STREAM_CAPTURE_INVALIDATED);
    cu.cuStreamIsCapturing(stream, out.address);
    expect(out.i32()).toBe(2);
    expect(cu.cuStreamEndCapture(stream, out.address)).toBe(CUDA.STREAM_CAPTURE_INVALIDATED);
    cu.cuStreamIsCapturing(stream, out.address);
    expect([out.i32(), cu.cuStreamSynchronize(stream)]).toEqual([0, 0]);
  });

  test("the legacy stream during the capture of a blocking one", () => {
    const stream = calls.stream(0);
    const address = calls.alloc(4);
    const put = calls.kernel("put");
    begin(stream, RELAXED);
    expect(calls.launch(put, address, 1, 0)).toBe(CUDA.STREAM_CAPTURE_IMPLICIT);
    expect(cu.cuStreamEndCapture(stream, out.address)).toBe(CUDA.STREAM_CAPTURE_INVALIDATED);
  });

  test("a relaxed capture allows what others forbid", () => {
    const stream = calls.stream();
    begin(stream, RELAXED);
    calls.alloc(64);
    end(stream);
  });

  test("rejected: a capture of the legacy stream, a nested one, ending none", () => {
    const stream = calls.stream();
    expect(begin(0)).toBe(CUDA.STREAM_CAPTURE_UNSUPPORTED);
    expect(cu.cuStreamEndCapture(stream, out.address)).toBe(CUDA.ILLEGAL_STATE);
    begin(stream);
    expect(begin(stream)).toBe(CUDA.ILLEGAL_STATE);
    end(stream);
  });
});
