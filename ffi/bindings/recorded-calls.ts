/**
 * Kernel calls recorded as a list in native memory, which the library runs by itself (ffi/cpu/recording.cpp): neither
 * TypeScript nor FFI takes time between two kernels.
 */
import { argumentTypes, argumentWords, type Call, countedUnder, type Trace, writeArguments } from "./calls.ts";
import { nativeBlock } from "./native.ts";

export interface RecordedCalls {
  /** Where the list ends. */
  readonly end: number;
  /**
   * Runs calls from `at` (0 at first, else what the last `run` returned) for about `microseconds`.
   *
   * @returns where to continue
   */
  run(at: number, microseconds: number): number;
  /** The list cannot be run afterwards. */
  free(): void;
}

export interface CallRecorder<Name extends string> {
  /** The calls as given, except during `record`. */
  readonly calls: Readonly<Record<Name, Call>>;
  /** Records the calls that `work` makes, without making them. */
  record(work: () => void): RecordedCalls;
}

/**
 * @param signatures of all calls, in the library's order
 * @param runList the library's `calls_run`
 * @param trace replayed calls are counted there one by one; null: not at all
 */
export function openRecorder<Name extends string>(
  signatures: Readonly<Record<Name, string>>,
  calls: Readonly<Record<Name, Call>>,
  runList: Call,
  trace: Trace | null,
): CallRecorder<Name> {
  const names = Object.keys(signatures) as Name[];
  const types = names.map((name) => argumentTypes(signatures[name]));
  /** The index of each call in `names`, then its arguments; null: nothing is being recorded. */
  let recording: number[][] | null = null;

  const recordable = (name: Name, index: number): Call => {
    const call = calls[name];
    return (...args) => {
      if (!recording) return call(...args);
      recording.push([index, ...args]);
      return 0;
    };
  };

  const written = (list: readonly number[][]): RecordedCalls => {
    const end = list.reduce((sum, { length }) => sum + length, 0);
    const block = nativeBlock(8 * Math.max(end, 1));
    const words = argumentWords(block.view.buffer);
    let at = 0;
    for (const [index, ...args] of list) {
      words.ints[2 * at] = index!;
      writeArguments(words, at + 1, types[index!]!, args);
      at += 1 + args.length;
    }
    return {
      end,
      run(from, microseconds) {
        if (!trace) return runList(block.address, from, end, microseconds);
        const name = names[words.ints[2 * from]!]!;
        return countedUnder(trace, name, () => runList(block.address, from, end, 0));
      },
      free: () => block.free(),
    };
  };

  return {
    calls: Object.fromEntries(names.map((name, i) => [name, recordable(name, i)])) as Record<Name, Call>,
    record(work) {
      recording = [];
      try {
        work();
        return written(recording);
      } finally {
        recording = null;
      }
    },
  };
}
