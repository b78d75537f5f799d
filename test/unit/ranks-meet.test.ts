/** Ranks that meet over TCP, here in one process: who is let in, what is exchanged, and how a rank's end is told. */
import { afterEach, describe, expect, test } from "bun:test";
import { RunError } from "../../src/errors.ts";
import { RanksFailure } from "../../src/ranks/failure.ts";
import { headerOf } from "../../src/ranks/frames.ts";
import { type Joined, join } from "../../src/ranks/join.ts";
import { createMesh } from "../../src/ranks/mesh.ts";
import type { MetRanks } from "../../src/ranks/ranks.ts";

function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}

interface Options {
  readonly size?: number;
  readonly secret?: string;
  readonly version?: string;
  readonly waitMs?: number;
}

function joining(rank: number, size: number, port: number, options: Options = {}): Promise<Joined> {
  const { secret = "known to all", version = "1", waitMs = 5000 } = options;
  return join({
    placement: {
      ...{
        launcher: "a test",
        rank,
        size: options.size ?? size,
        localRank: rank,
        localSize: size,
        parent: null,
        secret,
      },
      rendezvous: { host: "127.0.0.1", port },
    },
    ...{ version, waitMs, shouldStop: () => false },
  });
}

const open: MetRanks[] = [];
afterEach(() => {
  for (const ranks of open.splice(0)) ranks.close();
});

interface Met {
  readonly ranks: MetRanks;
  readonly joined: Joined;
  /** Asks this rank to stop. */
  stop(): void;
}

async function meet(size: number, silenceMs = 5000): Promise<Met[]> {
  const port = freePort();
  const all = await Promise.all(Array.from({ length: size }, (_, rank) => joining(rank, size, port)));
  return all.map((joined, rank) => {
    let stopped = false;
    const ranks = createMesh(joined, {
      ...{ rank, silenceMs, stopRequested: () => stopped, isOrphan: () => false, end() {} },
    });
    open.push(ranks);
    return {
      ...{ ranks, joined },
      stop() {
        stopped = true;
      },
    };
  });
}

/** What a rank is told. */
const failureOf = (work: Promise<unknown>): Promise<Error> =>
  work.then(
    () => {
      throw new Error("it did not fail");
    },
    (error: Error) => error,
  );

describe("ranks that meet", () => {
  test("gather values of any kind, by rank", async () => {
    const met = await meet(4);
    const values = [1, "text", new Float32Array([Number.NaN, -0, 3]).subarray(1), new Map([["a", null]])];
    const all = await Promise.all(met.map(({ ranks }, r) => ranks.gather<unknown>("values", values[r])));
    for (const one of all) expect(one).toEqual(values);
    const firsts = await Promise.all(met.map(({ ranks }) => ranks.first("it", () => ranks.rank)));
    expect(firsts).toEqual([0, 0, 0, 0]);
    const ends = met.map(({ ranks }) => ranks.part());
    expect(await Promise.all(ends)).toHaveLength(4);
  });

  test.each([
    ["sent", false],
    ["read by neighbours", true],
  ])("exchange bytes, %s, also those that come early or are many", async (_, asNeighbours) => {
    const met = await meet(3);
    if (asNeighbours) await Promise.all(met.map(({ ranks }) => ranks.meetNeighbours()));
    const kinds = new Set<string>();
    for (const link of met.flatMap(({ joined }) => joined.links))
      if (link) {
        const { send } = link;
        link.send = (kind, ...rest) => {
          kinds.add(kind);
          return send(kind, ...rest);
        };
      }
    const size = 2 ** 20;
    const bytes = (from: number, to: number) => new Uint8Array(size + from).fill(10 * from + to);
    const results = await Promise.all(
      met.map(async ({ ranks }, r) => {
        await Bun.sleep(30 * r);
        const into = [0, 1, 2].map((from) => [new Uint8Array(5), new Uint8Array(size + from - 5)]);
        await ranks.exchange(
          [0, 1, 2].map((to) => [bytes(r, to)]),
          into,
        );
        return into.map((parts, from) =>
          from === r ? null : parts.map((part) => (part.every((byte) => byte === part[0]) ? part[0] : null)),
        );
      }),
    );
    expect(results).toEqual([
      [null, [10, 10], [20, 20]],
      [[1, 1], null, [21, 21]],
      [[2, 2], [12, 12], null],
    ]);
    expect(kinds.has("data")).toBe(!asNeighbours);
  });

  test("of one machine refuse what a neighbour lends too much of", async () => {
    const met = await meet(2);
    await Promise.all(met.map(({ ranks }) => ranks.meetNeighbours()));
    const bytes = (count: number) => [[new Uint8Array(count)], [new Uint8Array(count)]];
    const errors = await Promise.all([
      failureOf(met[0]!.ranks.exchange(bytes(8), bytes(8))),
      failureOf(
        met[1]!.ranks
          .exchange(bytes(8), bytes(12))
          .catch((error) => met[1]!.ranks.fail(error).then(() => Promise.reject(error))),
      ),
    ]);
    expect(errors[1]!.message).toMatch(/it lent 8 bytes where 12 were expected/);
    expect(errors[0]!.message).toMatch(/^rank 1 .*it lent 8 bytes where 12 were expected/);
  });

  test("agree to stop at the same gather, whichever is asked", async () => {
    const met = await meet(3);
    met[2]!.stop();
    const rounds = await Promise.all(
      met.map(async ({ ranks }) => {
        const agreed = [ranks.stopAgreed()];
        for (let i = 0; i < 3; i++) {
          await ranks.gather("a round", i);
          agreed.push(ranks.stopAgreed());
        }
        return agreed;
      }),
    );
    expect(rounds[0]).toEqual([false, true, true, true]);
    for (const agreed of rounds) expect(agreed).toEqual(rounds[0]!);
  });
});

