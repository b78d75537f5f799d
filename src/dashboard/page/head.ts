/** The head of the page: what runs, how far it is, and its newest numbers. */
import type { ProgressMessage } from "../protocol.ts";
import { byId, h, oncePerFrame, replace, setAttribute, setText } from "./dom.ts";
import { bytesText, countText, durationText, numberText, percentText } from "./format.ts";
import type { Run, Store } from "./store.ts";

export interface Head {
  draw(): void;
  progress(progress: ProgressMessage | null): void;
  connected(isConnected: boolean): void;
}

/** How often the title has another step, in ms: a browser draws its own window anew for it, at a tenth of a picture's cost. */
const TITLE_MS = 20_000;
/** How often the time since a run was last written is shown anew, in ms. */
const AGE_MS = 15_000;

const lastValue = (store: Store, run: Run, table: "steps" | "evaluations", name: string): number | null =>
  store.column(run, table, name)?.last(0) ?? null;

const firstValue = (store: Store, run: Run, table: "steps" | "evaluations", name: string): number | null =>
  store.column(run, table, name)?.first() ?? null;

export function openHead(store: Store): Head {
  let progress: ProgressMessage | null = null;
  let isConnected = true;
  let titled = { at: Number.NEGATIVE_INFINITY, status: "" };
  const setTitle = (title: string, status: string): void => {
    const now = performance.now();
    if (document.title === title || (now - titled.at < TITLE_MS && status === titled.status)) return;
    document.title = title;
    titled = { at: now, status };
  };
  const text = (id: string, value: string): void => setText(byId(id), value);

  const statusText = (): readonly [text: string, kind: string] => {
    const [run] = store.runs;
    if (run === undefined) return ["no run", "ended"];
    const { state, info } = run;
    if (store.status === "ended") return ["ended", "ended"];
    if (!isConnected) return ["not connected", "lost"];
    if (store.status === "running") return ["live", "live"];
    if (store.runs.length > 1) return [`${store.runs.length} runs`, "ended"];
    if (info.totalSteps && state.step >= info.totalSteps) return ["finished", "ended"];
    const age = state.written === null ? null : (Date.now() - state.written) / 1000;
    if (age === null) return ["no steps yet", "ended"];
    return age < 30 ? ["being written", "live"] : [`last written ${durationText(age)} ago`, "ended"];
  };

  const tilesOf = (run: Run): [name: string, value: string, more: string][] => {
    const now = (name: string) => lastValue(store, run, "steps", name);
    const tiles: [string, string, string][] = [];
    const [reward, firstReward] = [now("reward"), firstValue(store, run, "steps", "reward")];
    if (reward !== null) tiles.push(["reward", numberText(reward), `first ${numberText(firstReward)}`]);
    const accuracy = lastValue(store, run, "evaluations", "eval_accuracy");
    const before = firstValue(store, run, "evaluations", "eval_accuracy");
    if (accuracy !== null)
      tiles.push(["accuracy", percentText(accuracy), `first ${percentText(before ?? Number.NaN)}`]);
    const loss = now("loss");
    if (reward === null && loss !== null) tiles.push(["loss", numberText(loss), ""]);
    const kl = now("kl");
    if (kl !== null) tiles.push(["KL", numberText(kl), "nats per token"]);
    const length = now("completions/mean_length");
    if (length !== null) tiles.push(["length", numberText(length), "tokens, mean"]);
    const speed = now("tokens_per_second");
    if (speed !== null)
      tiles.push(["tokens/s", numberText(speed), `${durationText(now("step_time") ?? Number.NaN)} a step`]);
    const memory = now("memory_peak_bytes");
    if (memory !== null && memory > 0) tiles.push(["memory", bytesText(memory), "peak"]);
    return tiles;
  };

  const draw = oncePerFrame((): void => {
    const { runs } = store;
    const [run] = runs;
    if (run === undefined) return;
    const { info, state } = run;
    const [status, kind] = statusText();
    text("status-text", status);
    setAttribute(byId("status"), "data-kind", kind);
    const title = runs.length > 1 ? `${runs.length} runs` : info.name;
    text("run-name", title);
    const total = info.totalSteps ?? progress?.steps ?? null;
    const step = state.step;
    const tab = runs.length > 1 ? `${title} · grpo` : `${total ? `${step}/${total} · ` : ""}${title} · grpo`;
    setTitle(tab, status);
    const settings = info.settings as Record<string, unknown>;
    const model = typeof settings.model === "string" ? settings.model : "bundled model";
    const dataset = typeof settings.dataset === "string" ? settings.dataset : "bundled problems";
    text(
      "run-about",
      runs.length > 1
        ? runs.map((each) => each.info.name).join(" · ")
        : `${info.command ?? "run"} · ${model} · ${dataset}`,
    );
    const bar = byId<HTMLProgressElement>("progress");
    bar.hidden = runs.length > 1 || total === null;
    setAttribute(bar, "max", String(total ?? 1));
    setAttribute(bar, "value", String(step));
    setAttribute(bar, "aria-label", total === null ? "steps" : `step ${step} of ${total}`);
    const seconds = lastValue(store, run, "steps", "step_time");
    const left = total === null || seconds === null ? null : Math.max(0, total - step) * seconds;
    const phase =
      progress === null || store.status !== "running"
        ? ""
        : `${progress.phase}${progress.done === undefined ? "" : ` ${countText(progress.done)}${progress.total ? `/${countText(progress.total)}` : ""}`}`;
    const parts = [
      `step ${countText(step)}${total === null ? "" : ` of ${countText(total)}`}`,
      phase,
      store.status === "running" && left !== null && left > 0 && `about ${durationText(left)} left`,
      state.damaged > 0 && `${state.damaged} damaged lines skipped`,
      !state.read && "reading …",
    ];
    byId("progress-line").hidden = runs.length > 1;
    text("run-progress", runs.length > 1 ? "" : parts.filter(Boolean).join(" · "));
    const tiles = byId("tiles");
    tiles.hidden = runs.length > 1;
    const now = runs.length > 1 ? [] : tilesOf(run);
    if (tiles.children.length !== now.length)
      replace(
        tiles,
        now.map(() => h("div", { class: "tile" }, h("dt", {}), h("dd", {}), h("dd", { class: "muted" }))),
      );
    for (const [i, values] of now.entries())
      for (const [k, value] of values.entries()) setText(tiles.children[i]!.children[k]!, value);
  });
  // How long ago something was written goes on by itself; a run that tells of itself needs no clock.
  setInterval(() => {
    if (store.status === "unknown" && !document.hidden) draw();
  }, AGE_MS);
  return {
    draw,
    progress(next) {
      progress = next;
      draw();
    },
    connected(now) {
      isConnected = now;
      draw();
    },
  };
}
