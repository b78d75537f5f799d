/**
 * Follows a file of lines that grows, in slices: each look reads what is new, up to a limit. A line without its end waits;
 * one longer than any of this program's is skipped. A file that was cut or replaced begins anew.
 */
import { readSync } from "node:fs";
import { type OpenFile, openInside } from "./inside.ts";

/** Bytes that one look reads. */
const SLICE = 4 << 20;
/** Longest line, in bytes: a line of metrics has some thousand. */
const LONGEST = 1 << 20;
/** Bytes before the place reached that must stay what they were. */
const MARK = 128;

export interface Look {
  /** Everything read before is void. Comes before the lines. */
  readonly reset: boolean;
  readonly lines: readonly string[];
  /** There is more to read at once. */
  readonly more: boolean;
  /** When the file was written last, in ms; null: no file. */
  readonly modified: number | null;
}

export interface Tail {
  look(): Look;
}

/** @param folder as `realpath` gives it */
export function followLines(folder: string, name: string, slice = SLICE, longest = LONGEST): Tail {
  const buffer = Buffer.allocUnsafe(slice);
  let reached = 0;
  let skipping = false;
  let inode = -1;
  let seen = "";
  let mark: Buffer = Buffer.alloc(0);
  let modified: number | null = null;

  const begin = (): void => {
    reached = 0;
    skipping = false;
    mark = Buffer.alloc(0);
  };
  const hasChanged = (file: OpenFile): boolean => {
    if (file.inode !== inode || file.size < reached) return true;
    const now = Buffer.alloc(mark.length);
    return readSync(file.fd, now, 0, now.length, reached - mark.length) < now.length || !now.equals(mark);
  };

  return {
    look() {
      const file = openInside(folder, name);
      if (file === null) {
        const reset = reached > 0;
        begin();
        [seen, inode, modified] = ["", -1, null];
        return { reset, lines: [], more: false, modified };
      }
      try {
        modified = file.modified;
        if (file.version === seen) return { reset: false, lines: [], more: false, modified };
        const reset = reached > 0 && hasChanged(file);
        if (reset) begin();
        inode = file.inode;
        const count = readSync(file.fd, buffer, 0, Math.min(slice, file.size - reached), reached);
        const lines: string[] = [];
        const end = buffer.subarray(0, count).lastIndexOf(10) + 1;
        if (end > 0) {
          const text = buffer.toString("utf8", 0, end - 1).split("\n");
          if (skipping) text.shift();
          skipping = false;
          for (const line of text) if (line.length <= longest) lines.push(line);
        }
        // Without an end in sight the line is longer than any of ours.
        const tooLong = end === 0 && (skipping || count >= Math.min(slice, longest));
        skipping ||= tooLong;
        const taken = tooLong ? count : end;
        if (taken > 0) mark = remembered(mark, buffer.subarray(0, taken));
        reached += taken;
        const more = taken > 0 && reached < file.size;
        seen = more ? "" : file.version;
        return { reset, lines, more, modified };
      } finally {
        file.close();
      }
    },
  };
}

/** The last bytes of both. */
function remembered(before: Buffer, taken: Buffer): Buffer {
  const all = taken.length >= MARK ? taken : Buffer.concat([before, taken]);
  return Buffer.from(all.subarray(Math.max(0, all.length - MARK)));
}
