import { describe, expect, test } from "bun:test";
import { InputError, RunError } from "../../src/errors.ts";
import { planOptional } from "../../src/session/gradient-checkpointing.ts";
import { describeMemory, estimateMemory, memoryByModel, requireMemory } from "../../src/session/memory.ts";
import { liveBytes, placeTensors, planMemory } from "../../src/tensor/plan.ts";
import { byteLength } from "../../src/tensor/tensor.ts";

function examplePlan() {
  const plan = planMemory();
  plan.add("weights", "w", "bfloat16", [33, 7]);
  plan.add("cache", "kv", "float32", [100], ["rollout"]);
  plan.add("gradients", "g", "float32", [50], ["update"]);
  plan.add("both", "shared", "int32", [9], ["rollout", "update"]);
  plan.add("activations", "x", "float32", [300], ["update"]);
  return plan.build();
}

describe("memory plan", () => {
  const overlaps = (a: string, b: string): boolean => {
    const tensors = placeTensors(examplePlan(), 4096);
    const [x, y] = [tensors.get(a)!, tensors.get(b)!];
    return x.address < y.address + byteLength(y) && y.address < x.address + byteLength(x);
  };

  test("buffers that live at the same time never share memory", () => {
    for (const [a, b] of [
      ["w", "kv"],
      ["w", "g"],
      ["w", "shared"],
      ["shared", "kv"],
      ["shared", "g"],
      ["shared", "x"],
      ["g", "x"],
    ] as const)
      expect([a, b, overlaps(a, b)]).toEqual([a, b, false]);
  });

  test("buffers of different phases do", () => {
    expect(overlaps("kv", "g") || overlaps("kv", "x")).toBe(true);
  });

  test("buffers of different stages of a phase share memory, and the phase takes as much as its largest stage", () => {
    const plan = planMemory();
    plan.add("weights", "w", "float32", [32]);
    plan.add("inputs", "inputs", "float32", [64], ["update"]);
    plan.add("activations", "qkv", "float32", [96], ["update"], ["mlp", "attention"]);
    plan.add("activations", "logits", "float32", [256], ["update"], ["head"]);
    plan.add("activations", "gate", "float32", [128], ["update"], ["mlp"]);
    plan.add("activations", "dqkv", "float32", [32], ["update"], ["attention"]);
    plan.add("cache", "kv", "float32", [320], ["rollout"]);
    const built = plan.build();
    const at = (name: string) => built.offsets.get(name)! / 4;
    expect([at("w"), at("inputs"), at("qkv"), at("logits"), at("gate"), at("dqkv")]).toEqual([0, 32, 96, 96, 192, 192]);
    expect([built.phaseBytes.get("update"), built.phaseBytes.get("rollout")]).toEqual([4 * 352, 4 * 352]);
    expect(liveBytes(built.buffers, "update")).toBe(4 * 352);
    expect(liveBytes(built.buffers, "rollout")).toBe(4 * 352);
    const lines = describeMemory({
      plan: built,
      scratchBytes: 0,
      programBytes: 0,
      completionBytes: 0,
      reserveBytes: 0,
      peakBytes: 0,
    });
    const text = lines.join("\n");
    for (const when of ["update, layers", "update, mlp", "update, head", "update, attention"])
      expect(text).toContain(`activations                        ${when}`);
    expect(text).toMatch(/planned buffers during update +0\.0/);
  });

  test("the total is the larger phase, every buffer inside it and aligned", () => {
    const plan = examplePlan();
    const round = (bytes: number) => Math.ceil(bytes / 128) * 128;
    expect(plan.totalBytes).toBe(round(33 * 7 * 2) + round(9 * 4) + round(50 * 4) + round(300 * 4));
    for (const t of placeTensors(plan, 0).values()) {
      expect(t.address % 128).toBe(0);
      expect(t.address + byteLength(t)).toBeLessThanOrEqual(plan.totalBytes);
    }
  });

  test("a name is used once", () => {
    const plan = planMemory();
    plan.add("a", "x", "float32", [1]);
    expect(() => plan.add("b", "x", "float32", [1])).toThrow("two buffers named x");
  });

  test("adds up by model: its permanent buffers, plus its largest phase", () => {
    const plan = planMemory();
    plan.add("weights", "w", "float32", [100]);
    plan.add("cache", "kv", "float32", [30], ["rollout"]);
    plan.add("activations", "x", "float32", [20], ["update"]);
    plan.add("gradients", "g", "float32", [25], ["update"]);
    const critic = plan.of("critic");
    critic.add("critic weights", "c", "bfloat16", [50]);
    critic.add("critic activations", "cx", "float32", [60], ["critic"]);
    plan.of("reward model").add("scores", "r", "float32", [10], ["rollout", "scoring"]);
    expect(memoryByModel(plan.build())).toEqual([
      { model: "policy", heldBytes: 400, phaseBytes: 180 },
      { model: "critic", heldBytes: 100, phaseBytes: 240 },
      { model: "reward model", heldBytes: 0, phaseBytes: 40 },
    ]);
    expect(() => critic.add("b", "x", "float32", [1])).toThrow("two buffers named x");
  });

  test("optional buffers fill the free share of the memory, or what another phase takes anyway", () => {
    const fill = (freeBytes: number | null, phase: "rollout" | "update", most = 5) => {
      const plan = planMemory();
      plan.add("weights", "w", "float32", [1024]);
      plan.add("cache", "kv", "float32", [1024], ["rollout"]);
      plan.add("gradients", "g", "float32", [256], ["update"]);
      const bytes = Array.from({ length: most }, () => 1024);
      const add = (count: number) => {
        for (let i = 0; i < count; i++) plan.add("kept", `kept ${i}`, "float32", [256], [phase]);
      };
      const peakOf = ({ totalBytes }: { totalBytes: number }) => totalBytes + 100;
      const device = { freeBytes: () => freeBytes, description: "a device" };
      const layout = planOptional(plan, [{ phase, bytes, plan: add }], peakOf, device);
      return { count: layout.buffers.length - 3, totalBytes: layout.totalBytes };
    };
    expect(fill(0, "update")).toEqual({ count: 3, totalBytes: 8192 });
    expect(fill(0, "rollout")).toEqual({ count: 0, totalBytes: 8192 });
    const enoughFor = (count: number) => Math.ceil((8192 + 1024 * count + 100) / 0.9);
    expect(fill(enoughFor(2), "rollout")).toEqual({ count: 2, totalBytes: 8192 + 2048 });
    expect(fill(enoughFor(2) - 2, "rollout")).toEqual({ count: 1, totalBytes: 8192 + 1024 });
    expect(fill(null, "rollout")).toEqual({ count: 5, totalBytes: 8192 + 5 * 1024 }); // a host has more than this
  });

  test("prints every group with its lifetime, and the peak", () => {
    const bytes = {
      scratchBytes: 1 << 20,
      programBytes: 64 << 20,
      completionBytes: 0,
      reserveBytes: 0,
      peakBytes: 66 << 20,
    };
    const estimate = { plan: examplePlan(), ...bytes };
    const text = describeMemory(estimate).join("\n");
    for (const name of ["weights", "cache", "gradients", "both", "activations"]) expect(text).toContain(name);
    expect(text).toMatch(/both +rollout, update/);
    expect(text).toMatch(/peak +66\.0/);
    expect(text).toContain("program (estimate)");
    expect(text).not.toContain("driver and libraries");
  });

  test("a GPU's plan shows what driver and libraries load, and nothing of the host's", () => {
    const plan = examplePlan();
    const estimate = estimateMemory(plan, 3 << 20, true);
    const { reserveBytes } = estimate;
    expect(reserveBytes).toBeGreaterThanOrEqual(256 << 20);
    expect(estimate).toEqual({
      ...{ plan, scratchBytes: 3 << 20, programBytes: 0, completionBytes: 0, reserveBytes },
      peakBytes: plan.totalBytes + (3 << 20) + reserveBytes,
    });
    const lines = describeMemory(estimate);
    const line = lines.find((each) => each.startsWith("driver and libraries (estimate)"));
    expect(line).toEndWith(` ${(reserveBytes / 2 ** 20).toFixed(0)}`);
    expect(lines.join("\n")).not.toContain("program");
    expect(estimateMemory(plan, 0).reserveBytes).toBe(0);
  });

  test("a plan that the machine cannot hold is refused before anything is allocated, with the largest parts", () => {
    const plan = planMemory();
    plan.add("key-value cache", "kv", "float32", [2 ** 50], ["rollout"]);
    const built = plan.build();
    const estimate = {
      ...{
        plan: built,
        scratchBytes: 0,
        programBytes: 0,
        completionBytes: 0,
        reserveBytes: 0,
        peakBytes: built.totalBytes,
      },
    };
    const host = { description: "CPU", freeBytes: () => null };
    expect(() => requireMemory(estimate, host)).toThrow(InputError);
    expect(() => requireMemory(estimate, host)).toThrow(/key-value cache .*max_concurrent_sequences/);
  });

  test("on a device with its own memory, the free memory there decides", () => {
    const built = examplePlan();
    const estimate = estimateMemory(built, 0, true);
    const free = (bytes: number) => ({ description: "GPU", freeBytes: () => bytes });
    requireMemory(estimate, free(built.totalBytes + estimate.reserveBytes));
    expect(() => requireMemory(estimate, free(built.totalBytes + estimate.reserveBytes - 1))).toThrow(RunError);
    const kept = (estimate.reserveBytes / 2 ** 20).toFixed(0);
    expect(() => requireMemory(estimate, free(0))).toThrow(
      new RegExp(
        `MiB, ${kept} of them reserved for the driver and libraries, and 0.0 MiB are free on GPU .*micro_batch_t`,
      ),
    );
  });
});
