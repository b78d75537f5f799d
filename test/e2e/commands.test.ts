/** eval and generate on the bundled model: their output, and its agreement with each other's and train's. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../src/tokenizer/tokenizer.ts";
import { writeTinyModel } from "../fixtures/scalar-model.ts";
import { argvOf, bundledModel, type Flags, grpo, metricsOf, problems, reward, train, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
afterAll(work.remove);

const jsonLines = (path: string) =>
  readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

const fixtureTokenizer = join(import.meta.dir, "../fixtures/tokenizer");
const evaluation: Flags = { model: bundledModel, dataset: problems, max_completion_length: 48 };

test("eval writes every answer, and its accuracy is that of train's evaluation", async () => {
  const folder = work.at("eval");
  const flags: Flags = { ...evaluation, eval_samples: 60, output_dir: folder };
  const { code, out, err } = await grpo(["eval", ...argvOf(flags)]);
  expect({ code, err }).toEqual({ code: 0, err: "" });
  const answers = jsonLines(join(folder, "answers.jsonl"));
  expect(answers.length).toBe(60);
  const right = answers.filter(({ correct }) => correct === true).length / 60;
  const results = JSON.parse(readFileSync(join(folder, "results.json"), "utf8")) as {
    accuracy: { value: number; low: number; high: number };
    "pass@1": { value: number };
  };
  expect(results.accuracy.value).toBeCloseTo(right, 10);
  expect(results["pass@1"].value).toBeCloseTo(right, 10);
  expect(results.accuracy.low).toBeLessThan(right);
  expect(results.accuracy.high).toBeGreaterThan(right);
  expect(out).toContain(`accuracy          ${(100 * right).toFixed(1)} %`);
  expect(right).toBeGreaterThan(0.1);

  const trained = work.at("train");
  await train(trained, { max_steps: 1, max_completion_length: 48, eval_dataset: problems, eval_samples: 60 });
  expect(metricsOf(trained)[0]).toMatchObject({ step: 0, eval_accuracy: results.accuracy.value });
});

test("eval scores problems without golds by a module and a reward model, and ends answers at a stop string", async () => {
  const dataset = work.at("questions.jsonl");
  const lines = [2, 3, 4].map((count) => JSON.stringify({ prompt: `Ada has ${count} cups. How many?`, note: "n" }));
  writeFileSync(dataset, `${lines.join("\n")}\n`);
  const judge = await writeTinyModel(work.at("judge"), { vocabSize: 360, tokenizer: fixtureTokenizer });
  const folder = work.at("eval by rewards");
  const flags: Flags = {
    ...{ ...evaluation, dataset, output_dir: folder, num_generations: 2, temperature: 1 },
    ...{ reward_funcs: `${reward("told")},${judge}`, reward_weights: "2,-1", stop: '["1","2"]' },
  };
  const { code, out, err } = await grpo(["eval", ...argvOf(flags)]);
  expect({ code, err }).toEqual({ code: 0, err: "" });
  expect(out).toContain("\nreward            ");
  expect(out).not.toContain("accuracy");
  const answers = jsonLines(join(folder, "answers.jsonl")) as {
    reward: number;
    rewards: { told: number; judge: number };
    extra: object;
    completion: string;
    stop?: string;
  }[];
  expect(answers.length).toBe(6);
  const mean = (of: (answer: (typeof answers)[number]) => number) => answers.reduce((sum, a) => sum + of(a), 0) / 6;
  for (const { reward: total, rewards, extra, completion, stop } of answers) {
    expect(total).toBeCloseTo(2 * rewards.told - rewards.judge, 10);
    expect(extra).toEqual({ told: { letters: completion.length, note: "n" } });
    if (stop !== undefined) expect(completion.endsWith(stop)).toBe(true);
  }
  expect(answers.filter(({ stop }) => stop !== undefined).length).toBeGreaterThan(0);
  const results = JSON.parse(readFileSync(join(folder, "results.json"), "utf8")) as Record<string, { value: number }>;
  expect(results.reward!.value).toBeCloseTo(
    mean(({ reward: total }) => total),
    10,
  );
  expect(results["rewards/judge/mean"]!.value).toBeCloseTo(
    mean(({ rewards }) => rewards.judge),
    10,
  );
  // Outside of training: no steps, progress complete, an evaluation.
  expect(results).toMatchObject({ problems: 3, judged_problems: 0, reward_weights: [2, -1], "told/all": 101 });
  expect(Object.keys(results).filter((name) => /accuracy|pass@|unparsed/.test(name))).toEqual([]);
});

test("eval with several answers estimates pass@k, which grows with k, and maj@k, which is the vote of all at the end", async () => {
  const folder = work.at("pass at k");
  const flags: Flags = { ...evaluation, eval_samples: 20, num_generations: 4, temperature: 1, output_dir: folder };
  expect((await grpo(["eval", ...argvOf(flags)])).code).toBe(0);
  expect(jsonLines(join(folder, "answers.jsonl")).length).toBe(80);
  const results = JSON.parse(readFileSync(join(folder, "results.json"), "utf8")) as Record<string, { value: number }>;
  const [one, two, four] = [1, 2, 4].map((k) => results[`pass@${k}`]!.value) as [number, number, number];
  expect(one).toBeLessThanOrEqual(two);
  expect(two).toBeLessThanOrEqual(four);
  const answers = jsonLines(join(folder, "answers.jsonl")) as {
    row: number;
    answer: string | null;
    correct: boolean;
  }[];
  const elected = [...Map.groupBy(answers, ({ row }) => row).values()].map((given) => {
    const sizes = new Map<string, number>();
    for (const { answer, correct } of given) {
      const group = correct ? "right" : answer;
      if (group !== null) sizes.set(group, (sizes.get(group) ?? 0) + 1);
    }
    const most = Math.max(0, ...sizes.values());
    const winners = [...sizes].filter(([, size]) => size === most);
    return winners.some(([group]) => group === "right") ? 1 / winners.length : 0;
  });
  const vote = elected.reduce((sum, share) => sum + share, 0) / elected.length;
  expect(results["maj@4"]!.value).toBeCloseTo(vote, 10);
  expect(results["maj@1"]!.value).toBeCloseTo(one, 10);
  expect(vote).toBeGreaterThan(0);
});

test("train uses another chat template, passes its ending to rewards, and saves it with the model", async () => {
  const template =
    "{% for m in messages %}Q:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:<think>\n{% endif %}";
  const [file, folder] = [work.at("think.jinja"), work.at("think")];
  writeFileSync(file, template);
  await train(folder, { max_steps: 1, chat_template: file, reward_funcs: reward("opened") });
  expect(metricsOf(folder)[0]).toMatchObject({ "rewards/opened/mean": 1 });
  expect(readFileSync(join(folder, "chat_template.jinja"), "utf8")).toBe(template);
  expect(loadTokenizer(folder).renderChat([{ role: "user", content: "1+1?" }])).toBe("Q:1+1?\nA:<think>\n");
});

test("train evaluates with several answers, and prints the change since its first evaluation", async () => {
  const folder = work.at("train pass at k");
  const flags: Flags = { max_steps: 2, eval_samples: 30, eval_num_generations: 4, output_dir: folder };
  const { out } = await grpo(["train", ...argvOf(flags)]);
  expect(metricsOf(folder)[0]).toMatchObject({ step: 0, "eval_pass@4": expect.any(Number) });
  const [first, last] = out.split("\n").filter((line) => line.startsWith("evaluation at step"));
  expect(first).not.toContain("points since");
  expect(last).toMatch(/[+−]\d+\.\d points since the first evaluation, 95 % interval .*, \d+ better and \d+ worse, p/);
  const { code, err } = await grpo(["train", "--eval_num_generations", "4", "--eval_temperature", "0"]);
  expect({ code, lines: err.trimEnd().split("\n").length }).toEqual({ code: 2, lines: 1 });
});

test("generate streams the same output that it writes as JSON, the same for the same seed", async () => {
  const question = "Mia has 14 pens. Then Mia buys 3 packs of 8 pens. How many pens does Mia have now?";
  const sampling: Flags = { model: bundledModel, max_completion_length: 32, temperature: 1, seed: 5 };
  const streamed = await grpo(["generate", ...argvOf({ ...sampling, prompt: question })]);
  expect({ code: streamed.code, err: streamed.err }).toEqual({ code: 0, err: "" });
  const input = work.at("prompts.jsonl");
  const messages = [{ role: "user", content: question }];
  writeFileSync(input, `${JSON.stringify({ prompt: messages })}\n${JSON.stringify({ prompt: "Mia has" })}\n`);
  const output = work.at("texts.jsonl");
  const argv = ["generate", ...argvOf({ ...sampling, input, output, num_generations: 2 })];
  expect((await grpo(argv)).code).toBe(0);
  const lines = jsonLines(output) as { prompt: unknown; completions: { text: string; tokens: number }[] }[];
  expect(lines.map(({ prompt }) => prompt)).toEqual([messages, "Mia has"]);
  expect(lines.map(({ completions }) => completions.length)).toEqual([2, 2]);
  expect(streamed.out).toBe(`${lines[0]!.completions[0]!.text}\n`);
  const first = readFileSync(output, "utf8");
  const other = [...argv, "--threads", "1", "--max_concurrent_sequences", "1"];
  const refused = await grpo(other);
  expect(refused.code).toBe(2);
  expect(refused.err).toMatch(/^grpo generate: --output \S+ exists; .*--overwrite\n$/);
  expect(readFileSync(output, "utf8")).toBe(first);
  expect((await grpo([...other, "--overwrite"])).code).toBe(0);
  expect(readFileSync(output, "utf8")).toBe(first);
});
