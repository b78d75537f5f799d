/**
 * What a user should know of the answers before a run: rows without one, and answers that the verifier could not call
 * right even when a model gives them word for word. Counted once, on the first rows of a large set.
 */

import { isNumber } from "../answers/gsm8k.ts";
import { goldOfRow } from "../data/columns.ts";
import { InputError } from "../errors.ts";
import type { RewardPool } from "../rewards/pool/pool.ts";
import { needsGold, type RewardSpec } from "../rewards/specs.ts";
import type { ProblemSource } from "../run/prompts.ts";

/** Rows that are looked at for an answer. */
const LOOKED_ROWS = 20_000;
/** Answers that the verifier is asked about. */
const VERIFIED_GOLDS = 1000;
/** Rows that are named. */
const NAMED_ROWS = 5;

/**
 * @returns remarks, in sentences; none where every row looked at is well
 * @throws InputError, before it returns, where a verifier is to judge and no row says what is right: every answer would go unscored
 */
export function goldRemarks(
  specs: readonly RewardSpec[],
  { dataset, columns, remarks }: ProblemSource,
  pool: Pick<RewardPool, "verify">,
): Promise<string[]> {
  const judge = specs.find(needsGold);
  if (judge === undefined || dataset.numRows === 0) return Promise.resolve([...remarks]);
  const looked = Math.min(dataset.numRows, LOOKED_ROWS);
  const golds: { row: number; gold: string }[] = [];
  const without: number[] = [];
  for (let row = 0; row < looked; row++) {
    const gold = goldOfRow(dataset, columns, row);
    if (gold === null) without.push(row);
    else golds.push({ row, gold });
  }
  const of = looked < dataset.numRows ? `the first ${looked} rows` : `${looked} rows`;
  const from = columns.gold === null ? "" : ` in ${columns.gold.name}`;
  if (golds.length === 0)
    throw new InputError(
      `${dataset.path}: ${looked < dataset.numRows ? `none of ${of}` : "no row"} has a gold answer${from} to compare with; ` +
        "name its column with --answer_column, or use another reward with --reward_funcs PATH.ts",
    );
  const found = [...remarks];
  if (without.length > 0)
    found.push(
      `${without.length} of ${of} of ${dataset.path} ${without.length === 1 ? "has" : "have"} no gold answer${from} ` +
        `and will not be scored (${named(without)})`,
    );
  const verifier = judge === "gsm8k" || judge === "math" ? judge : undefined;
  return unreadRemarks(golds.slice(0, VERIFIED_GOLDS), verifier, from, pool).then((unread) => [...found, ...unread]);
}

/** Which answers the verifier accepts in no completion. */
async function unreadRemarks(
  asked: readonly { readonly row: number; readonly gold: string }[],
  verifier: "gsm8k" | "math" | undefined,
  from: string,
  pool: Pick<RewardPool, "verify">,
): Promise<string[]> {
  const verdicts = await pool.verify(
    asked.map(({ gold }) => ({ gold, response: answerWith(gold, verifier), ...(verifier && { verifier }) })),
    "lenient",
  );
  const unread = asked.filter((_, i) => verdicts[i]?.reward !== 1);
  if (unread.length === 0) return [];
  return [
    `${unread.length} of ${asked.length} gold answers looked at${from} cannot be read by the ${verifier ?? "math"} verifier, ` +
      `which accepts no answer to them (${named(unread.map(({ row }) => row))}: ` +
      `${JSON.stringify(unread[0]!.gold.slice(0, 60))})`,
  ];
}

/** A completion that says the gold answer in the form that the verifier asks for. */
const answerWith = (gold: string, verifier: "gsm8k" | "math" | undefined): string =>
  verifier === "gsm8k" || (verifier === undefined && isNumber(gold)) ? `#### ${gold}` : `\\boxed{${gold}}`;

function named(rows: readonly number[]): string {
  const shown = rows.slice(0, NAMED_ROWS).join(", ");
  return `row${rows.length === 1 ? "" : "s"} ${shown}${rows.length > NAMED_ROWS ? ", …" : ""}`;
}
