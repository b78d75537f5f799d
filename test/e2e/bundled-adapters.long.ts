/** `grpo train --use_peft` with defaults learns: accuracy on held-out problems rises, and sampler and trainer agree to the bit. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { runTrain } from "../../src/cli/train.ts";
import { argvOf, metricsOf, quietConsole, workFolder } from "./runs.ts";

setDefaultTimeout(600_000);

const work = workFolder();
afterAll(work.remove);

test.each([
  ["q_proj,v_proj", 0.25],
  ["all-linear", 0.35],
])("adapters of %s", async (targets, rise) => {
  const { console } = quietConsole();
  const outputDir = work.at(targets);
  const flags = { use_peft: true, lora_r: 16, lora_target_modules: targets, output_dir: outputDir };
  const argv = argvOf({ device: "cpu", log_completions: false, ...flags });
  expect(await runTrain({ argv, console, stopRequested: () => false })).toBe(0);
  const records = metricsOf(outputDir);
  const accuracies = records.flatMap(({ eval_accuracy: accuracy }) =>
    accuracy === undefined ? [] : [Number(accuracy)],
  );
  expect(accuracies.at(-1)! - accuracies[0]!).toBeGreaterThanOrEqual(rise);
  for (const record of records)
    if (record.loss !== undefined) expect(record["sampling/sampling_logp_difference/max"]).toBe(0);
});
