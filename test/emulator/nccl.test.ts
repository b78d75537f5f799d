// The emulated NCCL: what it refuses, how it waits, and that messages that do not match are reported. Two processes, as each has
// an emulated GPU of its own.
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildEmulator } from "./build.ts";
import type { Asked, Told } from "./nccl-worker.ts";

setDefaultTimeout(180_000);

await buildEmulator();
const folder = mkdtempSync(join(tmpdir(), "emulated-nccl-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs both ranks' work at the same time; what each tells, or the signal that ended it. */
async function both(name: string, work: readonly [Asked, Asked]): Promise<(Told | string)[]> {
  const id = join(folder, name);
  const ranks = work.map((asked, rank) =>
    Bun.spawn([process.execPath, join(import.meta.dir, "nccl-worker.ts"), id, String(rank), JSON.stringify(asked)], {
      stdout: "pipe",
      stderr: "inherit",
    }),
  );
  return Promise.all(
    ranks.map(async (rank) => {
      const text = await new Response(rank.stdout).text();
      await rank.exited;
      return text === "" ? String(rank.signalCode) : (JSON.parse(text) as Told);
    }),
  );
}

const sound = { failure: null, live: 0, reports: [] };

describe.each(["eager", "lazy"] as const)("%s streams", (streams) => {
  const send = (bytes: number) => ({ streams, send: [bytes] });
  const receive = (bytes: number) => ({ streams, receive: [bytes] });

  test("messages arrive, in order, of any size, both ways at once", async () => {
    const sizes = [4, 1_000_000, 0, 3, 262_144];
    const work: Asked = { streams, send: sizes, receive: sizes };
    const [zero, one] = await both(`order ${streams}`, [work, work]);
    expect(zero).toEqual({ ...sound, received: sizes.map((bytes, i) => [bytes, bytes === 0 ? 0 : 100 + i]) });
    expect(one).toEqual({ ...sound, received: sizes.map((bytes, i) => [bytes, bytes === 0 ? 0 : i]) });
  });

  test("a message of another size is reported by whoever receives it", async () => {
    const [, one] = (await both(`size ${streams}`, [{ ...send(64), leaves: true }, receive(60)])) as Told[];
    expect(one!.reports).toEqual([
      expect.stringContaining("nccl-mismatch: rank 1 receives 60 bytes of rank 0, which sends 64"),
    ]);
    expect(one!.failure).toMatch(/ncclCommGetAsyncError: invalid usage/);
  });

  test("a message beyond an allocation is reported", async () => {
    const [zero] = (await both(`bounds ${streams}`, [{ ...send(64), beyond: true }, { ...receive(64) }])) as Told[];
    expect(zero!.reports[0]).toContain("out-of-bounds: a buffer does not lie inside one allocation");
  });
});

test("the death of a rank ends the wait of the other", async () => {
  const [zero, one] = await both("death", [
    { streams: "eager", receive: [64] },
    { streams: "eager", dies: true },
  ]);
  expect(one).toBe("SIGKILL");
  expect((zero as Told).failure).toMatch(/remote process exited/);
  expect(readdirSync("/dev/shm").filter((name) => name.startsWith("emulated-nccl-"))).toEqual([]);
});

test("misuse is refused, with a text", async () => {
  const [zero] = (await both("misuse", [{ streams: "eager", misuse: true }, { streams: "eager" }])) as Told[];
  expect(zero!.refusals).toEqual([
    "before all have joined: 5 the communicator is not ready",
    "outside of a group: 5 a message outside of a group",
    "to itself: 4 there is no such peer",
    "an unknown type: 4 an unknown type",
    "while it is captured: 5 the stream is being captured",
    "an end without a beginning: 5 no group was started",
    "after its end: 4 there is no such communicator",
  ]);
});
