/** Chat templates render as in transformers: compared with texts recorded by test/golden/make_chat_renders.py. */
import { afterAll, beforeAll, describe, expect, setSystemTime, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Message } from "../../src/message.ts";
import { chatTemplateOf } from "../../src/tokenizer/chat-template.ts";
import { ChatTemplateProgram, TemplateFault } from "../../src/tokenizer/jinja/environment.ts";

interface Conversation {
  readonly messages: readonly Message[];
  readonly kwargs: Readonly<Record<string, unknown>>;
  readonly add_generation_prompt: boolean;
}

/** A text, or null if Python raises an error. */
type Recorded = string | null;

const golden = join(import.meta.dir, "../golden");
const recorded = JSON.parse(readFileSync(join(golden, "chat-renders.json"), "utf8")) as {
  readonly variables: Readonly<Record<string, unknown>>;
  readonly tokens: Readonly<Record<string, string>>;
  readonly conversations: readonly Conversation[];
  readonly expressions: readonly (readonly [string, Recorded])[];
  readonly statements: readonly (readonly [string, Recorded])[];
  readonly renders: Readonly<Record<string, readonly Recorded[]>>;
};

// The time of the recordings, for templates that name the day.
beforeAll(() => void setSystemTime(new Date(2025, 2, 4, 5, 6, 7)));
afterAll(() => void setSystemTime());

/** Errors that the template itself raises; others are ours. */
function orNull(render: () => string, isExpected: (error: unknown) => boolean): Recorded {
  try {
    return render();
  } catch (error) {
    if (isExpected(error)) return null;
    throw error;
  }
}

const snippet = (source: string) =>
  orNull(
    () => new ChatTemplateProgram(source).render(recorded.variables),
    (error) => error instanceof TemplateFault,
  );

test("expressions give the same results as jinja2, and errors where it raises one", () => {
  const ours = recorded.expressions.map(([source]) => [source, snippet(`{{ ${source} }}`)]);
  expect(ours).toEqual(recorded.expressions.map(([source, text]) => [source, text]));
  expect(ours.filter(([, text]) => text !== null).length).toBeGreaterThan(500);
});

test("statements and white space around tags likewise", () => {
  const ours = recorded.statements.map(([source]) => [source, snippet(source)]);
  expect(ours).toEqual(recorded.statements.map(([source, text]) => [source, text]));
});

describe("public templates on hostile conversations", () => {
  const files = readdirSync(join(golden, "chat-templates")).filter((name) => name.endsWith(".jinja"));
  test("there is a recording of each", () => {
    expect(Object.keys(recorded.renders).sort()).toEqual(files.map((name) => name.replace(/\.jinja$/, "")).sort());
    expect(files.length).toBeGreaterThanOrEqual(12);
  });
  test.each(Object.entries(recorded.renders))("%s", (name, expected) => {
    const source = readFileSync(join(golden, "chat-templates", `${name}.jinja`), "utf8");
    const template = chatTemplateOf(source, name, recorded.tokens);
    const ours = recorded.conversations.map(({ messages, kwargs, add_generation_prompt }) =>
      orNull(
        () => template.render(messages, { addGenerationPrompt: add_generation_prompt, kwargs }),
        (error) => (error as Error).message.startsWith(`${name}: `),
      ),
    );
    expect(ours).toEqual([...expected]);
    // A recording with only errors would prove nothing.
    expect(ours.filter((text) => text !== null).length).toBeGreaterThan(recorded.conversations.length / 3);
  });
});

test("endless loops and excessive memory use are refused", () => {
  const sources = ["range(10 ** 9)", "'a' * 10 ** 9", "9 ** 99999", "'a'.ljust(10 ** 9)", "'%999999999d' % 1"];
  for (const source of sources)
    expect(() => new ChatTemplateProgram(`{{ ${source} }}`).render({})).toThrow(TemplateFault);
});
