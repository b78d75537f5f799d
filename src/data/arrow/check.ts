/**
 * Whether the buffers of a loaded column match its lengths: long enough, offsets rising and within the data. After this,
 * every value of the common types can be read without further checks; dictionary indices, views and union members are
 * checked as they are read. The text itself is not touched.
 */
import { type Data, Type } from "apache-arrow";

/** Why a column cannot be read; the caller adds file, batch and column. */
export class DamagedColumn extends Error {}

/** @throws DamagedColumn if a column's length differs from its batch's, or its values are not valid */
export function checkBatchColumn(data: Data, rows: number): void {
  if (data.length > rows) throw new DamagedColumn(`${data.length} values in a batch of ${rows} rows`);
  checkColumn(data, rows);
}

/** @throws DamagedColumn if `data` has fewer than `length` valid values */
function checkColumn(data: Data, length: number): void {
  if (data.length < length) throw new DamagedColumn(`${data.length} values where ${length} are needed`);
  if (data.nullCount > data.length) throw new DamagedColumn(`${data.nullCount} nulls among ${data.length} values`);
  const hasBitmap = data.typeId !== Type.Null && data.typeId !== Type.Union;
  if (hasBitmap && data.nullCount > 0) needBytes("its null bitmap", data.nullBitmap, Math.ceil(data.length / 8));
  switch (data.typeId) {
    case Type.Bool:
      needBytes("its values", data.values, Math.ceil(data.length / 8));
      break;
    case Type.Int:
    case Type.Float:
    case Type.Date:
    case Type.Time:
    case Type.Timestamp:
    case Type.Duration:
    case Type.Decimal:
    case Type.FixedSizeBinary:
    case Type.Interval:
      needItems("its values", data.values, data.length * data.stride);
      break;
    case Type.Utf8View:
    case Type.BinaryView:
      needBytes("its views", data.values, data.length * 16);
      break;
    case Type.Union:
      needItems("its types", data.typeIds, data.length);
      for (const child of data.children) checkColumn(child, child.length);
      break;
    case Type.Dictionary:
      needItems("its values", data.values, data.length * data.stride);
      checkEntries(data);
      break;
    case Type.Utf8:
    case Type.LargeUtf8:
    case Type.Binary:
    case Type.LargeBinary:
      checkOffsets(data, data.values?.length ?? 0);
      break;
    case Type.List:
    case Type.LargeList:
    case Type.Map: {
      const child = data.children[0]!;
      checkOffsets(data, child.length);
      checkColumn(child, child.length);
      break;
    }
    case Type.FixedSizeList:
      checkColumn(data.children[0]!, data.length * data.stride);
      break;
    case Type.Struct:
      for (const child of data.children) checkColumn(child, data.length);
  }
}

export function isNull(data: Data, index: number): boolean {
  if (data.typeId === Type.Null) return true;
  if (data.typeId === Type.Union) return false; // its children have the nulls
  return data.nullCount > 0 && ((data.nullBitmap[index >> 3]! >> (index & 7)) & 1) === 0;
}

/** Because columns may also be copied without reading each value. */
function checkEntries(data: Data): void {
  const limit = data.dictionary?.length ?? 0;
  for (let i = 0; i < data.length; i++) {
    if (isNull(data, i)) continue;
    const entry = Number(data.values[i]!);
    if (!(entry >= 0 && entry < limit)) throw new DamagedColumn(`entry ${entry} of a dictionary of ${limit}`);
  }
}

function needItems(what: string, values: ArrayLike<unknown> | undefined, count: number): void {
  if ((values?.length ?? 0) < count) throw new DamagedColumn(`${what} stop at ${values?.length ?? 0} of ${count}`);
}

function needBytes(what: string, bytes: Uint8Array | undefined, count: number): void {
  if ((bytes?.byteLength ?? 0) < count)
    throw new DamagedColumn(`${what} has ${bytes?.byteLength ?? 0} bytes of ${count}`);
}

function checkOffsets(data: Data, limit: number): void {
  const offsets = data.valueOffsets as Int32Array | BigInt64Array | undefined;
  if (data.length === 0) return;
  needItems("its offsets", offsets, data.length + 1);
  let before = 0;
  for (let i = 0; i <= data.length; i++) {
    const offset = Number(offsets![i]!);
    if (offset < before) throw new DamagedColumn(`offset ${offset} of value ${i} lies before ${before}`);
    before = offset;
  }
  if (before > limit) throw new DamagedColumn(`its last offset ${before} lies beyond its data, which ends at ${limit}`);
}
