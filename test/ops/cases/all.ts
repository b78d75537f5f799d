/** Every table of op cases, by file. */
import type { OpCase } from "../harness.ts";
import { attentionCases } from "./attention.ts";
import { embeddingCases } from "./embedding.ts";
import { flatCases } from "./flat.ts";
import { gluCases } from "./glu.ts";
import { headCases } from "./head.ts";
import { matmulCases } from "./matmul.ts";
import { optimizerCases } from "./optimizer.ts";
import { rmsnormCases } from "./rmsnorm.ts";
import { ropeCases } from "./rope.ts";
import { sampleCases } from "./sample.ts";
import { weightCases } from "./weights.ts";

export const tables: Readonly<Record<string, readonly OpCase[]>> = {
  attention: attentionCases,
  embedding: embeddingCases,
  flat: flatCases,
  glu: gluCases,
  head: headCases,
  matmul: matmulCases,
  rmsnorm: rmsnormCases,
  optimizer: optimizerCases,
  rope: ropeCases,
  sample: sampleCases,
  weights: weightCases,
};
