/** docs/recipes.md against the program: every name in its tables is a setting, a name taken for one, or one refused with a cure. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { configFor } from "../../src/config/load.ts";
import { presetNames } from "../../src/config/presets.ts";
import { commandSections, commandsWith, settingsOf } from "../../src/config/schema.ts";
import { aliases, cureFor } from "../../src/config/trl.ts";

const text = readFileSync(join(import.meta.dir, "../../docs/recipes.md"), "utf8");
const cells = text.split("\n").map((line) =>
  line
    .split("|")
    .slice(1, -1)
    .map((cell) => cell.trim()),
);
const rows = cells.filter(({ length, 0: what }) => length === 5 && what !== "what" && what !== "---");
const codes = (cell: string) => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1]!);
const keyOf = (code: string) => code.split(" = ")[0]!;

test("the tables are read", () => {
  expect(rows.length).toBeGreaterThan(40);
});

describe("what others call it", () => {
  for (const [what, trl, verl, openRlhf, here] of rows as [string, string, string, string, string][]) {
    test(what, () => {
      const own = codes(here);
      expect(own).not.toBeEmpty();
      for (const code of own) {
        expect(commandsWith(keyOf(code)), code).toContain("train");
        const value = code.split(" = ")[1];
        if (value !== undefined) expect(() => configFor("train", [`--${keyOf(code)}`, value])).not.toThrow();
      }
      for (const code of [trl, verl, openRlhf].flatMap(codes)) {
        const key = keyOf(code);
        const known = commandsWith(aliases[key] ?? key).length > 0;
        expect(known || cureFor(key) !== undefined, code).toBe(true);
      }
    });
  }
});

test("every preset has its row and its command line", () => {
  for (const name of presetNames) {
    expect(text).toContain(`| \`${name}\` | `);
    const line = text.split("\n").find((each) => each.startsWith("grpo train") && `${each} `.includes(` ${name} `))!;
    const { config } = configFor("train", line.split(" ").slice(2));
    expect(config.preset).toBe(name);
  }
});

test("a cure names settings that there are", () => {
  const known = new Set(Object.keys(commandSections).flatMap((command) => Object.keys(settingsOf(command as "train"))));
  for (const code of rows.flatMap((row) => row.slice(1, 4)).flatMap((cell) => codes(cell!))) {
    const named = /^use (\w+)/.exec(cureFor(keyOf(code)) ?? "")?.[1];
    if (named !== undefined && named !== "the") expect(known, code).toContain(named);
  }
});

test("another trainer's name is refused with ours, also behind its path", () => {
  for (const flag of ["--adv_estimator", "--algorithm.adv_estimator"])
    expect(() => configFor("train", [flag, "rloo"])).toThrow(`${flag}: not a setting here; use advantage_estimator`);
});
