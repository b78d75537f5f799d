/**
 * Dynamic sampling on several ranks: as many groups as are needed are drawn, dealt to the ranks, and sampled and scored
 * by each; all ranks learn which have signal, and the next round draws in place of those that have none. The groups that
 * are accepted are those that one process accepts, as they depend on the order of drawing alone.
 */
import type { Ranks } from "../ranks/ranks.ts";
import { shareOf } from "../ranks/ranks.ts";
import type { Rollout } from "../rollout/rollout.ts";
import type { SampledCompletion } from "../rollout/sequence.ts";
import {
  type DrawnGroup,
  type DynamicOutcome,
  type DynamicSamplingOptions,
  outcomeOf,
  sampleGroups,
} from "./dynamic-sampling.ts";

/** How a score travels between ranks: as plain data, without what every rank knows. */
export interface ScoreTransport<Drawn, Score, Plain> {
  readonly pack: (score: Score) => Plain;
  readonly unpack: (drawn: Drawn, completions: readonly SampledCompletion[], plain: Plain) => Score;
}

/**
 * Samples groups until enough have signal or the bound on draws is reached.
 *
 * @param start begins a rollout; each round has its own
 * @returns null if it was stopped
 * @throws what `score` throws
 */
export async function sampleInRounds<Drawn, Score, Plain>(
  start: () => Omit<Rollout, "feed">,
  options: DynamicSamplingOptions<Drawn, Score>,
  ranks: Ranks,
  { pack, unpack }: ScoreTransport<Drawn, Score, Plain>,
): Promise<DynamicOutcome<Drawn, Score> | null> {
  const { wanted, most, ahead } = options;
  const groups: DrawnGroup<Drawn, Score>[] = [];
  for (;;) {
    const missing = wanted - groups.filter(({ status }) => status === "signal").length;
    const count = Math.min(missing + ahead, most - groups.length);
    if (missing <= 0 || count <= 0) return outcomeOf(groups, wanted);
    const draws = Array.from({ length: count }, (_, i) => ({ ...options.draw(), place: groups.length + i }));
    const { from, to } = shareOf(count, ranks.rank, ranks.size);
    const mine = draws.slice(from, to).values();
    const sampled = await sampleGroups(start(), {
      ...{ ...options, wanted: to - from, most: to - from, ahead: 0, wholeFrom: most - wanted },
      draw: () => mine.next().value!,
    });
    const own =
      sampled?.map(({ status, judged, completions, score }) => ({
        ...{ status, judged, completions: completions.slice(0, judged) as SampledCompletion[] },
        score: score && { plain: pack(score) },
      })) ?? null;
    const parts = await ranks.gather("a round of dynamic sampling", own);
    if (parts.includes(null)) return null;
    for (const [i, { score, ...group }] of parts.flatMap((part) => part!).entries()) {
      const { drawn, promptIds, place } = draws[i]!;
      groups.push({
        ...{ ...group, drawn, place, request: place, promptTokens: promptIds.length, judging: false },
        score: score && unpack(drawn, group.completions, score.plain),
      });
    }
  }
}
