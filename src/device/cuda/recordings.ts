/**
 * Recorded sequences of launches, as CUDA graphs. The work is first run normally, which compiles its kernels, grows
 * scratch and lets cuBLAS choose algorithms; then the same calls are captured, without running, for later replays. If
 * scratch has moved since, they are captured again.
 */
import { CU_STREAM_CAPTURE_MODE_THREAD_LOCAL } from "../../../ffi/bindings/cuda.ts";
import { doPieces, type Pieces } from "../breathe.ts";
import type { Gpu } from "./gpu.ts";
import type { GpuMemory } from "./memory.ts";

export interface Recordings {
  record(key: string, work: () => Pieces): Promise<void>;
  replay(key: string): void;
  forget(prefix: string): void;
}

interface Recording {
  readonly work: () => Pieces;
  readonly graph: number; // instantiated
  /** memory.moves() at the time of capture. */
  readonly moves: number;
}

export function openRecordings(gpu: Gpu, memory: Pick<GpuMemory, "moves">): Recordings {
  const { calls, out } = gpu.driver;
  const recordings = new Map<string, Recording>();

  /**
   * Captures the calls of `work` as a graph. The event loop must not turn meanwhile, or other calls would be captured
   * too.
   */
  const capture = (work: () => Pieces): number => {
    gpu.call("cuStreamBeginCapture_v2", gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    gpu.capturing = true;
    let finished = false;
    try {
      for (const _ of work());
      finished = true;
    } finally {
      gpu.capturing = false;
      // Always end the capture, or the stream stays unusable; after a failure there may be no graph to destroy.
      const status = calls.cuStreamEndCapture(gpu.stream, out.address);
      const graph = status === 0 ? out.u64() : 0;
      if (!finished && graph !== 0) gpu.release("cuGraphDestroy", graph);
      if (finished) gpu.check("cuStreamEndCapture", status);
    }
    return out.u64();
  };

  const forget = (which: (key: string) => boolean): void => {
    const keys = [...recordings.keys()].filter(which);
    if (keys.length > 0 && !gpu.lost) gpu.synchronize(); // a replay may be running
    for (const key of keys) {
      gpu.release("cuGraphExecDestroy", recordings.get(key)!.graph);
      recordings.delete(key);
    }
  };

  const keep = (key: string, work: () => Pieces): Recording => {
    forget((known) => known === key);
    const moves = memory.moves();
    const graph = capture(work);
    try {
      gpu.call("cuGraphInstantiateWithFlags", out.address, graph, 0);
      const recording = { work, graph: out.u64(), moves };
      recordings.set(key, recording);
      return recording;
    } finally {
      gpu.release("cuGraphDestroy", graph);
    }
  };

  return {
    async record(key, work) {
      await doPieces(work());
      keep(key, work);
    },
    replay(key) {
      const found = recordings.get(key);
      if (found === undefined) throw new Error(`nothing recorded under ${key}`);
      const { graph } = found.moves === memory.moves() ? found : keep(key, found.work);
      gpu.call("cuGraphLaunch", graph, gpu.stream);
    },
    forget: (prefix) => forget((key) => key.startsWith(prefix)),
  };
}
