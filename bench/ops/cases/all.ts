/** All that is known about every op, in one table; and the cases by file, as the suite runs them. */
import type { OpCase, OpTable } from "../case.ts";
import { attentionOps } from "./attention.ts";
import { cacheOps } from "./cache.ts";
import { embeddingOps } from "./embedding.ts";
import { expertOps } from "./experts.ts";
import { flatOps } from "./flat.ts";
import { gluOps } from "./glu.ts";
import { headOps } from "./head.ts";
import { headsOps } from "./heads.ts";
import { matmulOps } from "./matmul.ts";
import { optimizerOps } from "./optimizer.ts";
import { rmsnormOps } from "./rmsnorm.ts";
import { ropeOps } from "./rope.ts";
import { rowOps } from "./rows.ts";
import { sampleOps } from "./sample.ts";
import { weightWays } from "./weights.ts";

/** The type requires every op of the interface. */
export const opTable: OpTable = {
  ...matmulOps,
  ...attentionOps,
  ...cacheOps,
  ...headOps,
  ...headsOps,
  ...sampleOps,
  ...rmsnormOps,
  ...embeddingOps,
  ...expertOps,
  ...ropeOps,
  ...gluOps,
  ...rowOps,
  ...optimizerOps,
  ...flatOps,
};

type Entries = Readonly<Record<string, { readonly cases: readonly OpCase[] }>>;
const casesOf = (entries: Entries) => Object.values(entries).flatMap(({ cases }) => cases);

export const tables: Readonly<Record<string, readonly OpCase[]>> = {
  attention: casesOf(attentionOps),
  cache: casesOf(cacheOps),
  embedding: casesOf(embeddingOps),
  experts: casesOf(expertOps),
  flat: casesOf(flatOps),
  glu: casesOf(gluOps),
  head: casesOf(headOps),
  heads: casesOf(headsOps),
  matmul: casesOf(matmulOps),
  optimizer: casesOf(optimizerOps),
  rmsnorm: casesOf(rmsnormOps),
  rope: casesOf(ropeOps),
  rows: casesOf(rowOps),
  sample: casesOf(sampleOps),
  weights: casesOf(weightWays),
};