describe("a rank that fails", () => {
  test("is named to all, and one of them tells", async () => {
    const met = await meet(3);
    const waiting = [0, 2].map((r) => failureOf(met[r]!.ranks.gather("a step", null)));
    const own = await met[1]!.ranks.fail(new RunError("the disk is full"));
    const others = await Promise.all(waiting);
    expect(others.map(({ message }) => message)).toEqual([own, own].map((error) => (error as Error).message));
    expect(others[0]!.message).toMatch(/^rank 1 \(.+\): the disk is full$/);
    expect([others[0], own, others[1]].map((error) => (error as RanksFailure).isTold)).toEqual([false, true, true]);
  });

  test("of number 0 tells by itself", async () => {
    const met = await meet(2);
    const waiting = failureOf(met[1]!.ranks.gather("a step", null));
    const error = new RunError("no more memory");
    expect(await met[0]!.ranks.fail(error)).toBe(error);
    expect(await waiting).toMatchObject({ isTold: true, exitCode: 1 });
  });

  test("by ending is missed at once, also in an exchange", async () => {
    const met = await meet(3);
    const into = () => [0, 1, 2].map(() => [new Uint8Array(8)]);
    const waiting = [0, 2].map((r) => failureOf(met[r]!.ranks.exchange(into(), into())));
    for (const link of met[1]!.joined.links) link?.close();
    for (const error of await Promise.all(waiting)) expect(error.message).toMatch(/^rank 1 .*has ended/);
  });

  test("by falling silent is missed after a while", async () => {
    const met = await meet(2, 600);
    // Its sign of life does not come any more.
    for (const link of met[1]!.joined.links) if (link) link.send = () => Promise.resolve();
    const error = await failureOf(met[0]!.ranks.gather("a step", null));
    expect(error.message).toMatch(/^rank 1 .* has not answered for 1 s/);
  });

  test("by being elsewhere is named", async () => {
    const met = await meet(2);
    const errors = await Promise.all([
      failureOf(met[0]!.ranks.gather("a step", null)),
      failureOf(met[1]!.ranks.gather("an evaluation", null)),
    ]);
    expect(errors[0]).toBeInstanceOf(RanksFailure);
    expect(errors[0]!.message).toMatch(/it is at (an evaluation|a step) where rank [01] is at/);
  });
});

describe("who is not let in", () => {
  const pair = async (of0: Options, of1: Options) => {
    const port = freePort();
    return Promise.all([failureOf(joining(0, 2, port, of0)), failureOf(joining(1, 2, port, of1))]);
  };

  test("a process with another secret; the run waits for its own", async () => {
    const [rank0, rank1] = await pair({ waitMs: 700 }, { secret: "another" });
    expect(rank1!.message).toMatch(/has another secret, or belongs to another run; set BUN_GRPO_SECRET/);
    expect(rank0!.message).toMatch(/^waited 1 s at .* for rank 1; 127.0.0.1 came with another secret/);
  });

  test("another version", async () => {
    for (const error of await pair({}, { version: "2" }))
      expect(error.message).toMatch(/^rank 1 \(.*\) runs 2, rank 0 \(.*\) 1; all ranks need the same$/);
  });

  test("another number of ranks", async () => {
    for (const error of await pair({}, { size: 3 }))
      expect(error.message).toMatch(/^rank 1 .* is one of 3 ranks, rank 0 one of 2$/);
  });

  test("a second process of the same number", async () => {
    const port = freePort();
    const zero = failureOf(joining(0, 3, port));
    const first = failureOf(joining(1, 3, port));
    await Bun.sleep(300);
    const second = failureOf(joining(1, 3, port));
    for (const error of await Promise.all([zero, second]))
      expect(error.message).toMatch(/^rank 1 .* has the number of another process/);
    expect((await first).message).toMatch(/^rank 0 .* has ended before all ranks had met/);
  });

  test("whoever does not speak the language, or too much", async () => {
    const port = freePort();
    const zero = joining(0, 2, port);
    await Bun.sleep(20);
    const endOf = async (bytes: Uint8Array): Promise<void> => {
      const closed = Promise.withResolvers<void>();
      const socket = await Bun.connect({
        ...{ hostname: "127.0.0.1", port },
        socket: { open: (s) => void s.write(bytes), data() {}, close: () => closed.resolve() },
      });
      await closed.promise;
      socket.end();
    };
    await endOf(Buffer.from("GET / HTTP/1.1\r\nHost: somebody\r\n\r\n"));
    await endOf(headerOf("hello", 0, 2 ** 31 - 1));
    await endOf(Buffer.concat([headerOf("hello", 0, 2), Buffer.from("{}")]));
    await endOf(Buffer.concat([headerOf("value", 0, 2), Buffer.from("{}")]));
    const all = await Promise.all([zero, joining(1, 2, port)]);
    for (const { links } of all) for (const link of links) link?.close();
  });

  test("nobody comes: the wait ends, and names who is missing", async () => {
    const port = freePort();
    const error = await failureOf(joining(0, 3, port, { waitMs: 300 }));
    expect(error.message).toMatch(/^waited 0 s at 127.0.0.1:\d+ for ranks 1, 2: start 3 ranks/);
    const lonely = await failureOf(joining(1, 3, port, { waitMs: 300 }));
    expect(lonely.message).toMatch(/^there is no rank at 127.0.0.1:\d+: check MASTER_ADDR and MASTER_PORT/);
  });

  test("a port that is in use is named", async () => {
    const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const error = await failureOf(joining(0, 2, server.port));
    server.stop(true);
    expect(error.message).toMatch(/^127.0.0.1:\d+ is in use, perhaps by another run/);
  });
});
