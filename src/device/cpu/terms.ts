/**
 * Tables of adapters' terms in native memory, as the kernels read them (AdapterTerm in ffi/cpu/ops.h). They stay, since
 * recorded calls name them by address; a model has a few for each layer and kind of pass.
 */
import { type NativeBlock, nativeBlock } from "../../../ffi/bindings/native.ts";
import type { AdapterTerm } from "../device.ts";

const TERM_BYTES = 48;
const BLOCK_BYTES = 64 * 1024;

export function openTermTables(): { of(terms: readonly AdapterTerm[]): number } {
  const known = new Map<string, number>();
  let block: NativeBlock | null = null;
  let used = 0;
  return {
    of(terms) {
      const numbers = terms.map(({ down, b, from }) => {
        const [n = 0, rank = 0] = b.shape;
        return [down.address, b.address, rank, down.rowStride, from, n];
      });
      const key = numbers.join();
      const found = known.get(key);
      if (found !== undefined) return found;
      if (block === null || used + terms.length * TERM_BYTES > BLOCK_BYTES) {
        block = nativeBlock(BLOCK_BYTES);
        used = 0;
      }
      const at = used;
      for (const number of numbers.flat()) {
        block.setU64(used, number);
        used += 8;
      }
      known.set(key, block.address + at);
      return block.address + at;
    },
  };
}
