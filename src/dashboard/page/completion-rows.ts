/** Rows of the list of completions: a head per prompt, two lines per completion. */
import { verdictText } from "./detail.ts";
import { h } from "./dom.ts";
import { countText, numberText } from "./format.ts";
import type { Group, Listed } from "./groups.ts";
import type { Row } from "./virtual-list.ts";

export interface Entry {
  readonly group: Group;
  readonly line: Listed;
}

/** The rows of groups, and by row the completion there; heads have none. */
export function rowsOf(
  groups: readonly Group[],
  withHeads: boolean,
): { readonly rows: Row[]; readonly entries: (Entry | null)[] } {
  const rows: Row[] = [];
  const entries: (Entry | null)[] = [];
  for (const group of groups) {
    if (withHeads) {
      rows.push(headRow(group));
      entries.push(null);
    }
    for (const line of group.members) {
      rows.push(itemRow(line, group, !withHeads));
      entries.push({ group, line });
    }
  }
  return { rows, entries };
}

const inOneLine = (text: string): string => text.replace(/\s+/g, " ").trim();

function headRow(group: Group): Row {
  const render = () =>
    h(
      "div",
      { class: "group-head" },
      h("span", { class: "prompt-text" }, inOneLine(group.prompt) || `prompt ${group.group}`),
      h("span", { class: "badge" }, `mean ${numberText(group.mean)}`),
      group.isFlat && h("span", { class: "badge" }, "flat"),
    );
  return { isHead: true, render };
}

function itemRow(line: Listed, group: Group, withPrompt: boolean): Row {
  const { reward, tokens, finished, verdict, advantage, text } = line;
  const flags = [
    ...(verdict === "unparsed" || verdict === "timeout" ? [verdict] : []),
    ...(finished ? [] : ["truncated"]),
  ];
  const [mark, kind] = verdict === null ? ["", ""] : verdict === "equal" ? ["✓", "good"] : ["✗", "bad"];
  const words = [
    `reward ${numberText(reward)}`,
    ...(verdict === null ? [] : [verdictText(verdict)]),
    ...(finished ? [] : ["truncated"]),
    `${tokens} tokens`,
    ...(withPrompt ? [] : [inOneLine(group.prompt).slice(0, 60)]),
  ];
  const shown = inOneLine(withPrompt ? `${group.prompt.slice(0, 60)} → ${text}` : text) || "(empty)";
  const render = () =>
    h(
      "div",
      { class: "completion" },
      h("span", { class: `mark ${kind}`, "aria-hidden": "true" }, mark),
      h("span", { class: "unseen" }, `${words.join(", ")}: `),
      h("span", { class: "excerpt" }, shown),
      h(
        "span",
        { class: "line-facts", "aria-hidden": "true" },
        h("b", {}, numberText(reward)),
        advantage !== null && h("span", {}, `adv ${numberText(advantage)}`),
        h("span", {}, `${countText(tokens)} tok`),
        flags.map((flag) => h("span", { class: "badge warn" }, flag)),
      ),
    );
  return { isHead: false, render };
}
