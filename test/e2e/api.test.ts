/**
 * The TypeScript API: every example of docs/typescript.md runs as it stands, on the bundled model under the names that the
 * page uses; stopping by a signal; bad settings; what is written, and what is not.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  checkLossGradient,
  evaluate,
  generate,
  InputError,
  loadModel,
  type OwnLoss,
  type RewardFunction,
  score,
  sft,
  train,
  update,
} from "../../src/index.ts";
import { bundledModel, metricsOf, problems, root, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(180_000);

const work = workFolder();
const here = process.cwd();
afterAll(() => {
  process.chdir(here);
  work.remove();
});

beforeAll(() => {
  symlinkSync(bundledModel, work.at("Qwen3-0.6B"));
  symlinkSync(problems, work.at("gsm8k.arrow"));
  process.chdir(work.path);
});

const tiny = { device: "cpu", model: bundledModel } as const;

/** Promises that are rejected give their reason. */
const failure = (work: Promise<unknown>) =>
  work.then(
    () => null,
    (error: unknown) => error,
  );

describe("docs/typescript.md", () => {
  const page = readFileSync(join(root, "docs/typescript.md"), "utf8");
  const examples = page.split(/^## /m).flatMap((section) => {
    const code = /```ts\n([\s\S]*?)```/.exec(section)?.[1];
    return code === undefined ? [] : [{ title: section.slice(0, section.indexOf("\n")), code }];
  });

  /** Runs an example as a module of its own. @returns what it logs, a text per line */
  async function logged(title: string): Promise<string[]> {
    const { code } = examples.find((example) => example.title === title)!;
    const path = work.at(`${title.replace(/\W+/g, "-")}.ts`);
    writeFileSync(path, code.replace('"bun-grpo"', JSON.stringify(join(root, "src/index.ts"))));
    const log = spyOn(console, "log").mockImplementation(() => {});
    try {
      await import(path);
      return log.mock.calls.map((values) => values.map((value) => Bun.inspect(value)).join(" "));
    } finally {
      log.mockRestore();
    }
  }

  const number = String.raw`-?[\d.]+(e-?\d+)?`;

  test("Training", async () => {
    const lines = await logged("Training");
    expect(lines.some((line) => line.includes("Qwen3-0.6B on gsm8k.arrow"))).toBe(true);
    const steps = lines.filter((line) => new RegExp(`^"step \\d: reward ${number}, loss ${number}"$`).test(line));
    expect(steps.length).toBe(4);
    expect(lines.at(-1)).toBe('"4 steps, the model is in outputs/gsm8k"');
    expect(existsSync("outputs/gsm8k/model.safetensors")).toBe(true);
  });

  test("Events", async () => {
    const lines = await logged("Events");
    expect(lines.map((line) => line.split(" ")[0])).toEqual(["1", "2", "2"]);
    expect(lines[2]).toBe("2 true");
    expect(existsSync("outputs/events/checkpoint-2")).toBe(true);
  });

  test("Your own rows and rewards", async () => {
    expect(await logged("Your own rows and rewards")).toEqual(["2"]);
    const { settings } = JSON.parse(readFileSync("outputs/own/run.json", "utf8"));
    expect(settings.reward_funcs).toEqual(["gsm8k", "function:brevity"]);
  });

  test("Your own loss and estimator", async () => {
    expect(await logged("Your own loss and estimator")).toEqual(["true", "2"]);
  });

  test("A model that stays open", async () => {
    const lines = await logged("A model that stays open");
    expect(lines.length).toBeGreaterThan(2);
    expect(lines.at(-1)).toBe("[ true, true ]");
  });

  test("Stopping, and going on", async () => {
    expect(await logged("Stopping, and going on")).toEqual(["true 2", "false 4"]);
    expect(metricsOf("outputs/stopped").flatMap(({ step, loss }) => (loss === undefined ? [] : [step]))).toEqual([
      1, 2, 3, 4,
    ]);
  });

  test("What is refused", async () => {
    const lines = await logged("What is refused");
    expect(lines.length).toBe(2);
    expect(lines.join("\n")).toMatch(/beta -1: must be[\s\S]*per_device_train_batch_size 12 .* not a multiple/);
  });

  test("Supervised fine-tuning", async () => {
    expect(await logged("Supervised fine-tuning")).toEqual(['"the model is in outputs/sft"']);
    expect(existsSync("outputs/sft/model.safetensors")).toBe(true);
  });

  test("Evaluation", async () => {
    const lines = await logged("Evaluation");
    expect(lines[0]).toMatch(new RegExp(`^"accuracy ${number}, 95 % interval ${number} to ${number}"$`));
    expect(lines.slice(1, 4).map((line) => line.slice(0, 7))).toEqual(['"pass@1', '"pass@2', '"pass@4']);
    expect(lines.length).toBe(1 + 3 + 8);
    expect(existsSync("outputs/eval")).toBe(false);
  });

  test("Completions and their logprobs", async () => {
    const lines = await logged("Completions and their logprobs");
    expect(lines.length).toBe(4 + 4);
    for (const line of lines.slice(0, 4)) expect(line).toMatch(/ (\d+) \1 (true|false)$/);
    for (const line of lines.slice(4)) expect(line.match(/Float32Array/g)?.length).toBe(2);
  });

  test("A recorded update", async () => {
    const lines = await logged("A recorded update");
    expect(lines.length).toBe(1);
    expect(lines[0]).toMatch(/step: 1,\s+loss: .*grad_norm: /s);
  });

  test("no example is left out", () => {
    expect(examples.map(({ title }) => title)).toEqual([
      "Training",
      "Events",
      "Your own rows and rewards",
      "Your own loss and estimator",
      "Stopping, and going on",
      "What is refused",
      "Supervised fine-tuning",
      "Evaluation",
      "Completions and their logprobs",
      "A model that stays open",
      "A recorded update",
    ]);
  });
});

