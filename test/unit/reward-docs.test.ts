/** docs/rewards.md: its examples run, and it lists every built-in reward and parameter with its current default. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configFor } from "../../src/config/load.ts";
import { builtInRewards } from "../../src/config/reward-names.ts";
import { settingsOf } from "../../src/config/schema.ts";
import { rewardFunctionSettings } from "../../src/config/settings/rewards.ts";
import { createRewardPool } from "../../src/rewards/pool/pool.ts";

const text = readFileSync(join(import.meta.dir, "../../docs/rewards.md"), "utf8");
const blocks = (language: string) =>
  [...text.matchAll(new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, "gs"))].map((m) => m[1]!);
const folder = mkdtempSync(join(tmpdir(), "grpo-docs-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("every built-in has a row, and no row names anything else", () => {
  const rows = text.slice(text.indexOf("## Built-in"), text.indexOf("## Your own")).matchAll(/^\| `(\w+)` \|/gm);
  const names = [...rows].map((match) => match[1]!);
  expect(names.toSorted()).toEqual([...builtInRewards, ...Object.keys(rewardFunctionSettings)].toSorted());
});

test("every parameter is listed with its default", () => {
  for (const [key, setting] of Object.entries(rewardFunctionSettings)) {
    expect(settingsOf("train")[key]).toBe(setting);
    expect(text).toContain(`| \`${key}\` | ${setting.parse(undefined)} |`);
  }
});

test("the settings shown are settings", () => {
  const shown = blocks("toml");
  expect(shown).toHaveLength(2);
  for (const [i, toml] of shown.entries()) {
    const file = join(folder, `${i}.toml`);
    writeFileSync(file, toml);
    expect(configFor("train", [file]).warnings).toEqual([]);
  }
});

test("the modules shown score", async () => {
  const modules = blocks("ts");
  expect(modules).toHaveLength(3);
  const functions = modules.map((source, i) => {
    const path = join(folder, `${i}.ts`);
    writeFileSync(path, source);
    return { path };
  });
  const pool = createRewardPool({ functions, size: 1 });
  const completions = ["7 apples", `7 ${"apples ".repeat(40)}`, "8 apples", "7"];
  const { perFunction } = await pool.score({
    prompts: completions,
    completions,
    completionIds: completions.map(() => [1]),
    golds: completions.map(() => null),
    columns: { answer: ["7", "7", "7", "7"], unit: ["apples", null, "apples", "apples"] },
  });
  expect(perFunction.map(({ rewards }) => rewards)).toEqual([
    [1, 0, 1, 1],
    completions.map((text) => 1 / (1 + text.length / 100)),
    [1, null, 0, 0],
  ]);
  await pool.close();
});
