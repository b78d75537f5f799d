/** `grpo generate` as a chat and `grpo init`'s questions, in a real terminal (a pseudo-terminal of Bun's), on the bundled model. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Conversation } from "../../src/cli/conversation.ts";
import { configFor } from "../../src/config/load.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { grpo, root, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

/** A command in a terminal. */
function inTerminal(...args: string[]) {
  let shown = "";
  const take = (_: unknown, bytes: Uint8Array): void => {
    shown += Bun.stripANSI(new TextDecoder().decode(bytes));
  };
  const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), ...args], {
    cwd: work.path,
    env: { ...process.env, TERM: "xterm" },
    terminal: { cols: 100, rows: 40, data: take },
  });
  return {
    /** Waits for this to appear after what was waited for before. */
    async until(pattern: RegExp): Promise<string> {
      for (let i = 0; i < 1200; i++) {
        const found = pattern.exec(shown);
        if (found) {
          const before = shown.slice(0, found.index + found[0].length);
          shown = shown.slice(before.length);
          return before;
        }
        await Bun.sleep(25);
      }
      child.kill("SIGKILL");
      throw new Error(`no ${pattern} in ${JSON.stringify(shown)}`);
    },
    type: (keys: string) => void child.terminal!.write(keys),
    exited: child.exited,
  };
}

test("a chat: answers, commands, editing, a saved conversation; Ctrl-D leaves", async () => {
  const chat = inTerminal("generate", "--device", "cpu", "--max_completion_length", "24");
  await chat.until(/with room for 512 tokens.*> /s);
  chat.type("What is 3 + 4?\r");
  expect(await chat.until(/\n> /)).toMatch(/#### \d/);
  chat.type("/sytem x\r");
  await chat.until(/did you mean \/system\?/);
  chat.type("/temperature 0.7\r");
  await chat.until(/temperature 0\.7\s+> /);
  chat.type("/top_p 2\r");
  await chat.until(/top_p 2: must be a number > 0 and ≤ 1/);
  // Up twice: the history.
  chat.type("\x1b[A\x1b[A\x7f3\r");
  await chat.until(/temperature 0\.3/);
  chat.type("/system Be brief.\r");
  await chat.until(/the system message is set/);
  chat.type("given up\x03");
  await chat.until(/Ctrl-D leaves/);
  chat.type("And 2 plus 5?\r");
  await chat.until(/And 2 plus 5\?\s[\s\S]*?\n> /);
  chat.type("/save talk.jsonl\r");
  await chat.until(/saved talk\.jsonl/);
  chat.type("/save talk.jsonl\r");
  await chat.until(/talk\.jsonl exists; name another file/);
  chat.type("\x04");
  expect(await chat.exited).toBe(0);
  const { messages } = JSON.parse(readFileSync(work.at("talk.jsonl"), "utf8"));
  expect(messages.map(({ role }: { role: string }) => role)).toEqual([
    "system",
    "user",
    "assistant",
    "user",
    "assistant",
  ]);
  expect(messages[3].content).toBe("And 2 plus 5?");
});

test("Ctrl-C stops the answer, not the chat", async () => {
  const tokenizer = join(import.meta.dir, "../fixtures/tokenizer");
  // Random weights go on without end.
  const model = await writeTinyModel(work.at("endless"), { head: "lm", vocabSize: 360, context: 4096, tokenizer });
  const chat = inTerminal("generate", "--device", "cpu", "--model", model, "--max_completion_length", "4000");
  await chat.until(/> /);
  chat.type("Tell me.\r");
  await chat.until(/Tell me\.\s+\S/);
  chat.type("\x03");
  await chat.until(/\(stopped\)[\s\S]*> /);
  chat.type("/exit\r");
  expect(await chat.exited).toBe(0);
});

test("without a terminal there is no chat", async () => {
  const { code, err } = await grpo(["generate", "--device", "cpu"]);
  expect({ code, err }).toEqual({ code: 2, err: "grpo generate: give --prompt TEXT or --input FILE.jsonl\n" });
});

test("lines of a chat", () => {
  const talk = new Conversation({ temperature: 0.5 }, true);
  expect(talk.take("  ").next).toBe("nothing");
  expect(talk.take("/retry").say).toBe("there is nothing to answer");
  expect(talk.take("hello").next).toBe("answer");
  expect(talk.prompt()).toEqual([{ role: "user", content: "hello" }]);
  talk.answered("hi");
  const { seed } = talk.sampling();
  expect(talk.take("/retry").next).toBe("answer");
  talk.answered("");
  expect(talk.prompt()).toEqual([]);
  expect(talk.sampling().seed).toBe(seed! + 1);
  expect(talk.take("/temperature").say).toBe("temperature 0.5");
  expect(talk.take("/max_completion_length").say).toBe("max_completion_length 512");
  expect(talk.take("/reset").say).toContain("forgotten");
  expect(talk.take("/exit").next).toBe("leave");
  const plain = new Conversation({}, false);
  plain.take("once");
  plain.answered("upon");
  plain.take("a time");
  expect(plain.prompt()).toBe("a time");
});

test("init asks three questions on a terminal, and train takes the file as it is", async () => {
  const init = inTerminal("init", "asked.toml", "--device", "cpu");
  await init.until(/Model, .*: /);
  init.type("\r");
  await init.until(/Data, .*: /);
  init.type("\r");
  await init.until(/Memory, .*: /);
  init.type("200MiB\r");
  await init.until(/wrote asked\.toml/);
  expect(await init.exited).toBe(0);
  const { config } = configFor("train", [work.at("asked.toml")]);
  expect(config).toMatchObject({ model: null, dataset: null, device: "cpu", maxSteps: 40, learningRate: 1.5e-4 });
  const { code } = await grpo(["train", work.at("asked.toml"), "--max_steps", "1", "--output_dir", work.at("asked")]);
  expect(code).toBe(0);
  expect(existsSync(work.at("asked/model.safetensors"))).toBe(true);
});

test("init takes flags, replaces no file, and refuses a memory that is none", async () => {
  const file = work.at("flags.toml");
  const flags = ["--model", "no/such-model", "--dataset", "no/such-data", "--memory", "RTX 4090"];
  expect((await grpo(["init", file, ...flags])).code).toBe(0);
  const text = readFileSync(file, "utf8");
  expect(text).toContain('\nmodel = "no/such-model"\n');
  expect(configFor("train", [file]).config).toMatchObject({ model: "no/such-model", dataset: "no/such-data" });
  const again = await grpo(["init", file, ...flags]);
  expect(again).toMatchObject({
    code: 2,
    err: `grpo init: ${file} exists and is not replaced; name another file, or remove it\n`,
  });
  expect(readFileSync(file, "utf8")).toBe(text);
  const wrong = await grpo(["init", work.at("wrong.toml"), "--memory", "RTX 4091"]);
  expect(wrong).toMatchObject({ code: 2, err: 'grpo init: memory "RTX 4091": did you mean RTX 4090?\n' });
  // Every line that is a comment with a setting is accepted once the # is taken away.
  const active = text.replace(/^# (\w+ = )(?!"…"|\["…"\])/gm, "$1");
  writeFileSync(file, active);
  expect(() => configFor("train", [file])).not.toThrow();
});
