/** Damage to chat templates, by their tokens. */
import type { Random } from "../random.ts";
import { type Mutation, ofText } from "./mutation.ts";

const tokens = /\{%-?|-?%\}|\{\{-?|-?\}\}|"[^"]*"|'[^']*'|\w+|\s+|./gsu;

const snippets = [
  "{% for i in range(999999999) %}x{% endfor %}",
  "{% for i in range(3, -999999999, -1) %}{{ i }}{% endfor %}",
  "{{ range(99999999999) }}",
  "{{ range(0, 10, 0) }}",
  "{% for a in range(3000) %}{% for b in range(3000) %}{% for c in range(3000) %}x{% endfor %}{% endfor %}{% endfor %}",
  "{% set x = 'aaaaaaaaaaaaaaaa' %}{% for i in range(40) %}{% set x = x + x %}{% endfor %}{{ x }}",
  "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
  "{{ 'a' * 999999999 }}",
  "{{ 'a' * 99999 * 99999 }}",
  "{{ 'a'.ljust(999999999) }}",
  "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
  "{{ messages | tojson(indent=999999999) }}",
  "{{ ('(' * 50).join('aaaa') }}",
  `${"{{ ".repeat(3)}${"(".repeat(5000)}`,
  `{{ ${"(".repeat(3000)}1${")".repeat(3000)} }}`,
  `{{ ${"not ".repeat(10000)}1 }}`,
  `{{ ${"[".repeat(3000)}${"]".repeat(3000)} }}`,
  `${"{% if 1 %}".repeat(3000)}x${"{% endif %}".repeat(3000)}`,
  `{{ 1${"+1".repeat(20000)} }}`,
  "{{ messages[99999999999] }}",
  "{{ messages['__proto__'] }}{{ messages.constructor }}{{ ''.constructor.constructor('return process')() }}",
  "{{ 1 // 0 }}{{ 1 % 0 }}{{ 1 / 0 }}",
  "{{ messages[0].content[::0] }}",
  "{{ raise_exception('stop\nhere') }}",
  "{{ raise_exception() }}",
  "{{ strftime_now('%' * 9) }}{{ strftime_now(1) }}",
  "{{ nobody }}{{ nobody.knows }}",
  "{# never closed",
  "{% raw %}{{",
  "{% include 'x' %}",
  "{{ cycler }}{{ joiner }}{{ lipsum(9999999) }}",
  "{% for m in messages %}{% for k in messages %}{{ loop.index }}{% endfor %}{% break %}{% endfor %}",
];

const words = [
  "messages",
  "loop",
  "none",
  "0",
  "-1",
  "1e9",
  "message",
  "[]",
  "{}",
  "''",
  "add_generation_prompt",
  "in",
];

function editTokens(text: string, random: Random, edit: (list: string[], at: number) => void): string | null {
  const list = [...text.matchAll(tokens)].map((match) => match[0]);
  if (list.length === 0) return null;
  edit(list, random.below(list.length));
  return list.join("");
}

export const templateDamage: readonly Mutation[] = [
  ofText("a token missing", (text, random) => editTokens(text, random, (list, at) => list.splice(at, 1))),
  ofText("a token twice", (text, random) => editTokens(text, random, (list, at) => list.splice(at, 0, list[at]!))),
  ofText("a token of another kind", (text, random) =>
    editTokens(text, random, (list, at) => list.splice(at, 1, random.pick(words))),
  ),
  ofText("two tokens swapped", (text, random) =>
    editTokens(text, random, (list, at) => {
      const other = random.below(list.length);
      [list[at], list[other]] = [list[other]!, list[at]!];
    }),
  ),
  ofText("some tokens missing", (text, random) =>
    editTokens(text, random, (list, at) => list.splice(at, 1 + random.below(8))),
  ),
  ofText("a snippet before it", (text, random) => random.pick(snippets) + text),
  ofText("a snippet instead", (_, random) => random.pick(snippets)),
  ofText("a snippet within", (text, random) =>
    editTokens(text, random, (list, at) => list.splice(at, 0, random.pick(snippets))),
  ),
  ofText("a thousand times over", (text) => text.repeat(1000)),
];

/** A chat template in a JSON file, damaged there. */
export function templateWithin(damage: readonly Mutation[], key = "chat_template"): Mutation[] {
  return damage.map((mutation) =>
    ofText(`${key}: ${mutation.name}`, (text, random) => {
      let json: Record<string, unknown> | null;
      try {
        json = JSON.parse(text) as Record<string, unknown> | null;
      } catch {
        return null;
      }
      if (typeof json?.[key] !== "string") return null;
      const changed = mutation.apply(new TextEncoder().encode(json[key]), random);
      if (!(changed instanceof Uint8Array)) return null;
      return JSON.stringify({ ...json, [key]: new TextDecoder().decode(changed) });
    }),
  );
}

export const templateNeutral: readonly Mutation[] = [
  ofText("a comment before it", (text) => `{# nobody reads this #}${text}`, true),
];
