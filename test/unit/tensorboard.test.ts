// TensorBoard's event files: checksums against published values, messages read back from their bytes, rotation, resuming, damage.
import { afterAll, describe, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openEventFiles } from "../../src/metrics/tensorboard/event-files.ts";
import { crc32c, framed, wholeRecords } from "../../src/metrics/tensorboard/tfrecord.ts";
import { type Message, parseMessage } from "../fixtures/protobuf.ts";

const root = mkdtempSync(join(tmpdir(), "grpo-tensorboard-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let count = 0;
const fresh = () => mkdtempSync(join(root, `run-${count++}-`));

const filesOf = (folder: string) => readdirSync(folder).sort();
const eventsOf = (folder: string, name: string): Message[] => {
  const bytes = readFileSync(join(folder, name));
  const { records, end } = wholeRecords(bytes);
  expect(end).toBe(bytes.length);
  return records.map(parseMessage);
};
const allEvents = (folder: string) => filesOf(folder).flatMap((name) => eventsOf(folder, name));
/** (step, tag, value) of every scalar. */
const scalarsOf = (events: readonly Message[]) =>
  events.flatMap((event) =>
    (event.message(5)?.messages(1) ?? []).flatMap((value) =>
      value.fields.has(2) ? [[event.number(2), value.text(1), value.number(2)]] : [],
    ),
  );

describe("records", () => {
  test("CRC-32C: the check value, and RFC 3720's (B.4)", () => {
    expect(crc32c(new TextEncoder().encode("123456789"))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  });

  test("a torn or changed record ends what is read, whichever byte it is", () => {
    const first = framed(Uint8Array.of(1, 2, 3));
    const whole = Uint8Array.from([...first, ...framed(Uint8Array.of(4))]);
    expect(wholeRecords(whole)).toEqual({ records: [Uint8Array.of(1, 2, 3), Uint8Array.of(4)], end: whole.length });
    for (let length = first.length; length < whole.length; length++)
      expect(wholeRecords(whole.subarray(0, length)).end).toBe(first.length);
    for (let at = first.length; at < whole.length; at++) {
      const changed = whole.slice();
      changed[at]! ^= 1;
      expect(wholeRecords(changed).end).toBe(first.length);
    }
  });
});

describe("event files", () => {
  test("scalars and texts, with time and step, on disk at once", () => {
    const folder = fresh();
    const files = openEventFiles(folder, { resumeStep: null, now: () => 1732752000.5 });
    files.scalars(300, [
      ["train/reward", 0.25],
      ["train/kl", Number.NaN],
      ["eval/accuracy", -1e-7],
    ]);
    const [version, scalars] = allEvents(folder) as [Message, Message];
    expect([version.number(1), version.text(3)]).toEqual([1732752000.5, "brain.Event:2"]);
    expect([scalars.number(1), scalars.number(2)]).toEqual([1732752000.5, 300]);
    expect(scalarsOf([scalars])).toEqual([
      [300, "train/reward", 0.25],
      [300, "train/kl", Number.NaN],
      [300, "eval/accuracy", Math.fround(-1e-7)],
    ]);
    files.text(301, "completions", [
      ["a", "ü"],
      ["", "数"],
      ["1", "2"],
    ]);
    files.close();
    const value = allEvents(folder).at(-1)!.message(5)!.message(1)!;
    const tensor = value.message(8)!;
    expect(value.text(1)).toBe("completions");
    expect(value.message(9)!.message(1)!.text(1)).toBe("text");
    expect(tensor.number(1)).toBe(7);
    expect(
      tensor
        .message(2)!
        .messages(2)
        .map((size) => size.number(1)),
    ).toEqual([3, 2]);
    expect(tensor.texts(8)).toEqual(["a", "ü", "", "数", "1", "2"]);
  });

  test("a file that has grown large is followed by another, whose name comes after it", () => {
    const folder = fresh();
    const files = openEventFiles(folder, { resumeStep: null, now: () => 5, maxBytes: 300 });
    for (let step = 1; step <= 20; step++) files.scalars(step, [["train/reward", step]]);
    files.close();
    const names = filesOf(folder);
    expect(names.length).toBeGreaterThan(3);
    for (const name of names) expect(eventsOf(folder, name)[0]!.text(3)).toBe("brain.Event:2");
    expect(scalarsOf(allEvents(folder)).map(([step]) => step)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  });

  test("resuming: a new file that begins at the next step, after a torn last record is cut off", () => {
    const folder = fresh();
    const first = openEventFiles(folder, { resumeStep: null, now: () => 100 });
    for (const step of [1, 2, 3]) first.scalars(step, [["train/reward", step]]);
    first.close();
    const [torn] = filesOf(folder);
    appendFileSync(join(folder, torn!), framed(new Uint8Array(50)).subarray(0, 40));
    // The clock was set back: the name still comes later.
    const second = openEventFiles(folder, { resumeStep: 2, now: () => 50 });
    second.scalars(3, [["train/reward", 30]]);
    second.close();
    const names = filesOf(folder);
    expect(names[0]).toBe(torn!);
    expect(scalarsOf(eventsOf(folder, names[0]!))).toHaveLength(3);
    const [version, start, scalars] = eventsOf(folder, names[1]!) as [Message, Message, Message];
    expect(version.text(3)).toBe("brain.Event:2");
    expect([start.number(2), start.message(7)!.number(1)]).toEqual([3, 1]);
    expect(scalarsOf([scalars])).toEqual([[3, "train/reward", 30]]);
  });

  test("an event that the system refuses leaves no part of itself", () => {
    const folder = fresh();
    const module = join(import.meta.dir, "../../src/metrics/tensorboard/event-files.ts");
    const script = `import { openEventFiles } from ${JSON.stringify(module)};
      const files = openEventFiles(${JSON.stringify(folder)}, { resumeStep: null });
      for (let step = 1; ; step++)
        try { files.scalars(step, [["train/reward", step]]); } catch ({ code }) { console.log(code, step); break; }`;
    const { stdout } = Bun.spawnSync(["sh", "-c", 'ulimit -f 1; exec "$0" -e "$1"', process.execPath, script]);
    const [code, step] = stdout.toString().trim().split(" ");
    expect(code).toBe("EFBIG");
    const steps = scalarsOf(allEvents(folder)).map(([each]) => each);
    expect(steps).toEqual(Array.from({ length: Number(step) - 1 }, (_, i) => i + 1));
  });
});
