/**
 * A trained model of each family, as saved, in transformers: no missing or unexpected key, and the same logprobs. Runs where
 * there is such a Python: BUN_GRPO_PYTHON, else python3.
 */
import { afterAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { score } from "../../src/cli/score.ts";
import { familyModels, folderOf, runUpdate, scoreFlags } from "./golden.ts";
import { logprobsApart } from "./logprob-line.ts";
import { argvOf, workFolder } from "./runs.ts";

const python = process.env.BUN_GRPO_PYTHON ?? "python3";
const capable =
  Bun.which(python) !== null &&
  Bun.spawnSync([python, "-c", "import torch, transformers"], { stderr: "ignore" }).success;
if (!capable)
  console.warn(`golden-families-python.test.ts: ${python} has no torch and transformers; name one in BUN_GRPO_PYTHON`);

const work = workFolder();
afterAll(work.remove);

interface Report {
  readonly missing: readonly string[];
  readonly unexpected: readonly string[];
  readonly mismatched: readonly string[];
  readonly logprobs: readonly (readonly number[])[];
}

test.skipIf(!capable)(
  "what training saves loads in transformers, with the same logprobs",
  async () => {
    const saved = familyModels.map((model) => ({ model, folder: work.at(model.replace("/", "-")) }));
    for (const { model, folder } of saved) await runUpdate(model, "grpo", folder);
    const rollouts = (model: string) => join(folderOf(model), "rollouts.jsonl");
    const given = saved.map(({ model, folder }) => `${folder}=${rollouts(model)}`);
    const { stdout, stderr, success } = Bun.spawnSync([python, join(import.meta.dir, "families_python.py"), ...given]);
    if (!success) throw new Error(stderr.toString());
    const reports = stdout
      .toString()
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Report);
    for (const [i, { model, folder }] of saved.entries()) {
      const { logprobs, ...keys } = reports[i]!;
      expect({ model, ...keys }).toEqual({ model, missing: [], unexpected: [], mismatched: [] });
      const output = `${folder}.jsonl`;
      await score.run(argvOf({ ...scoreFlags(model, output, {}), model: folder }));
      const own = readFileSync(output, "utf8").trimEnd().split("\n");
      const ours = own.map((line) => (JSON.parse(line) as { logprobs: number[] }).logprobs);
      expect({ model, close: logprobsApart(ours, logprobs).worst <= 2e-5 }).toEqual({ model, close: true });
    }
  },
  180_000,
);
