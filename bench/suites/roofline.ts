/** `bench roofline`: the command around roofline/report.ts. */
import { InputError } from "../../src/errors.ts";
import { patternOf } from "../flags.ts";
import { exchangedModels, rooflineModels } from "../models.ts";
import counts from "../roofline/counts.json" with { type: "json" };
import type { CountsTable } from "../roofline/evaluate.ts";
import { gpus } from "../roofline/machines.ts";
import { exchangeTable, rooflineTables } from "../roofline/report.ts";
import type { Suite } from "./suite.ts";

/** @throws InputError where the filter matches nothing */
function matching<T>(all: readonly T[], filter: string | null, nameOf: (each: T) => string): T[] {
  const pattern = patternOf(filter, "i");
  const found = all.filter((each) => pattern.test(nameOf(each)));
  if (found.length === 0) throw new InputError(`--filter ${filter}: matches none of ${all.map(nameOf).join(", ")}`);
  return found;
}

export const roofline: Suite = {
  summary: "what a step must take on an A100, H100 and RTX 4090: a model, not a measurement",
  usual: false,
  takes: ["filter", "ranks"],
  /** --filter selects models and GPUs by "MODEL on GPU", and then also shows their ops; with --ranks, models. */
  async run({ filter, ranks }, line) {
    if (ranks !== null) {
      const lines = exchangeTable(
        matching(exchangedModels, filter, ({ name }) => name),
        ranks,
      );
      for (const text of lines) line(text);
      return lines;
    }
    const pairs = rooflineModels.flatMap((model) =>
      gpus.map((gpu) => ({ model, gpu, name: `${model.name} on ${gpu.name}` })),
    );
    const found = matching(pairs, filter, ({ name }) => name);
    const chosen = {
      models: rooflineModels.filter((model) => found.some((pair) => pair.model === model)),
      gpus: gpus.filter((gpu) => found.some((pair) => pair.gpu === gpu)),
      ops: filter !== null,
    };
    const { lines } = await rooflineTables(counts as CountsTable, chosen);
    for (const text of lines) line(text);
    return lines;
  },
};
