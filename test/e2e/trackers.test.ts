/**
 * report_to: what the trackers' files hold is what metrics.jsonl holds, through a stop and a resume; a tracker that cannot write
 * ends the run with its name, and nothing is lost; replaced runs and other programs' files.
 */
import { afterAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { InputError } from "../../src/errors.ts";
import { tensorBoardPoints, tensorBoardTexts, wandbPoints, wandbRecords } from "../fixtures/trackers.ts";
import { metricsOf, outcome, train, workFolder } from "./runs.ts";

const work = workFolder();
afterAll(work.remove);

const all = { report_to: "tensorboard,wandb", log_completions_steps: 2 };
const wandbRuns = (folder: string) =>
  readdirSync(join(folder, "wandb"))
    .filter((name) => name.startsWith("offline-run-"))
    .map((name) => join(folder, "wandb", name));

/** metrics.jsonl as points of a chart. */
function logged(folder: string): Map<string, number> {
  const points = new Map<string, number>();
  for (const { step, ...record } of metricsOf(folder))
    for (const [name, value] of Object.entries(record))
      if (typeof value === "number")
        points.set(`${step} ${name.startsWith("eval_") ? `eval/${name.slice(5)}` : `train/${name}`}`, value);
  return points;
}
const rounded = (points: Map<string, number>) => new Map([...points].map(([key, value]) => [key, Math.fround(value)]));
const sorted = (points: Map<string, number>) => [...points].sort(([a], [b]) => (a < b ? -1 : 1));

describe("a run with every tracker", () => {
  const folder = work.at("all");
  const evaluated = { ...all, eval_dataset: "data/problems/eval.arrow", eval_samples: 4, eval_steps: 2 };

  test("stopped and resumed, shows each metric once, as metrics.jsonl has it", async () => {
    await train(folder, evaluated, { stopAfter: 3 });
    const before = wandbRuns(folder);
    expect(sorted(wandbPoints(before[0]!))).toEqual(sorted(logged(folder)));
    const { code } = await train(folder, { ...evaluated, resume_from_checkpoint: true });
    expect(code).toBe(0);
    expect(wandbRuns(folder)).toEqual(before);
    const points = logged(folder);
    expect(points.size).toBeGreaterThan(100);
    for (const name of ["train/reward", "train/kl", "train/rewards/by_tokens/mean", "train/completions/mean_length"])
      for (const step of [1, 2, 3, 4, 5]) expect(points.has(`${step} ${name}`), name).toBe(true);
    expect(points.has("0 eval/reward")).toBe(true);
    expect(sorted(wandbPoints(before[0]!))).toEqual(sorted(points));
    expect(sorted(tensorBoardPoints(join(folder, "tensorboard")))).toEqual(sorted(rounded(points)));
  });

  test("shows the settings and the completions of due steps, with TRL's columns", () => {
    const texts = tensorBoardTexts(join(folder, "tensorboard"));
    expect(JSON.parse(texts.get("args")![0]![0]!)).toMatchObject({
      num_generations: 4,
      report_to: ["tensorboard", "wandb"],
    });
    const [first] = texts.get("completions")!;
    const heads = ["step", "prompt", "completion", "by_tokens", "advantage"];
    expect(first!.slice(0, 5)).toEqual(heads.map((name) => `**${name}**`));
    expect(first).toHaveLength(5 * 9);
    const records = wandbRecords(wandbRuns(folder)[0]!);
    const tables = records.filter(({ kind }) => kind === "files").map(({ content }) => content.message(1)!.text(1)!);
    const table = JSON.parse(readFileSync(join(wandbRuns(folder)[0]!, "files", tables[0]!), "utf8"));
    expect(table.columns).toEqual(heads);
    expect(table.data).toHaveLength(8);
    expect(table.data[0]).toEqual([1, expect.any(String), expect.any(String), expect.any(Number), expect.any(Number)]);
    const config = records[1]!.content.message(4)!.messages(1);
    expect(config.find((item) => item.text(1) === "num_generations")!.text(16)).toBe("4");
  });
});

test("the default writes metrics.jsonl alone, and trackers change nothing else of a run", async () => {
  const [plain, tracked] = [work.at("plain"), work.at("tracked")];
  await train(plain, { max_steps: 2 });
  await train(tracked, { max_steps: 2, ...all });
  expect(existsSync(join(plain, "tensorboard"))).toBe(false);
  expect(existsSync(join(plain, "wandb"))).toBe(false);
  const { files, metrics } = outcome(tracked);
  const others = Object.entries(files).filter(([name]) => !/^(tensorboard|wandb)\//.test(name));
  expect({ files: Object.fromEntries(others), metrics }).toEqual(outcome(plain));
});

describe("a tracker that cannot write", () => {
  test("its folder: refused before the first step, and a file of that name is left", async () => {
    for (const name of ["tensorboard", "wandb"]) {
      const folder = work.at(`blocked-${name}`);
      mkdirSync(folder);
      writeFileSync(join(folder, name), "mine");
      const failure = await train(folder, all).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(InputError);
      expect((failure as Error).message).toBe(
        `${join(folder, name)}: cannot be written: a file is in the way of a folder; choose another --output_dir or change ` +
          `its permissions, or leave ${name} out of --report_to (EEXIST)`,
      );
      expect(readFileSync(join(folder, name), "utf8")).toBe("mine");
      expect(metricsOf(folder)).toEqual([]);
    }
  });

  test("holds another program's files: refused, and they are left", async () => {
    const folder = work.at("others");
    mkdirSync(join(folder, "wandb", "run-of-theirs"), { recursive: true });
    await expect(train(folder, all)).rejects.toThrow(
      `${join(folder, "wandb")}: holds files of another program; name another --output_dir, or move them away`,
    );
    expect(readdirSync(join(folder, "wandb"))).toEqual(["run-of-theirs"]);
    // Nor does a run that replaces this one take them for its own.
    await train(folder, { max_steps: 1, overwrite: true });
    expect(readdirSync(join(folder, "wandb"))).toEqual(["run-of-theirs"]);
  });

  test("in the middle of a run: the step is finished and saved, and the resumed run is as one that never stopped", async () => {
    const [whole, broken] = [work.at("whole"), work.at("broken")];
    const flags = { ...all, max_steps: 3, log_completions_steps: 1 };
    await train(whole, flags);
    const media = () => join(wandbRuns(broken)[0]!, "files/media");
    let blocked = false;
    const run = train(broken, flags, {
      onProgress() {
        // Where the table of step 2 goes, a file is in the way.
        if (blocked || metricsOf(broken).length !== 1 || !existsSync(media()) || readdirSync(media()).length !== 1)
          return;
        rmSync(media(), { recursive: true });
        writeFileSync(media(), "");
        blocked = true;
      },
    });
    const failure = await run.catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(InputError);
    expect((failure as Error).message).toStartWith(`${join(broken, "wandb")}: cannot be written: `);
    expect((failure as Error).message).toContain("leave wandb out of --report_to (E");
    expect(metricsOf(broken).map(({ step }) => step)).toEqual([1, 2]);
    expect(existsSync(join(broken, "checkpoint-2"))).toBe(true);
    rmSync(media());
    await train(broken, { ...flags, resume_from_checkpoint: true });
    const kept = ({ files, metrics }: ReturnType<typeof outcome>) => ({
      files: Object.fromEntries(
        Object.entries(files).filter(([name]) => !/^(tensorboard|wandb|checkpoint-2)\//.test(name)),
      ),
      metrics,
    });
    expect(kept(outcome(broken))).toEqual(kept(outcome(whole)));
    expect(sorted(wandbPoints(wandbRuns(broken)[0]!))).toEqual(sorted(logged(broken)));
  });
});

test("resumed from an earlier step, a run keeps what the trackers had of the later ones in after-step-N", async () => {
  const folder = work.at("again");
  await train(folder, { ...all, max_steps: 3, save_steps: 1 });
  const before = logged(folder);
  await train(folder, { ...all, max_steps: 3, save_steps: 1, resume_from_checkpoint: join(folder, "checkpoint-1") });
  expect(sorted(wandbPoints(wandbRuns(folder)[0]!))).toEqual(sorted(logged(folder)));
  expect(sorted(tensorBoardPoints(join(folder, "tensorboard")))).toEqual(sorted(rounded(logged(folder))));
  const aside = join(folder, "after-step-1");
  expect(sorted(wandbPoints(wandbRuns(aside)[0]!))).toEqual(sorted(before));
  expect(sorted(tensorBoardPoints(join(aside, "tensorboard")))).toEqual(sorted(rounded(before)));
});

test("rows that a tracker lacks are added when the run is resumed", async () => {
  const folder = work.at("late");
  const evaluated = { eval_dataset: "data/problems/eval.arrow", eval_samples: 4, eval_steps: 1, max_steps: 4 };
  const same = () => {
    expect(sorted(wandbPoints(wandbRuns(folder)[0]!))).toEqual(sorted(logged(folder)));
    expect(sorted(tensorBoardPoints(join(folder, "tensorboard")))).toEqual(sorted(rounded(logged(folder))));
  };
  await train(folder, evaluated, { stopAfter: 1 });
  await train(folder, { ...evaluated, ...all, resume_from_checkpoint: true }, { stopAfter: 2 });
  same();
  // The ends of both logs are lost, as where a disk was full.
  const [events] = readdirSync(join(folder, "tensorboard")).filter((name) => name.includes("tfevents"));
  const [run] = wandbRuns(folder);
  const log = readdirSync(run!).find((name) => name.endsWith(".wandb"))!;
  for (const path of [join(folder, "tensorboard", events!), join(run!, log)])
    truncateSync(path, statSync(path).size - 4000);
  expect(wandbPoints(run!).size).toBeLessThan(logged(folder).size);
  await train(folder, { ...evaluated, ...all, resume_from_checkpoint: true });
  expect(metricsOf(folder).at(-1)!.step).toBe(4);
  same();
});

test("a run that replaces another replaces its trackers' files", async () => {
  const folder = work.at("replaced");
  await train(folder, { ...all, max_steps: 2 });
  const first = wandbRuns(folder);
  await train(folder, { ...all, max_steps: 1, overwrite: true });
  expect(wandbRuns(folder)).toHaveLength(1);
  expect(wandbRuns(folder)).not.toEqual(first);
  expect(sorted(tensorBoardPoints(join(folder, "tensorboard")))).toEqual(sorted(rounded(logged(folder))));
});
