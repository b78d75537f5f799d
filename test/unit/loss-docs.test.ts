/** docs/losses.md: it has a row for every loss and estimator of the tables, and names no setting that there isn't. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { scheduleNames } from "../../src/config/schedules.ts";
import { settingsOf } from "../../src/config/schema.ts";
import { advantageSettings, lossSettings, ppoSettings } from "../../src/config/settings/loss.ts";
import { ESTIMATORS } from "../../src/grpo/estimators/estimators.ts";
import { LOSS_TYPES } from "../../src/grpo/loss/loss-types.ts";
import { metricNames } from "../../src/metrics/names.ts";

const text = readFileSync(join(import.meta.dir, "../../docs/losses.md"), "utf8");

test("every loss type and estimator has a row, and the schema offers the same ones", () => {
  const names = { estimators: Object.keys(ESTIMATORS), types: Object.keys(LOSS_TYPES) };
  for (const name of [...names.estimators, ...names.types]) expect(text).toContain(`\n| \`${name}\``);
  expect(advantageSettings.advantage_estimator.unwrap().options.toSorted()).toEqual(
    names.estimators.toSorted() as never,
  );
  expect(lossSettings.loss_type.unwrap().options.toSorted()).toEqual(names.types.toSorted() as never);
});

test("settings that it names exist, and all but a loss's own parameters are named", () => {
  // Metrics and schedules are named there too.
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
  ]);
  expect(named.filter((name) => !known.has(name) && !values.has(name))).toEqual([]);
  const ours = Object.keys({ ...advantageSettings, ...lossSettings, ...ppoSettings });
  const own = /^(sapo|vespo|importance_sampling_clip)_|^(epsilon|epsilon_high|delta|beta|gamma|lam|kl_estimator)$/;
  expect(ours.filter((name) => !own.test(name) && !named.includes(name))).toEqual([]);
});
