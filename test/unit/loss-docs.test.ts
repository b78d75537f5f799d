/** docs/losses.md: it has a row for every loss and estimator in the tables, and names only existing settings. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { toSnake } from "../../src/config/names.ts";
import { scheduleNames } from "../../src/config/schedules.ts";
import { settingsOf } from "../../src/config/schema.ts";
import { advantageSettings, lossSettings, ppoSettings } from "../../src/config/settings/loss.ts";
import { ESTIMATORS } from "../../src/grpo/estimators/estimators.ts";
import { LOSS_DEFAULTS } from "../../src/grpo/loss/config.ts";
import { LOSS_TYPES } from "../../src/grpo/loss/loss-types.ts";
import { formatRollout } from "../../src/grpo/rollout-file.ts";
import { metricNames } from "../../src/metrics/names.ts";

const text = readFileSync(join(import.meta.dir, "../../docs/losses.md"), "utf8");

test("every loss type and estimator has a row, and the schema has the same ones", () => {
  const names = { estimators: Object.keys(ESTIMATORS), types: Object.keys(LOSS_TYPES) };
  for (const name of [...names.estimators, ...names.types]) expect(text).toContain(`\n| \`${name}\``);
  expect(advantageSettings.advantage_estimator.unwrap().options.toSorted()).toEqual(
    names.estimators.toSorted() as never,
  );
  expect(lossSettings.loss_type.unwrap().options.toSorted()).toEqual(names.types.toSorted() as never);
});

/** All keys of a line in a rollout file. */
const floats = Float64Array.of(-1);
const rolloutKeys = Object.keys(
  JSON.parse(
    formatRollout(
      { group: 0, promptIds: Int32Array.of(1) },
      {
        ...{ completionIds: Int32Array.of(2), mask: Uint8Array.of(1), finished: true, reward: 1 },
        ...{ rewards: { a: 1 }, rewardWeights: { a: 1 }, advantages: 1, step: 1, place: 0 },
        ...{ oldLogprobs: floats, refLogprobs: floats, samplingLogprobs: floats },
      },
    ),
  ) as object,
);

test("the API's loss defaults equal the settings', except for the blocks of bnpo, which it leaves out", () => {
  const settings = settingsOf("train") as Record<string, { parse: (value: unknown) => unknown }>;
  const byDefault = (name: string) => settings[toSnake(name)]!.parse(undefined);
  const { perDeviceTrainBatchSize, ...others } = LOSS_DEFAULTS;
  expect(Object.fromEntries(Object.keys(others).map((name) => [name, byDefault(name)]))).toEqual({ ...others });
  expect(perDeviceTrainBatchSize).toBeNull();
});

test("every key of a rollout is in its table", () => {
  const table = text.slice(text.indexOf("### Rollouts of other programs"), text.indexOf("Tokens whose `mask` is 0"));
  expect(rolloutKeys.filter((key) => !table.includes(`\`${key}\``))).toEqual([]);
});

test("settings that it names exist, and all are named except a loss's own parameters", () => {
  // Metrics and schedules are also named there.
  const known = new Set([
    ...Object.keys(settingsOf("train")),
    ...metricNames.map(({ name }) => name),
    ...scheduleNames,
  ]);
  const named = [...text.matchAll(/`([a-z]+(?:_[a-z]+)+)(?: = \w+)?`/g)].map((match) => match[1]!);
  const values = new Set([
    ...Object.keys(ESTIMATORS),
    ...Object.keys(LOSS_TYPES),
    "normalize_then_sum",
    "num_items_in_batch",
    ...rolloutKeys,
  ]);
  expect(named.filter((name) => !known.has(name) && !values.has(name))).toEqual([]);
  const ours = Object.keys({ ...advantageSettings, ...lossSettings, ...ppoSettings });
  const own = /^(sapo|vespo|importance_sampling_clip)_|^(epsilon|epsilon_high|delta|beta|gamma|lam|kl_estimator)$/;
  expect(ours.filter((name) => !own.test(name) && !named.includes(name))).toEqual([]);
});
