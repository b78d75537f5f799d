/** The range of steps that all charts show together. */
import { oncePerFrame } from "./dom.ts";

export interface View {
  /** All steps that there are. */
  readonly whole: readonly [first: number, last: number];
  /** What is shown now. */
  readonly range: readonly [min: number, max: number];
  /** Whether everything is shown, and new steps as they come. */
  readonly isWhole: boolean;
  /** The steps that there are have changed; whoever says so draws what is shown then. */
  extend(first: number, last: number): void;
  show(min: number, max: number): void;
  /** Shows the newest `count` steps, and goes with them; all of them by default. */
  follow(count?: number): void;
  /** Moves by a share of what is shown. */
  pan(share: number): void;
  /** Above 1: nearer, around `center`. */
  zoom(factor: number, center?: number): void;
  onChange(listener: () => void): void;
}

/** Fewest steps that are shown. */
const LEAST = 2;

export function createView(): View {
  let whole: [number, number] = [0, 1];
  let range: [number, number] = [0, 1];
  /** Steps at the end that are followed; null: the range stays where it is. */
  let followed: number | null = Number.POSITIVE_INFINITY;
  const listeners: (() => void)[] = [];
  const tell = oncePerFrame(() => {
    for (const listener of listeners) listener();
  });
  const follow = (): void => {
    if (followed === null) return;
    range = [Math.max(whole[0], whole[1] - followed), whole[1]];
  };
  const show = (min: number, max: number): void => {
    const length = Math.min(Math.max(max - min, LEAST), whole[1] - whole[0]);
    const from = Math.min(Math.max(min, whole[0]), whole[1] - length);
    range = [from, from + length];
    followed = length >= whole[1] - whole[0] ? Number.POSITIVE_INFINITY : null;
    tell();
  };
  return {
    get whole() {
      return whole;
    },
    get range() {
      return range;
    },
    get isWhole() {
      return followed === Number.POSITIVE_INFINITY;
    },
    extend(first, last) {
      const end = Math.max(last, first + 1);
      if (first === whole[0] && end === whole[1]) return;
      whole = [first, end];
      follow();
      if (range[1] > end || range[0] < first) show(range[0], range[1]);
    },
    show,
    follow(count = Number.POSITIVE_INFINITY) {
      followed = count >= whole[1] - whole[0] ? Number.POSITIVE_INFINITY : count;
      follow();
      tell();
    },
    pan(share) {
      const by = share * (range[1] - range[0]);
      show(range[0] + by, range[1] + by);
    },
    zoom(factor, center = (range[0] + range[1]) / 2) {
      show(center - (center - range[0]) / factor, center + (range[1] - center) / factor);
    },
    onChange(listener) {
      listeners.push(listener);
    },
  };
}
