/** The free pages of the key-value cache. A page is a block of 64 tokens in every layer. */
import { PAGE_TOKENS } from "../device/device.ts";

/** Pages that hold `tokens` tokens. */
export function pagesFor(tokens: number): number {
  return Math.ceil(tokens / PAGE_TOKENS);
}

export interface PagePool {
  readonly free: number;
  /** Takes `count` pages; null if there are fewer. */
  take(count: number): Int32Array | null;
  give(pages: Int32Array): void;
}

export function createPagePool(total: number): PagePool {
  // A stack: the most recently freed page is most likely still in the CPU's caches.
  const stack = Array.from({ length: total }, (_, i) => total - 1 - i);
  return {
    get free() {
      return stack.length;
    },
    take(count) {
      if (count > stack.length) return null;
      return Int32Array.from({ length: count }, () => stack.pop()!);
    },
    give(pages) {
      for (let i = pages.length - 1; i >= 0; i--) stack.push(pages[i]!);
    },
  };
}
