/** The scalar head of a model in float64 (bench/reference-model.ts), with the default rotary embedding from its definition. */

import { type Parameters, product, type RotaryTable, referenceHidden } from "../../bench/reference-model.ts";
import type { ModelConfig } from "../../src/families/config.ts";
import { ownHead } from "../../src/families/parameters.ts";

export type { Parameters };

/** Position p turns pair i by p · θ^(−2i/Dh); not rounded, unlike the table of the product. */
const exactTable: RotaryTable = ({ headDim, rope }, positions) => {
  const half = headDim / 2;
  const angles = Array.from({ length: positions * half }, (_, at) => {
    const [position, i] = [Math.floor(at / half), at % half];
    return rope.scaling.type === "none" ? 0 : position * rope.theta ** (-i / half);
  });
  return { cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
};

/** The scalar head's output at every token of a sequence. (T) */
export function referenceValues(config: ModelConfig, parameters: Parameters, ids: ArrayLike<number>): number[] {
  const score = parameters.get(ownHead(config)!.name)!;
  return referenceHidden(config, parameters, Array.from(ids), exactTable).map((row) => product(row, score, 1)[0]!);
}