describe("a signal", () => {
  const stopped = AbortSignal.abort(new Error("enough"));

  test("ends an evaluation, a generation, a scoring and an update, which reject with its reason", async () => {
    const rollouts = join(root, "test/golden/qwen3-qknorm/rollouts.jsonl");
    const model = join(root, "test/golden/qwen3-qknorm");
    const groups = [{ promptIds: [1, 2], completions: [{ completionIds: [3] }] }];
    const works = [
      () => evaluate({ ...tiny, dataset: problems, outputDir: "stopped evaluation" }, { signal: stopped }),
      () => generate({ ...tiny, prompt: "7+5=" }, { signal: stopped }),
      () => score({ ...tiny, groups }, { signal: stopped }),
    ];
    for (const each of works) expect(await failure(each())).toBe(stopped.reason);
    const stop = new AbortController();
    const updating = update(
      { device: "cpu", model, rollouts, numIterations: 3, maxCompletionLength: 64, outputDir: "stopped update" },
      { signal: stop.signal, onStep: () => stop.abort(stopped.reason) },
    );
    expect(await failure(updating)).toBe(stopped.reason);
    expect(existsSync("stopped evaluation/results.json")).toBe(false);
    expect(existsSync("stopped update/model.safetensors")).toBe(false);
  });

  test("stops a generation between two tokens", async () => {
    const stop = new AbortController();
    let texts = 0;
    const generating = generate(
      { ...tiny, prompt: "7+5=", maxCompletionLength: 64 },
      {
        signal: stop.signal,
        onText() {
          texts++;
          stop.abort();
        },
      },
    );
    expect(await failure(generating)).toBe(stop.signal.reason);
    // A sequence's first step gives it two tokens.
    expect(texts).toBeLessThanOrEqual(2);
  });

  test("stops supervised fine-tuning after its step", async () => {
    const stop = new AbortController();
    const settings = { ...tiny, dataset: problems, perDeviceTrainBatchSize: 4, maxSteps: 5, outputDir: "stopped sft" };
    const result = await sft(settings, { signal: stop.signal, onStep: () => stop.abort() });
    expect(result).toEqual({ steps: 1, stopped: true, outputDir: "stopped sft" });
    expect(existsSync("stopped sft/checkpoint-1")).toBe(true);
  });
});

