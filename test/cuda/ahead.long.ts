/**
 * A step is queued before the tokens of the one before are read: completions are those of a rollout that waits for every token,
 * whatever stops, is fed or dropped meanwhile.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type CudaDevice, openCudaDevice } from "../../src/device/cuda/device.ts";
import type { Device } from "../../src/device/device.ts";
import type { OnToken, Rollout } from "../../src/rollout/rollout.ts";
import type { SampledCompletion, Sequence } from "../../src/rollout/sequence.ts";
import { requests, sampleWithTool, samplings, started, withRollout } from "../e2e/forced-rollout.ts";
import { buildEmulator } from "../emulator/build.ts";
import { type EmulatorControl, openControl } from "../emulator/control.ts";

// The emulator may have to be compiled first.
setDefaultTimeout(180_000);

let device: CudaDevice;
let control: EmulatorControl;
beforeAll(async () => {
  const { folder: libraryFolder } = await buildEmulator();
  control = openControl(libraryFolder);
  device = await openCudaDevice({ libraryFolder });
});
afterAll(() => {
  device.close();
  expect(control.reports().map(({ text }) => text)).toEqual([]);
});

/** The device, with changes; closing it closes nothing. */
const changed = (changes: Partial<Device>) => async (): Promise<Device> => ({ ...device, ...changes, close() {} });
const [ahead, waiting] = [changed({}), changed({ queuesWork: false })];

describe.each(samplings)("%s", (_, sampling) => {
  test("with a tool that answers at once, later or never", async () => {
    const sampled = (open: () => Promise<Device>) =>
      withRollout({ open, maxSequences: 4, sampling }, async (session, settings) => {
        const delay = ({ place, sample }: { place: number; sample: number }) => (5 * place + 3 * sample) % 4;
        const { completions } = await sampleWithTool(started(session, settings), delay);
        return completions;
      });
    const want = await sampled(waiting);
    expect(await sampled(ahead)).toEqual(want);
    expect(want.flat().filter(({ mask }) => mask !== null).length).toBeGreaterThan(3);
    expect(want.flat().filter(({ finished }) => finished).length).toBeGreaterThan(3);
  });

  test("tokens forced on a sequence while its step is under way, from another's callback", async () => {
    const sampled = (open: () => Promise<Device>, feedings: (rollout: () => Rollout) => OnToken) =>
      withRollout({ open, maxSequences: 4, sampling }, async (session, settings) => {
        const endless = { ...settings, isStop: () => false, maxCompletionLength: 30 };
        const rollout: Rollout = started(
          session,
          endless,
          feedings(() => rollout),
        );
        const completions = requests.map((): SampledCompletion[] => []);
        while (rollout.finished < rollout.total)
          for (const sequence of await rollout.step())
            completions[sequence.place]![sequence.sample] = rollout.end(sequence);
        return completions;
      });
    const got = await sampled(ahead, (rollout) => {
      const last = new Map<number, Sequence>();
      return (sequence) => {
        const other = last.get(sequence.place);
        if (sequence.sample !== 0) last.set(sequence.place, sequence);
        else if (other && !other.ending && other.ids.length % 7 === 3) rollout().feed(other, [11, sequence.ids.length]);
      };
    });
    expect(got.flat().filter(({ mask }) => mask !== null)).not.toBeEmpty();
    // The same tokens, forced when each sequence has got to them.
    const want = await sampled(waiting, (rollout) => (sequence) => {
      const { completionIds, mask } = got[sequence.place]![sequence.sample]!;
      const { length } = sequence.ids;
      if (mask?.[length] !== 0) return;
      const next = mask.indexOf(1, length);
      rollout().feed(sequence, completionIds.slice(length, next < 0 ? undefined : next));
    });
    expect(got).toEqual(want);
  });
});

test("dropped groups and a rollout that is left leave the next ones on the same buffers unchanged", async () => {
  const sampled = (open: () => Promise<Device>) =>
    withRollout({ open, maxSequences: 4 }, async (session, settings) => {
      const left = started(session, settings);
      for (let i = 0; i < 3; i++) await left.step();
      const rollout = started(session, settings);
      const completions = [];
      for (let step = 0; rollout.finished < rollout.total; step++) {
        if (step === 2) rollout.drop(0);
        if (step === 30) rollout.drop(2);
        for (const sequence of await rollout.step())
          completions.push([sequence.place, sequence.sample, rollout.end(sequence)] as const);
      }
      left.drop(1);
      await expect(left.step()).rejects.toThrow("another rollout");
      return completions.filter(([place]) => place % 2 === 1).sort(([a, b], [c, d]) => a - c || b - d);
    });
  const want = await sampled(waiting);
  expect(want.length).toBe(6);
  expect(await sampled(ahead)).toEqual(want);
});

test("the host waits for a token only when the next step has been queued, but for the last one", async () => {
  /** Steps queued and not waited for, at each wait. */
  const underWay: number[] = [];
  let queued = 0;
  const queueRead: Device["queueRead"] = (source) => {
    const read = device.queueRead(source);
    queued++;
    return () => {
      underWay.push(queued--);
      return read();
    };
  };
  for (const queuesWork of [true, false]) {
    underWay.length = 0;
    await withRollout({ open: changed({ queuesWork, queueRead }), maxSequences: 4 }, async ({ rollout }, settings) => {
      await rollout.generate(requests.slice(0, 1), { ...settings, maxCompletionLength: 20, isStop: () => false });
    });
    expect(queued).toBe(0);
    expect(underWay).toEqual(queuesWork ? [...new Array(19).fill(2), 1] : new Array(20).fill(1));
  }
});

test("logits that are not finite are reported by the token that they belong to", async () => {
  await withRollout({ open: ahead, maxSequences: 4 }, async (session, settings) => {
    const { ops } = device;
    const { all } = session.scorer.model.weights;
    const rollout = started(session, { ...settings, isStop: () => false });
    await rollout.step();
    await rollout.step();
    for (const w of all) ops.fill({ ...w, rowStride: w.elements, shape: [w.elements] }, Number.NaN);
    const failing = (async () => {
      for (let i = 0; i < 4; i++) await rollout.step();
    })();
    await expect(failing).rejects.toThrow("logits are not finite");
  });
});
