/**
 * Recorded sequences of launches, as CUDA graphs. What is recorded is run once as it is, which compiles its kernels, lets
 * scratch grow and has cuBLAS choose; then the same calls are captured, without running, for later replays.
 */
import { CU_STREAM_CAPTURE_MODE_THREAD_LOCAL } from "../../../ffi/bindings/cuda.ts";
import { doPieces, type Pieces } from "../breathe.ts";
import type { Gpu } from "./gpu.ts";

export interface Recordings {
  record(key: string, work: () => Pieces): Promise<void>;
  replay(key: string): void;
  forget(prefix: string): void;
}

export function openRecordings(gpu: Gpu): Recordings {
  const { calls, out } = gpu.driver;
  const graphs = new Map<string, number>();

  /** The calls of `work` as a graph. The event loop does not turn meanwhile: another's call would fall into it. */
  const capture = (work: () => Pieces): number => {
    gpu.call("cuStreamBeginCapture_v2", gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    gpu.capturing = true;
    let finished = false;
    try {
      for (const _ of work());
      finished = true;
    } finally {
      gpu.capturing = false;
      // Ended in any case, or the stream stays unusable; after a failure there may be no graph to destroy.
      const status = calls.cuStreamEndCapture(gpu.stream, out.address);
      const graph = status === 0 ? out.u64() : 0;
      if (!finished && graph !== 0) gpu.release("cuGraphDestroy", graph);
      if (finished) gpu.check("cuStreamEndCapture", status);
    }
    return out.u64();
  };

  const forget = (which: (key: string) => boolean): void => {
    const keys = [...graphs.keys()].filter(which);
    if (keys.length > 0 && !gpu.lost) gpu.synchronize(); // a replay may be under way
    for (const key of keys) {
      gpu.release("cuGraphExecDestroy", graphs.get(key)!);
      graphs.delete(key);
    }
  };

  return {
    async record(key, work) {
      await doPieces(work());
      forget((known) => known === key);
      const graph = capture(work);
      try {
        gpu.call("cuGraphInstantiateWithFlags", out.address, graph, 0);
        graphs.set(key, out.u64());
      } finally {
        gpu.release("cuGraphDestroy", graph);
      }
    },
    replay(key) {
      const graph = graphs.get(key);
      if (graph === undefined) throw new Error(`nothing recorded under ${key}`);
      gpu.call("cuGraphLaunch", graph, gpu.stream);
    },
    forget: (prefix) => forget((key) => key.startsWith(prefix)),
  };
}
