/**
 * Which rank sums and updates which elements of the trained parameters. All elements are cut into units, the same for any
 * number of ranks; each rank has neighbouring units, about equally many elements.
 */

/** Elements of a unit: the squares of a gradient are summed unit by unit, so the norm is the same whoever has which. */
const UNIT = 2 ** 20;

/** The padded size of a trained parameter. */
export interface ParameterSize {
  readonly name: string;
  readonly elements: number;
}

/** Elements of one parameter. */
export interface Range {
  readonly name: string;
  readonly from: number;
  readonly count: number;
}

/** All elements in units, in order. */
export function unitsOf(parameters: readonly ParameterSize[]): Range[] {
  return parameters.flatMap(({ name, elements }) =>
    Array.from({ length: Math.ceil(elements / UNIT) }, (_, i) => ({
      ...{ name, from: i * UNIT, count: Math.min(UNIT, elements - i * UNIT) },
    })),
  );
}

/** The units of each of `size` ranks. */
export function unitsByRank(units: readonly Range[], size: number): Range[][] {
  const total = units.reduce((sum, { count }) => sum + count, 0);
  const owned: Range[][] = Array.from({ length: size }, () => []);
  let before = 0;
  for (const unit of units) {
    owned[Math.min(size - 1, Math.floor((size * (before + unit.count / 2)) / total))]!.push(unit);
    before += unit.count;
  }
  return owned;
}

/** The units cut again, into pieces of at most `most` elements. */
export const piecesOf = (units: readonly Range[], most: number): Range[] =>
  units.flatMap(({ name, from, count }) =>
    Array.from({ length: Math.ceil(count / most) }, (_, i) => ({
      ...{ name, from: from + i * most, count: Math.min(most, count - i * most) },
    })),
  );

/** Neighbouring ranges of one parameter as one. */
export function joined(ranges: readonly Range[]): Range[] {
  const all: Range[] = [];
  for (const range of ranges) {
    const last = all.at(-1);
    if (last?.name === range.name && last.from + last.count === range.from)
      all[all.length - 1] = { ...last, count: last.count + range.count };
    else all.push(range);
  }
  return all;
}
