/**
 * Protocol Buffers' wire format, as far as event files and W&B's run files need it: a message is the concatenation of its
 * fields. https://protobuf.dev/programming-guides/encoding
 */

const varintWire = 0;
const doubleWire = 1;
const bytesWire = 2;
const floatWire = 5;

const encoder = new TextEncoder();

/** A whole number from 0 to 2⁵³ in groups of seven bits, the lowest first. */
function varint(value: number): number[] {
  const groups: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) groups.push((rest % 128) | 128);
  groups.push(rest);
  return groups;
}

const key = (field: number, wire: number): number[] => varint(field * 8 + wire);

export function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** int64, uint64, int32, enum or bool. */
export const wholeField = (field: number, value: number): Uint8Array =>
  Uint8Array.from([...key(field, varintWire), ...varint(value)]);

/** string or bytes. */
export function bytesField(field: number, value: string | Uint8Array): Uint8Array {
  const bytes = typeof value === "string" ? encoder.encode(value) : value;
  return concatenate([Uint8Array.from([...key(field, bytesWire), ...varint(bytes.length)]), bytes]);
}

/** A message within a message. */
export const messageField = (field: number, fields: readonly Uint8Array[]): Uint8Array =>
  bytesField(field, concatenate(fields));

export function doubleField(field: number, value: number): Uint8Array {
  const head = key(field, doubleWire);
  const bytes = new Uint8Array(head.length + 8);
  bytes.set(head);
  new DataView(bytes.buffer).setFloat64(head.length, value, true);
  return bytes;
}

export function floatField(field: number, value: number): Uint8Array {
  const head = key(field, floatWire);
  const bytes = new Uint8Array(head.length + 4);
  bytes.set(head);
  new DataView(bytes.buffer).setFloat32(head.length, value, true);
  return bytes;
}

/**
 * The fields of a message in order: whole numbers as numbers, anything else as its bytes.
 * @throws RangeError for bytes that are no message
 */
export function* fieldsOf(message: Uint8Array): Generator<readonly [field: number, value: number | Uint8Array]> {
  let at = 0;
  const readVarint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = message[at++];
      if (byte === undefined) throw new RangeError("a message ends within a number");
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  const sizes: Readonly<Record<number, () => number>> = {
    [doubleWire]: () => 8,
    [bytesWire]: readVarint,
    [floatWire]: () => 4,
  };
  while (at < message.length) {
    const head = readVarint();
    const field = Math.floor(head / 8);
    if (head % 8 === varintWire) {
      yield [field, readVarint()];
      continue;
    }
    const size = sizes[head % 8]?.();
    if (size === undefined || at + size > message.length) throw new RangeError(`a message ends within field ${field}`);
    yield [field, message.subarray(at, at + size)];
    at += size;
  }
}
