/**
 * Which rank sums and updates which elements of the trained parameters. All elements are cut into units, the same for any
 * number of ranks; each rank has neighbouring units, about equally many elements.
 */

/** The smallest unit, and about how many of them a model is cut into at most. */
const LEAST_UNIT = 2 ** 14;
const MOST_UNITS = 4096;

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

/**
 * All elements in units, in order. The squares of a gradient are summed unit by unit, so the norm is the same whoever has
 * which.
 */
export function unitsOf(parameters: readonly ParameterSize[]): Range[] {
  const total = parameters.reduce((sum, { elements }) => sum + elements, 0);
  let unit = LEAST_UNIT;
  while (total / unit > MOST_UNITS) unit *= 2;
  return parameters.flatMap(({ name, elements }) =>
    Array.from({ length: Math.ceil(elements / unit) }, (_, i) => ({
      ...{ name, from: i * unit, count: Math.min(unit, elements - i * unit) },
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

/** Ranges of an exchange lie at multiples of this many elements in the buffer that takes them. */
const PLACE = 32;

/** Elements that a range takes in such a buffer. */
export const placed = (count: number): number => Math.ceil(count / PLACE) * PLACE;

/** A rank's elements in exchanges, each of ranges that take at most `most` elements of a buffer: a multiple of 32. */
export function roundsOf(units: readonly Range[], most: number): Range[][] {
  const rounds: Range[][] = [];
  let room = 0;
  for (const { name, from, count } of joined(units))
    for (let at = 0; at < count; ) {
      if (room === 0) {
        rounds.push([]);
        room = most;
      }
      const piece = Math.min(room, count - at);
      rounds.at(-1)!.push({ name, from: from + at, count: piece });
      at += piece;
      room -= placed(piece);
    }
  return rounds;
}

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
