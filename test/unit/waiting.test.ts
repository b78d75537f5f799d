/** How a read waits for the GPU, against a simulated clock: no time is lost at the end, and most of it is slept. */
import { expect, test } from "bun:test";
import { openWaiter } from "../../src/device/cuda/waiting.ts";

const TURN = 0.01; // milliseconds per turn of the loop
const SLEEP = 1.2; // and per sleep of 1 ms

/** A GPU whose work takes a given time, and the cost of waiting for it. */
function simulated() {
  let now = 1000;
  let turning = 0;
  const pass = (milliseconds: number) => {
    now += milliseconds;
    return Promise.resolve();
  };
  const wait = openWaiter({
    now: () => now,
    turn: () => {
      turning += TURN;
      return pass(TURN);
    },
    sleep: () => pass(SLEEP),
  });
  /** @returns milliseconds after the end of the work, and milliseconds the core was busy */
  return async (kind: string, milliseconds: number) => {
    const end = now + milliseconds;
    turning = 0;
    await wait(kind, () => now >= end);
    return { late: now - end, busy: turning };
  };
}

test("short waits are polled throughout", async () => {
  const read = simulated();
  for (let i = 0; i < 20; i++) expect((await read("sampled", 4)).late).toBeLessThanOrEqual(TURN);
});

test("steps longer than 20 ms end at once from the second on, and sleep most of their time", async () => {
  const read = simulated();
  expect((await read("sampled", 33)).late).toBeGreaterThan(TURN); // nothing is known about it yet
  for (let i = 0; i < 50; i++) {
    const { late, busy } = await read("sampled", 33 + 0.05 * i); // contexts grow
    expect(late).toBeLessThanOrEqual(TURN + 1e-9);
    expect(busy).toBeLessThan(12);
  }
});

test("a prompt's pass among decode steps, and waits of another kind, change nothing", async () => {
  const read = simulated();
  for (let i = 0; i < 5; i++) await read("sampled", 30);
  for (let i = 0; i < 40; i++) {
    if (i % 4 === 0) await read("sampled", 400);
    await read("logprob", 2000);
    expect((await read("sampled", 30)).late).toBeLessThanOrEqual(TURN + 1e-9);
  }
});

test("work that takes far longer than usual does not keep a core busy", async () => {
  const read = simulated();
  for (let i = 0; i < 5; i++) await read("sampled", 30);
  const { late, busy } = await read("sampled", 10_000);
  expect(late).toBeLessThanOrEqual(SLEEP);
  expect(busy).toBeLessThan(30);
});

test("a failure reaches the waiter", async () => {
  const wait = openWaiter();
  const failed = wait("sampled", () => {
    throw new Error("the GPU is lost");
  });
  await expect(failed).rejects.toThrow("the GPU is lost");
});

test("timers and messages are handled while it waits", async () => {
  const wait = openWaiter();
  let fired = false;
  setTimeout(() => {
    fired = true;
  }, 3);
  await wait("sampled", () => fired);
  const end = performance.now() + 40;
  await wait("long", () => performance.now() >= end);
  let served = 0;
  const timer = setInterval(() => served++, 2);
  const later = performance.now() + 60; // sleeps until 34 ms, then polls
  await wait("long", () => performance.now() >= later);
  clearInterval(timer);
  expect(served).toBeGreaterThan(5);
});
