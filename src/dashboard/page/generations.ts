/** Which generation is looked at: a slider over those that are recorded, which goes with the newest unless it was moved. */
import { askGenerations } from "./api.ts";
import { byId } from "./dom.ts";
import { countText, plural } from "./format.ts";
import type { Run } from "./store.ts";

export interface GenerationPicker {
  /** The first step of the generation; null: none is recorded. */
  readonly step: number | null;
  /** Another run is looked at. */
  setRun(run: Run | undefined): void;
  /** Asks what is recorded now, and goes on with the newest if that is wanted. */
  refresh(): Promise<void>;
  move(by: 1 | -1): void;
}

/**
 * @param onStep a generation is to be shown; null: there is none
 * @param isBusy whether something of the generation is being read, so that it stays
 */
export function generationPicker(onStep: (step: number | null) => void, isBusy: () => boolean): GenerationPicker {
  const slider = byId<HTMLInputElement>("generation");
  const text = byId("generation-text");
  const followBox = byId<HTMLInputElement>("follow");
  let run: Run | undefined;
  let steps: number[] = [];
  let epoch = 0;
  let step: number | null = null;

  const show = (): void => {
    slider.max = String(Math.max(0, steps.length - 1));
    slider.value = String(step === null ? 0 : Math.max(0, steps.indexOf(step)));
    slider.disabled = steps.length < 2;
    const now = step === null ? "none recorded" : `step ${countText(step)}`;
    if (text.textContent !== now) text.textContent = now;
    slider.setAttribute("aria-valuetext", now);
    byId("generation-count").textContent = plural(steps.length, "generation");
  };
  const set = (next: number | null): void => {
    const isOther = next !== step;
    step = next;
    show();
    if (isOther || next === null) onStep(next);
  };
  const goTo = (at: number): void => {
    const next = steps[Math.min(steps.length - 1, Math.max(0, at))];
    if (next === undefined) return;
    followBox.checked = next === steps.at(-1);
    set(next);
  };
  /** @returns whether `steps` is what there is */
  const fetchSteps = async (of: Run): Promise<boolean> => {
    if (steps.length === of.state.generations && epoch > 0) return true;
    let answer = await askGenerations(of.info.run, steps.length);
    if (answer.epoch !== epoch && steps.length > 0) {
      answer = await askGenerations(of.info.run, 0);
      steps = [];
    }
    if (of !== run || answer.from !== steps.length) return false;
    epoch = answer.epoch;
    steps = steps.concat(answer.steps);
    return true;
  };

  slider.addEventListener("input", () => goTo(Number(slider.value)));
  const move = (by: 1 | -1): void => goTo(steps.indexOf(step ?? -1) + by);
  byId("generation-back").addEventListener("click", () => move(-1));
  byId("generation-on").addEventListener("click", () => move(1));
  followBox.addEventListener("change", () => {
    if (followBox.checked) goTo(steps.length - 1);
  });
  return {
    get step() {
      return step;
    },
    setRun(next) {
      run = next;
      [steps, epoch, step] = [[], 0, null];
    },
    async refresh() {
      if (run === undefined) return;
      const isKnown = await fetchSteps(run).catch(() => false);
      if (!isKnown) return;
      const last = steps.at(-1) ?? null;
      const isLost = step === null || !steps.includes(step);
      if (isLost || (followBox.checked && !isBusy())) set(last);
      else show();
    },
    move,
  };
}
