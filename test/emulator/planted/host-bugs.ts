/** The planted bugs in driver calls: order, lifetime, limits. Each with its correct twin. */
import { type Extent, f32, i32, type Session } from "./session.ts";

export interface HostBug {
  readonly name: string;
  /** A kind of report, or the name of the status that a call must return. */
  readonly kind: string;
  /** Streams run lazily, so that a missing wait is noticed. */
  readonly lazy?: boolean;
  /** Throws, or returns the computed values. */
  readonly run: (session: Session, fixed: boolean) => ArrayBuffer | undefined;
  /** The correct twin's result. */
  readonly expected?: readonly number[];
  /** No report: the values are wrong. */
  readonly byValue?: boolean;
}

const N = 128;
const count = Array.from({ length: N }, (_, i) => i);
const floats = Float32Array.from(count);
const doubled = count.map((i) => 2 * i);
const scale = (s: Session) => s.kernel("scale.cu", "scale");

function launchScale(s: Session, grid: Extent, block: Extent, shared = 0): ArrayBuffer {
  const y = s.buffer(4 * N);
  s.launch(scale(s), grid, block, shared, [y, s.buffer(floats), i32(N), f32(2)]);
  return s.read(y, 4 * N);
}

export const hostBugs: readonly HostBug[] = [
  {
    // The pinned buffer is refilled for the second copy before the first has run.
    name: "early staging reuse",
    kind: "early-reuse",
    lazy: true,
    expected: [...count, ...count.map((i) => -i)],
    run(s, fixed) {
      const staging = s.pinned(4 * N);
      const view = new Float32Array(staging.bytes);
      const [x, stream, event] = [s.buffer(8 * N), s.stream(), s.event()];
      view.set(floats);
      s.call("cuMemcpyHtoDAsync_v2", x, staging.address, 4 * N, stream);
      s.call("cuEventRecord", event, stream);
      if (fixed) s.call("cuEventSynchronize", event);
      view.set(floats.map((v) => -v));
      s.call("cuMemcpyHtoDAsync_v2", x + 4 * N, staging.address, 4 * N, stream);
      s.synchronize(stream);
      return s.read(x, 8 * N);
    },
  },
  {
    // One stream reads what another has yet to copy.
    name: "missing event",
    kind: "uninitialized",
    lazy: true,
    expected: doubled,
    run(s, fixed) {
      const staging = s.pinned(4 * N);
      new Float32Array(staging.bytes).set(floats);
      const [x, y, kernel] = [s.buffer(4 * N), s.buffer(4 * N), scale(s)];
      const [copies, work, event] = [s.stream(), s.stream(), s.event()];
      s.call("cuMemcpyHtoDAsync_v2", x, staging.address, 4 * N, copies);
      s.call("cuEventRecord", event, copies);
      if (fixed) s.call("cuStreamWaitEvent", work, event, 0);
      s.launch(kernel, 1, N, 0, [y, x, i32(N), f32(2)], work);
      s.synchronize(work);
      return s.read(y, 4 * N);
    },
  },
  {
    // The event is recorded before the copy that it should mark.
    name: "event too early",
    kind: "uninitialized",
    lazy: true,
    expected: doubled,
    run(s, fixed) {
      const staging = s.pinned(4 * N);
      new Float32Array(staging.bytes).set(floats);
      const [x, y, kernel] = [s.buffer(4 * N), s.buffer(4 * N), scale(s)];
      const [copies, work, event] = [s.stream(), s.stream(), s.event()];
      if (!fixed) s.call("cuEventRecord", event, copies);
      s.call("cuMemcpyHtoDAsync_v2", x, staging.address, 4 * N, copies);
      if (fixed) s.call("cuEventRecord", event, copies);
      s.call("cuStreamWaitEvent", work, event, 0);
      s.launch(kernel, 1, N, 0, [y, x, i32(N), f32(2)], work);
      s.synchronize(work);
      return s.read(y, 4 * N);
    },
  },
  {
    // The host reads a result without waiting for it: poison.
    name: "read before the copy is made",
    kind: "value",
    byValue: true,
    lazy: true,
    expected: count,
    run(s, fixed) {
      const target = s.pinned(4 * N);
      const [x, stream] = [s.buffer(floats), s.stream()];
      s.call("cuMemcpyDtoHAsync_v2", target.address, x, 4 * N, stream);
      if (fixed) s.synchronize(stream);
      const seen = target.bytes.slice(0);
      s.synchronize(stream);
      return seen;
    },
  },
  {
    name: "wrong parameter size",
    kind: "CUDA_ERROR_INVALID_VALUE",
    expected: doubled,
    run(s, fixed) {
      // One packed block with an explicit size: n as 32 bits, then the factor; or n as 64 bits.
      const [y, x] = [s.buffer(4 * N), s.buffer(floats)];
      const { out } = s.driver;
      const [packed, size, extra] = [1024, 1088, 1096];
      out.setU64(packed, y);
      out.setU64(packed + 8, x);
      out.view.setInt32(packed + 16, N, true);
      out.view.setFloat32(packed + (fixed ? 20 : 24), 2, true);
      out.setU64(size, fixed ? 24 : 28);
      for (const [i, word] of [1, out.address + packed, 2, out.address + size, 0].entries())
        out.setU64(extra + 8 * i, word);
      const kernel = scale(s);
      out.setU64(packed, y);
      s.call("cuLaunchKernel", kernel, 1, 1, 1, N, 1, 1, 0, 0, 0, out.address + extra);
      return s.read(y, 4 * N);
    },
  },
  {
    name: "missing parameter",
    kind: "CUDA_ERROR_INVALID_VALUE",
    run(s, fixed) {
      const { out } = s.driver;
      const kernel = s.kernel("scale.cu", "reverse");
      const [y, x] = [s.buffer(4 * N), s.buffer(floats)];
      const [values, pointers] = [1024, 1088];
      out.setU64(values, y);
      out.setU64(values + 8, x);
      out.setU64(pointers, out.address + values);
      out.setU64(pointers + 8, fixed ? out.address + values + 8 : 0);
      s.call("cuLaunchKernel", kernel, 1, 1, 1, N, 1, 1, 4 * N, 0, out.address + pointers, 0);
      return s.read(y, 4 * N);
    },
    expected: count.map((i) => N - 1 - i),
  },
  {
    // 64 KiB of dynamic shared memory need the opt-in.
    name: "too much shared memory",
    kind: "CUDA_ERROR_INVALID_VALUE",
    expected: count.map((i) => N - 1 - i),
    run(s, fixed) {
      const kernel = s.kernel("scale.cu", "reverse");
      const [y, x, bytes] = [s.buffer(4 * N), s.buffer(floats), 64 * 1024];
      if (fixed) s.call("cuFuncSetAttribute", kernel, 8, bytes);
      s.launch(kernel, 1, N, bytes, [y, x]);
      return s.read(y, 4 * N);
    },
  },
  {
    // More than the 163 KiB that a block of sm_80 can ever have.
    name: "more shared memory than there is",
    kind: "CUDA_ERROR_INVALID_VALUE",
    expected: count.map((i) => N - 1 - i),
    run(s, fixed) {
      const kernel = s.kernel("scale.cu", "reverse");
      const [y, x, bytes] = [s.buffer(4 * N), s.buffer(floats), (fixed ? 163 : 164) * 1024];
      s.call("cuFuncSetAttribute", kernel, 8, bytes);
      s.launch(kernel, 1, N, bytes, [y, x]);
      return s.read(y, 4 * N);
    },
  },
  {
    name: "more threads than the launch bound",
    kind: "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    expected: doubled,
    run: (s, fixed) => launchScale(s, 1, fixed ? 128 : 256),
  },
  {
    name: "more threads than a block has",
    kind: "CUDA_ERROR_INVALID_VALUE",
    expected: doubled,
    run: (s, fixed) => launchScale(s, 1, fixed ? 128 : 2048),
  },
  {
    name: "grid too tall",
    kind: "CUDA_ERROR_INVALID_VALUE",
    expected: doubled,
    run: (s, fixed) => launchScale(s, [1, fixed ? 1 : 65536, 1], 128),
  },
  {
    name: "empty grid",
    kind: "CUDA_ERROR_INVALID_VALUE",
    expected: doubled,
    run: (s, fixed) => launchScale(s, fixed ? 1 : 0, 128),
  },
  {
    name: "copy past the end of a buffer",
    kind: "CUDA_ERROR_INVALID_VALUE",
    expected: count,
    run(s, fixed) {
      const x = s.buffer(4 * N);
      const staging = s.pinned(8 * N);
      new Float32Array(staging.bytes).set(floats);
      s.call("cuMemcpyHtoDAsync_v2", x, staging.address, fixed ? 4 * N : 4 * N + 4, 0);
      return s.read(x, 4 * N);
    },
  },
  {
    name: "freed twice",
    kind: "CUDA_ERROR_INVALID_VALUE",
    run(s, fixed) {
      const x = s.buffer(4 * N);
      s.free(x);
      if (!fixed) s.free(x);
      return undefined;
    },
  },
  {
    name: "stream destroyed, then used",
    kind: "CUDA_ERROR_INVALID_HANDLE",
    expected: doubled,
    run(s, fixed) {
      const [y, x, stream] = [s.buffer(4 * N), s.buffer(floats), s.stream()];
      if (!fixed) s.call("cuStreamDestroy_v2", stream);
      s.launch(scale(s), 1, N, 0, [y, x, i32(N), f32(2)], stream);
      s.synchronize(stream);
      return s.read(y, 4 * N);
    },
  },
];
