/** docs/settings.md is what the schema says, and has every setting of every command. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { settingsPage } from "../../release/settings.ts";
import { type CommandName, commandSections, settingsOf } from "../../src/config/schema.ts";

const page = readFileSync(join(import.meta.dir, "../../docs/settings.md"), "utf8");

test("docs/settings.md is up to date; if not: bun release/settings.ts", () => {
  expect(page).toBe(settingsPage());
});

test("every setting of every command is named in its command's part", () => {
  for (const command of Object.keys(commandSections) as CommandName[]) {
    const start = page.indexOf(`\n## ${command}\n`);
    const end = page.indexOf("\n## ", start + 4);
    const part = page.slice(start, end < 0 ? undefined : end);
    expect(start).toBeGreaterThan(0);
    if (command === "plan") expect(part).toContain("Takes every setting of `train`");
    const own = Object.keys(settingsOf(command)).filter((key) => command !== "plan" || !(key in settingsOf("train")));
    expect(own.filter((key) => !part.includes(`\`${key}\``))).toEqual([]);
  }
});
