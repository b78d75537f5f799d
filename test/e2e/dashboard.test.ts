/**
 * The page of a run that trains, without a browser: it follows the run, costs it no bit, records what its colours need and ends
 * with it; `grpo show` afterwards.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { argvOf, fingerprint, grpo, tinyTraining, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(120_000);

const work = workFolder();
afterAll(work.remove);

const linesOf = (folder: string): Record<string, unknown>[] =>
  readFileSync(join(folder, "completions/step-000001.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

/** A command of this program, and what it prints from the address of its page on. */
async function serving(argv: readonly string[], pattern: RegExp) {
  const child = Bun.spawn([process.execPath, "src/cli/main.ts", ...argv], {
    ...{ cwd: join(import.meta.dir, "../.."), stdout: "pipe", stderr: "inherit" },
  });
  const found = Promise.withResolvers<string>();
  const printed = (async () => {
    let out = "";
    for await (const bytes of child.stdout) {
      out += new TextDecoder().decode(bytes);
      const url = pattern.exec(out)?.[1];
      if (url !== undefined) found.resolve(url);
    }
    found.reject(new Error(`no address in ${out}`));
  })();
  return { child, url: await found.promise, printed };
}

test("a run with its page trains the same weights, tells it everything, and takes it along at its end", async () => {
  const flags = { ...tinyTraining, max_steps: 3 };
  const plain = grpo(["train", ...argvOf({ ...flags, output_dir: work.at("plain") })]);
  const folder = work.at("with page");
  const argv = ["train", ...argvOf({ ...flags, output_dir: folder, dashboard: 0 })];
  const { child, url, printed } = await serving(argv, /^page: (http:\/\/localhost:\d+\/)$/m);
  const { body } = await fetch(`${url}api/events`);
  let events = "";
  for await (const more of body!) events += new TextDecoder().decode(more);
  await printed;
  expect(await child.exited).toBe(0);
  expect(events).toMatch(/event: progress\ndata: \{"step":\d,"steps":3,"phase":"/);
  expect(events).toMatch(/"status":"ended","runs":\[\{[^\n]*"rows":\{"steps":3/);
  expect(events).toMatch(/event: note\ndata: \{"at":\d+,"text":"saved the model in /);
  expect(fetch(url)).rejects.toThrow();
  expect((await plain).code).toBe(0);
  for (const name of ["model.safetensors"]) expect(fingerprint(folder, name)).toBe(fingerprint(work.at("plain"), name));

  // The rollouts are the same but for what the page shows of them.
  const [with_, without] = [linesOf(folder), linesOf(work.at("plain"))];
  expect(with_.map(({ details: _, ...line }) => line)).toEqual(without);
  for (const { details, completion, completion_ids: ids } of with_) {
    const { ends, entropies, ref_logprobs, advantage } = details as Record<string, number[]>;
    const { length } = ids as number[];
    expect([ends!.length, entropies!.length, ref_logprobs!.length]).toEqual([length, length, length]);
    expect(ends!.at(-1)).toBe((completion as string).length);
    expect(ends).toEqual([...ends!].sort((a, b) => a - b));
    expect(Number.isFinite(advantage)).toBe(true);
  }
  const { memory } = JSON.parse(readFileSync(join(folder, "run.json"), "utf8"));
  expect(memory.times).toContain("rollout");
  const planned = memory.parts.reduce((sum: number, { bytes }: { bytes: number }) => sum + bytes, 0);
  expect(planned).toBeGreaterThan(memory.plannedBytes * 0.9);
});

test("grpo show prints its address, serves the run, and ends with Ctrl-C", async () => {
  const argv = ["show", work.at("with page"), work.at("plain"), "--port", "0"];
  const { child, url } = await serving(argv, /^(http:\/\/localhost:\d+\/)\n/);
  const runs = (await (await fetch(`${url}api/runs`)).json()) as {
    name: string;
    command: string;
    totalSteps: number;
  }[];
  expect(runs.map(({ name }) => name)).toEqual(["with page", "plain"]);
  expect(runs[0]).toMatchObject({ command: "train", totalSteps: 3 });
  expect(await (await fetch(url)).text()).toContain("<title>grpo</title>");
  child.kill("SIGINT");
  expect(await child.exited).toBe(0);
});

test("what cannot be shown is refused in one line", async () => {
  const { code, err } = await grpo(["show", work.at("nothing")]);
  expect(code).toBe(2);
  expect(err).toBe(`grpo show: ${work.at("nothing")}: no such folder; give a run's output folder\n`);
  const taken = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("") });
  const port = taken.port!;
  const train = await grpo(["train", ...argvOf({ ...tinyTraining, output_dir: work.at("refused"), dashboard: port })]);
  taken.stop(true);
  expect(train.code).toBe(2);
  expect(train.err).toBe(
    `grpo train: dashboard: port ${port} is taken; give another, or none for the next that is free\n`,
  );
});
