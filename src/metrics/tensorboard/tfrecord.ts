/**
 * TFRecord, the frame of TensorBoard's event files: length, its checksum, the record, the record's checksum. Checksums are
 * CRC-32C (Castagnoli), masked as in TensorFlow's tsl/lib/hash/crc32c.h.
 */

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = table[(crc ^ byte) & 255]! ^ (crc >>> 8);
  return ~crc >>> 0;
}

function masked(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

const headBytes = 12;
const tailBytes = 4;

export function framed(record: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(headBytes + record.length + tailBytes);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(record.length), true);
  view.setUint32(8, masked(bytes.subarray(0, 8)), true);
  bytes.set(record, headBytes);
  view.setUint32(headBytes + record.length, masked(record), true);
  return bytes;
}

/**
 * The whole records at the beginning of a file, and where they end: what follows was torn by a crash or is damaged, and a
 * reader stops there.
 */
export function wholeRecords(bytes: Uint8Array): { readonly records: readonly Uint8Array[]; readonly end: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const records: Uint8Array[] = [];
  let end = 0;
  while (end + headBytes + tailBytes <= bytes.length) {
    if (view.getUint32(end + 8, true) !== masked(bytes.subarray(end, end + 8))) break;
    const last = end + headBytes + Number(view.getBigUint64(end, true));
    if (last + tailBytes > bytes.length) break;
    const record = bytes.subarray(end + headBytes, last);
    if (view.getUint32(last, true) !== masked(record)) break;
    records.push(record);
    end = last + tailBytes;
  }
  return { records, end };
}
