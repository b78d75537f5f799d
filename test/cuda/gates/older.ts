/**
 * The kernels compiled by older compilers, checked against limits instead of a separate table: the same shared memory as the
 * newest's (resources.tsv), no spills except those listed here, and registers that cost no significant occupancy.
 */
import type { Resources } from "./compiled.ts";
import type { Table } from "./resources.ts";

/**
 * Registers above the newest compiler's for the same architecture: the most is 26 (12.8, attention_decode of more query heads
 * than a block takes at once, 252 instead of 226), where a multiprocessor has two blocks of 128 threads in either case.
 */
const MORE_REGISTERS = 26;

interface Spill {
  readonly version: string;
  readonly architecture: number;
  readonly kernel: string;
  /** Maximum bytes of stack. */
  readonly bytes: number;
  readonly reason: string;
}

const twoBlocks =
  "64 registers, so that two blocks of 512 threads share a multiprocessor; 12.0 keeps some of a thread's state on the stack, which stays in the L1 cache, where the kernel waits for logits from memory";

const division =
  "13.0 saves two registers around the slow path of a division, once for every 256 elements of a warp; the kernel waits for memory";

/** Kernels that spill, and why that is accepted. */
export const knownSpills: readonly Spill[] = [
  { version: "12.0", architecture: 80, kernel: "sample", bytes: 16, reason: twoBlocks },
  { version: "12.0", architecture: 90, kernel: "sample", bytes: 48, reason: twoBlocks },
  { version: "13.0", architecture: 90, kernel: "adamw_8bit", bytes: 8, reason: division },
  {
    ...{ version: "12.8", architecture: 120, kernel: "experts_forward", bytes: 8 },
    reason:
      "12.8 keeps a counter of the loop that copies operands to shared memory on the stack, beside four loads from memory; the loop of the products has none",
  },
];

/** Problems in an older compiler's result, in words, including listed spills that no longer occur. */
export function olderFaults(version: string, compiled: Table, newest: Table, known = knownSpills): string[] {
  const faults: string[] = [];
  const spilt = new Set<Spill>();
  for (const [key, now] of compiled) {
    const [, kernel, , architecture] = key.split("\t");
    const what = `NVRTC ${version}: ${key.replaceAll("\t", " ")}`;
    const before = newest.get(key);
    if (before === undefined) {
      faults.push(`${what}: not in resources.tsv`);
      continue;
    }
    if (now.shared !== before.shared) faults.push(`${what}: ${now.shared} bytes of shared memory for ${before.shared}`);
    if (now.registers > before.registers + MORE_REGISTERS)
      faults.push(
        `${what}: ${now.registers} registers, more than ${MORE_REGISTERS} above the newest's ${before.registers}`,
      );
    const listed = known.find(
      (each) => each.version === version && each.kernel === kernel && `sm_${each.architecture}` === architecture,
    );
    if (spills(now) && listed) spilt.add(listed);
    if (now.stack > (listed?.bytes ?? 0) || (spills(now) && !listed))
      faults.push(
        `${what}: ${now.stack} bytes of stack, spills ${now.spillStores}, loads ${now.spillLoads}; mend it, or list it with its reason in older.ts`,
      );
  }
  for (const each of known)
    if (each.version === version && !spilt.has(each))
      faults.push(`NVRTC ${version}: ${each.kernel} sm_${each.architecture} is listed in older.ts and spills nothing`);
  return faults;
}

function spills({ stack, spillStores, spillLoads }: Resources): boolean {
  return stack + spillStores + spillLoads > 0;
}
