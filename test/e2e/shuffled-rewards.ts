/** The control for every claim that training works: the same rewards, shuffled inside each group. */

/** A generator of numbers in [0, 1) from a seed (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A `reviseRewards` for the trainer: each group keeps its rewards, in random order (Fisher and Yates). */
export function shuffledWithinGroups(seed: number) {
  const random = generator(seed);
  return (rewards: readonly (number | null)[], groupSize: number): (number | null)[] => {
    const shuffled = [...rewards];
    for (let first = 0; first < shuffled.length; first += groupSize)
      for (let i = groupSize - 1; i > 0; i--) {
        const [a, b] = [first + i, first + Math.floor(random() * (i + 1))];
        [shuffled[a], shuffled[b]] = [shuffled[b]!, shuffled[a]!];
      }
    return shuffled;
  };
}