test("a reward module that imports the API loads nothing that computes", async () => {
  const code = `await import(${JSON.stringify(join(root, "src/index.ts"))}); console.log(Object.keys(require.cache).join("\\n"))`;
  const child = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe", stderr: "inherit" });
  const loaded = (await new Response(child.stdout).text()).split("\n").flatMap((path) => {
    const name = path.startsWith(root) ? path.slice(root.length + 1) : "";
    return /^(src|ffi)\//.test(name) ? [name] : [];
  });
  expect(loaded).toContain("src/index.ts");
  expect(loaded.filter((name) => /^src\/(device|session|model|rollout|run|sft|eval)\//.test(name))).toEqual([]);
  expect(loaded.filter((name) => name.startsWith("src/api/")).sort()).toEqual([
    "src/api/commands.ts",
    "src/api/control.ts",
    "src/api/fields.ts",
    "src/api/read-run.ts",
    "src/api/running.ts",
    "src/api/values.ts",
  ]);
});

test("settings are refused as the flags are", async () => {
  const refused: readonly (readonly [Promise<unknown>, RegExp])[] = [
    [train({ ["betta" as "beta"]: 0.1 }), /betta.*did you mean beta/],
    [train({ ["max_steps" as "maxSteps"]: 1 }), /max_steps: is written maxSteps in TypeScript/],
    [sft({ maxSteps: 0 }), /maxSteps 0: must be/],
    [evaluate({ passAtK: [2], numGenerations: 1 }), /pass_at_k 2: exceeds num_generations 1/],
    [generate({}), /give --prompt TEXT or --input FILE/],
    [generate({ prompt: "a", prompts: ["b"] }), /prompt and prompts: use only one/],
    [generate({ prompts: [] }), /prompts: there are none/],
    [generate({ prompts: ["a"], input: "b.jsonl" }), /--prompt and --input: use only one/],
    [generate({ ...tiny, prompts: ["7", [{ role: "user" } as never]] }), /prompts\[1\]: must be a text or a list/],
    [generate({ ...tiny, prompts: [""] }), /prompts\[0\]: the prompt is empty/],
    [score({}), /--input is required/],
    [score({ input: "a.jsonl", groups: [] }), /groups and input: use only one/],
    [score({ ...tiny, groups: [] }), /groups: there are none/],
    [score({ ...tiny, groups: [{ promptIds: [1], completions: [] }] }), /groups\[0\]: has no completions/],
    [
      score({ ...tiny, groups: [{ promptIds: [1], completions: [{ completionIds: [5000] }] }] }),
      /groups\[0\]\.completions\[0\]\.completionIds: 5000 is not an id; .* from 0 to 431/,
    ],
    [update({ ...tiny, rollouts: "missing.jsonl", outputDir: "refused" }), /missing\.jsonl: there is no such file/],
  ];
  for (const [work, message] of refused) {
    const error = await failure(work);
    expect(error).toBeInstanceOf(InputError);
    expect((error as InputError).message).toMatch(message);
  }
  expect(existsSync("refused")).toBe(false);
});

test("what a hook throws ends the run", async () => {
  const settings = { ...tiny, dataset: problems, perDeviceTrainBatchSize: 4, maxSteps: 5, outputDir: "thrown" };
  const running = sft(settings, {
    onStep() {
      throw new Error("of the hook");
    },
  });
  expect(String(await failure(running))).toBe("Error: of the hook");
});

test("sampled logprobs are those that score computes, of values as of files", async () => {
  const prompts = ["7+5=", [{ role: "user", content: "What is 3 + 4?" }]];
  const settings = { ...tiny, prompts, numGenerations: 3, temperature: 0.8, maxCompletionLength: 24 };
  const texts = new Map<string, string>();
  const groups = await generate(settings, {
    onText: (text, { prompt, sample }) =>
      void texts.set(`${prompt} ${sample}`, `${texts.get(`${prompt} ${sample}`) ?? ""}${text}`),
  });
  expect(groups.map(({ completions }) => completions.length)).toEqual([3, 3]);
  const scores = await score({ ...tiny, groups, temperature: 0.8 });
  for (const [i, { completions }] of groups.entries())
    for (const [j, { logprobs, text }] of completions.entries()) {
      expect([...scores[i]![j]!.logprobs]).toEqual([...logprobs]);
      expect(texts.get(`${i} ${j}`) ?? "").toBe(text);
    }
  const lines = groups.flatMap(({ promptIds, completions }, group) =>
    completions.map(({ completionIds }) =>
      JSON.stringify({ group, prompt_ids: [...promptIds], completion_ids: [...completionIds] }),
    ),
  );
  writeFileSync("groups.jsonl", lines.map((line) => `${line}\n`).join(""));
  const output = "scores.jsonl";
  expect(await score({ ...tiny, input: "groups.jsonl", output, temperature: 0.8 })).toEqual(scores);
  const written = readFileSync(output, "utf8").trimEnd().split("\n");
  expect([...Float32Array.from(JSON.parse(written[4]!).logprobs)]).toEqual([...scores[1]![1]!.logprobs]);
});

test("files are written where they are asked for, and nowhere else", async () => {
  mkdirSync("empty");
  process.chdir("empty");
  try {
    const answers = { ...tiny, dataset: problems, evalSamples: 4, maxCompletionLength: 24 };
    const result = await evaluate(answers);
    await generate({ ...tiny, prompt: "7+5=", maxCompletionLength: 4 });
    expect(readdirSync(".")).toEqual([]);
    const again = await evaluate({ ...answers, outputDir: "answers" });
    expect(again).toEqual(result);
    const results = JSON.parse(readFileSync("answers/results.json", "utf8"));
    expect(results.accuracy).toEqual(result.accuracy);
    expect(results["pass@1"]).toEqual(result.atK.lenient[0]!.pass);
    await generate({ ...tiny, prompts: ["7+5="], maxCompletionLength: 4, output: "one.jsonl" });
    expect(JSON.parse(readFileSync("one.jsonl", "utf8")).prompt).toBe("7+5=");
    expect(String(await failure(evaluate({ ...answers, outputDir: "answers" })))).toMatch(/holds .*--overwrite/);
  } finally {
    process.chdir("..");
  }
});

describe("functions in place of names", () => {
  const settings = {
    ...tiny,
    dataset: problems,
    numGenerations: 4,
    perDeviceTrainBatchSize: 8,
    maxCompletionLength: 16,
  };
  const short = { ...settings, temperature: 1.5, learningRate: 1e-3, maxSteps: 4 };
  const byLength: RewardFunction = ({ completion_ids }) => completion_ids.map((ids) => ids.length % 5);
  /** GRPO's own loss, clipped and averaged by completion, with its KL. */
  const clipped: OwnLoss = ({ logprobs, oldLogprobs, refLogprobs, advantages, mask, step, config }) => {
    const tokens = mask.reduce((sum, own) => sum + own, 0);
    const weight = 1 / (step.completions * Math.max(tokens, 1));
    let loss = 0;
    const dlogprobs = new Float64Array(logprobs.length);
    for (let t = 0; t < logprobs.length; t++) {
      if (mask[t] === 0) continue;
      const [ratio, a] = [Math.exp(logprobs[t]! - oldLogprobs[t]!), advantages[t]!];
      const held = Math.min(Math.max(ratio, 1 - config.epsilon), 1 + config.epsilon);
      const d = refLogprobs![t]! - logprobs[t]!;
      loss += weight * (-Math.min(ratio * a, held * a) + config.beta * (Math.exp(d) - d - 1));
      dlogprobs[t] = weight * ((ratio * a <= held * a ? -ratio * a : 0) + config.beta * (1 - Math.exp(d)));
    }
    return { loss, dlogprobs };
  };
  const model = (folder: string) => readFileSync(join(folder, "model.safetensors"));

  test("a loss that computes what grpo does moves the weights as grpo does, resumed or not", async () => {
    const run = { ...short, rewardFuncs: [byLength], numIterations: 2, saveSteps: 2 };
    await train({ ...run, outputDir: "by name" });
    await train({ ...run, lossType: clipped, outputDir: "by function" });
    const last = (folder: string) => metricsOf(folder).at(-1) as unknown as Record<"loss" | "grad_norm" | "kl", number>;
    for (const key of ["loss", "grad_norm", "kl"] as const)
      expect(last("by function")[key]).toBeCloseTo(last("by name")[key], 4);
    const stop = new AbortController();
    const half = { ...run, lossType: clipped, outputDir: "in halves" };
    const first = await train(half, { signal: stop.signal, onStep: ({ step }) => step === 2 && stop.abort() });
    expect(first.steps).toBe(2);
    const notes: string[] = [];
    await train({ ...half, resumeFromCheckpoint: true }, { onNote: (note) => void notes.push(note) });
    expect(notes.filter((note) => note.includes(" was "))).toEqual([]);
    expect(model("in halves").equals(model("by function"))).toBe(true);
    // Micro-batches of one row or of all: the same up to rounding of the sums of gradients.
    await train({ ...run, lossType: clipped, microBatchTokens: 64, outputDir: "in parts" });
    expect(last("in parts").loss).toBeCloseTo(last("by function").loss, 4);
  });

  test("an update of a recorded generation needs the run's functions", async () => {
    const rollouts = "by function/completions/step-000001.jsonl";
    const again = { rollouts, maxCompletionLength: 16, device: "cpu", outputDir: "again" } as const;
    expect(String(await failure(update(again)))).toContain("loss_type: the run's was function:clipped");
    const { steps } = await update({ ...again, lossType: clipped });
    expect(steps.map(({ loss }) => loss)).toEqual(
      metricsOf("by function").flatMap(({ step, loss }) => (step <= 2 && loss !== undefined ? [loss] : [])),
    );
  });

  test("what a function gets wrong ends the run, or costs the completion its reward", async () => {
    const wrong = (rewards: RewardFunction) => failure(train({ ...short, rewardFuncs: [rewards], outputDir: "wrong" }));
    expect(String(await wrong(() => [1]))).toMatch(
      /reward function reward \(inline\) returned 1 rewards for 8 completions/,
    );
    const bad: OwnLoss = ({ logprobs }) => ({ loss: Number.NaN, dlogprobs: logprobs });
    const run = { ...short, rewardFuncs: [byLength], outputDir: "bad", overwrite: true };
    expect(String(await failure(train({ ...run, lossType: bad })))).toContain("loss bad gave NaN for completion 0");
    function few() {
      return [1];
    }
    expect(String(await failure(train({ ...run, advantageEstimator: few })))).toContain("few gave 1 advantages for 8");
    expect(await failure(train({ ...run, lossType: clipped, topEntropyQuantile: 0.5 }))).toMatchObject({
      field: "topEntropyQuantile",
    });
    const some: RewardFunction = ({ completions, completion_ids }) => {
      if (completions.length > 1 || completion_ids[0]!.length % 2 === 0) throw new Error("not these");
      return [1];
    };
    const notes: string[] = [];
    await train({ ...run, rewardFuncs: [some, byLength], maxSteps: 1 }, { onNote: (note) => void notes.push(note) });
    expect(notes.some((note) => note.includes("reward function some (inline) threw Error: not these"))).toBe(true);
  });

  test("a derivative that is wrong is found", () => {
    expect(checkLossGradient(clipped, { config: { epsilon: 10 } })).toBeLessThan(1e-6);
    const off: OwnLoss = (input) => ({ ...clipped(input), dlogprobs: input.logprobs.map(() => 0.5) });
    expect(() => checkLossGradient(off)).toThrow(/the derivative at token \d+ of random completion 0 is 0\.5/);
  });

  test("rows: the same are the same dataset, whatever gives them; what is no row is refused", async () => {
    const rows = Array.from({ length: 8 }, (_, i) => ({
      question: `What is ${i} + 1?`,
      answer: BigInt(i + 1),
      tags: [i],
    }));
    const given = async function* () {
      yield* rows;
    };
    const run = { ...short, maxSteps: 1 };
    await train({ ...run, dataset: rows, outputDir: "rows" });
    await train({ ...run, dataset: given(), outputDir: "rows again" });
    const dataset = (folder: string) => JSON.parse(readFileSync(join(folder, "run.json"), "utf8")).settings.dataset;
    expect(dataset("rows")).toBe(dataset("rows again"));
    expect(model("rows").equals(model("rows again"))).toBe(true);
    expect(await failure(train({ ...run, dataset: [] }))).toMatchObject({ field: "dataset" });
    expect(await failure(train({ ...run, dataset: [1] as never }))).toMatchObject({ field: "dataset" });
    expect(await failure(train({ ...run, dataset: [{ question: "a", f: () => 1 }] }))).toMatchObject({
      field: "dataset",
    });
  });
});

describe("a loaded model", () => {
  test("gives what generate gives; calls wait their turn; a closed one refuses", async () => {
    const model = await loadModel({ ...tiny, maxModelLength: 64, maxConcurrentSequences: 2 });
    const call = { prompts: ["7+5=", "1+1="], numGenerations: 2, temperature: 0.8, maxCompletionLength: 12 };
    const alone = await generate({ ...tiny, ...call });
    const [first, second] = await Promise.all([model.generate(call), model.generate(call)]);
    for (const groups of [first, second])
      expect(groups.map(({ completions }) => completions)).toEqual(alone.map(({ completions }) => completions));
    const texts = ["", "", "", ""];
    for await (const { prompt, sample, text } of model.generate(call)) texts[2 * prompt + sample] += text;
    expect(texts).toEqual(alone.flatMap(({ completions }) => completions.map(({ text }) => text)));
    expect(await model.score(alone, { temperature: 0.8 })).toEqual(
      await score({ ...tiny, groups: alone, temperature: 0.8 }),
    );
    expect(await failure(model.generate({ prompt: "a", maxCompletionLength: 600 }))).toMatchObject({
      field: "maxCompletionLength",
    });
    expect(await failure(model.generate({ prompt: "a", ["device" as "seed"]: 1 }))).toMatchObject({ field: "device" });
    expect(String(await failure(model.generate({ prompts: ["7+".repeat(60)] })))).toContain("higher maxModelLength");
    for await (const _ of model.generate({ prompts: ["7+5="], maxCompletionLength: 12 })) break;
    const waiting = model.generate(call);
    await model.close();
    expect(String(await failure(waiting))).toMatch(/AbortError|closed/);
    expect(String(await failure(model.generate("more")))).toContain("the model is closed");
  });
});

test("a loop over events sees all of them, and throws what the run throws", async () => {
  const types = new Set<string>();
  const run = sft({ ...tiny, dataset: problems, perDeviceTrainBatchSize: 4, maxSteps: 2, outputDir: "followed" });
  let steps = 0;
  for await (const { type } of run) {
    types.add(type);
    if (type === "step") steps++;
  }
  expect([...types]).toContain("note");
  expect(steps).toBe(2);
  const refused = train({ beta: -1 });
  const looped = (async () => {
    for await (const _ of refused);
  })();
  expect(await failure(looped)).toMatchObject({ field: "beta" });
});
