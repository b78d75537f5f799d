/** A damaged or hostile chat template gives a one-line error: it neither fills memory nor loops forever. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadChatTemplate } from "../../src/tokenizer/chat-template.ts";

const doubling = (step: string) => `{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}${step}{% endfor %}`;

test.each([
  ["{{ messages | tojson(indent=999999999) }}", /more than 10000000 characters or items/],
  [doubling("{% set ns.x = ns.x + ns.x %}"), /more than 10000000 characters/],
  [doubling("{% set ns.x = ns.x ~ ns.x %}"), /more than 10000000 characters/],
  ["{{ 1 }}".repeat(200_000), /a template of more than 1000000 characters/],
  ["{{ 'a'.ljust(999999999) }}", /more than 100000 characters/],
  ["{{ '%999999999d' % 1 }}", /more than 100000 characters/],
  ["{% for a in range(9000) %}{% for b in range(9000) %}{% set c = b %}{% endfor %}{% endfor %}", /1000000 statements/],
  [
    "{% for a in range(90000) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}",
    /an output of more than 10000000/,
  ],
])("%#", (template, said) => {
  const folder = mkdtempSync(join(tmpdir(), "template-limits-"));
  writeFileSync(join(folder, "chat_template.jinja"), template);
  const { render } = loadChatTemplate(folder, {}, {})!;
  const messages = [{ role: "user", content: "x" }];
  for (let twice = 0; twice < 2; twice++) expect(() => render(messages, { addGenerationPrompt: true })).toThrow(said);
  rmSync(folder, { recursive: true });
});
