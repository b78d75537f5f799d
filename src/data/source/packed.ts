/** The bytes of a text file as a stream, unpacked if it is gzip or zstd. */
import { closeSync, openSync, readSync } from "node:fs";
import { errorText, InputError } from "../../errors.ts";

/** @throws InputError if the file cannot be read or its compression is damaged */
export async function* openText(path: string): AsyncGenerator<Uint8Array> {
  const packing = packingOf(path);
  const stream = Bun.file(path).stream();
  try {
    yield* packing === undefined ? stream : stream.pipeThrough(new DecompressionStream(packing));
  } catch (error) {
    if (packing === undefined) throw new InputError(`${path}: cannot be read (${errorText(error)}); check the file`);
    throw new InputError(`${path}: damaged ${packing} (${errorText(error)}); copy the file again`);
  }
}

function packingOf(path: string): "gzip" | "zstd" | undefined {
  const start = Buffer.alloc(4);
  try {
    const fd = openSync(path, "r");
    readSync(fd, start);
    closeSync(fd);
  } catch (error) {
    throw new InputError(`${path}: cannot be read (${(error as NodeJS.ErrnoException).code}); check the file`);
  }
  if (start[0] === 0x1f && start[1] === 0x8b) return "gzip";
  return start.readUInt32LE() === 0xfd2fb528 ? "zstd" : undefined;
}
