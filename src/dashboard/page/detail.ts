/** One completion: its prompt, its group with rewards and advantages, its text with tokens or formulas, and its facts. */
import { h, replace, svg } from "./dom.ts";
import { countText, numberText } from "./format.ts";
import { mathText } from "./formulas.ts";
import type { Group, Listed } from "./groups.ts";
import { type Colouring, colourings, colouringTexts, possible, tokensOf } from "./token-values.ts";
import { tokenView } from "./tokens.ts";

export interface DetailContext {
  readonly step: number;
  readonly group: Group;
  readonly line: Listed;
  /** The line as it stands in the file. */
  readonly row: Readonly<Record<string, unknown>>;
  readonly chooseMember: (line: Listed) => void;
}

type Look = "text" | "formulas" | Colouring;

/** The look is kept from one completion to the next. */
let look: Look = "logprob";

const textOf = (value: unknown): string => (typeof value === "string" ? value : "");

const verdicts: Readonly<Record<string, string>> = {
  equal: "right",
  different: "wrong",
  unparsed: "no answer found",
  timeout: "verifier timed out",
};

/** A short word for what became of a completion. */
export const verdictText = (verdict: string): string => verdicts[verdict] ?? verdict;

export function showDetail(place: HTMLElement, context: DetailContext): void {
  const { step, group, line, row } = context;
  const members = group.members;
  const own = members.findIndex(({ index }) => index === line.index);
  const promptPlace = h("div", { class: "box" });
  const textPlace = h("div", { class: "box" });
  const tokens = tokensOf(row);
  const looks: Look[] = ["text", "formulas", ...(tokens === null ? [] : possible(tokens))];
  if (!looks.includes(look)) look = "formulas";
  const view = tokens === null ? null : tokenView(tokens);
  const showText = (): void => {
    const isToken = colourings.includes(look as Colouring);
    const prompt = textOf(row.prompt);
    replace(promptPlace, look === "formulas" ? mathText(prompt) : h("div", { class: "prose" }, prompt));
    if (isToken && view !== null) {
      view.colour(look as Colouring);
      replace(textPlace, view.element);
    } else
      replace(
        textPlace,
        look === "formulas" ? mathText(textOf(row.completion)) : h("div", { class: "prose" }, textOf(row.completion)),
      );
  };
  const select = h(
    "select",
    { id: "look", "aria-label": "Show the completion as" },
    looks.map((each) =>
      h(
        "option",
        { value: each, selected: each === look },
        each === "text" || each === "formulas" ? each : `tokens by ${colouringTexts[each].name}`,
      ),
    ),
  );
  select.addEventListener("change", () => {
    look = select.value as Look;
    showText();
  });
  showText();
  replace(
    place,
    h("h3", {}, `Step ${countText(step)} · prompt ${group.group} · completion ${own + 1} of ${members.length}`),
    h("h4", {}, "Prompt"),
    promptPlace,
    h("h4", {}, "Group"),
    groupPicture(context),
    h("div", { class: "split" }, h("h4", {}, "Completion"), h("label", { class: "muted" }, "shown as ", select)),
    textPlace,
    tokens === null &&
      h("p", { class: "muted" }, "Tokens were not recorded one by one; --save_token_details true records them."),
    h("h4", {}, "Facts"),
    facts(context),
  );
}

/** A bar per member: its reward above, its advantage below, both in words for those who do not see them. */
function groupPicture({ group, line, chooseMember }: DetailContext): HTMLElement {
  const { members } = group;
  const rewards = members.map(({ reward }) => reward ?? 0);
  const advantages = members.map(({ advantage }) => advantage ?? 0);
  const most = Math.max(1e-9, ...rewards.map(Math.abs));
  const mostAdvantage = Math.max(1e-9, ...advantages.map(Math.abs));
  const hasAdvantages = members.some(({ advantage }) => advantage !== null);
  const buttons = members.map((member, i) => {
    const { reward, advantage, verdict, finished } = member;
    const words = [
      `completion ${i + 1}`,
      `reward ${numberText(reward)}`,
      advantage !== null && `advantage ${numberText(advantage)}`,
      verdict !== null && verdictText(verdict),
      !finished && "truncated",
    ].filter(Boolean);
    const height = (30 * Math.abs(rewards[i]!)) / most;
    // Small ones are seen too beside a large one.
    const reach = advantages[i] === 0 ? 0 : Math.max(3, 14 * Math.sqrt(Math.abs(advantages[i]!) / mostAdvantage));
    const picture = svg(
      "svg",
      { viewBox: "0 0 30 66", width: 30, height: 66, "aria-hidden": "true" },
      svg("rect", {
        class: rewards[i]! < 0 ? "bar minus" : "bar",
        x: 6,
        y: 34 - height,
        width: 18,
        height: Math.max(1, height),
        rx: 2,
      }),
      reward === null && svg("text", { x: 15, y: 30, "text-anchor": "middle" }, "?"),
      hasAdvantages && svg("line", { class: "axis", x1: 2, x2: 28, y1: 51, y2: 51 }),
      hasAdvantages &&
        svg("path", {
          class: advantages[i]! < 0 ? "advantage minus" : "advantage",
          // A triangle up or down: the sign is in the shape.
          d: advantages[i]! >= 0 ? `M9 51 L15 ${51 - reach} L21 51 Z` : `M9 51 L15 ${51 + reach} L21 51 Z`,
        }),
    );
    return h(
      "button",
      {
        ...{ type: "button", class: "member", title: words.join(", "), "aria-label": words.join(", ") },
        ...{ "aria-current": member.index === line.index && "true", onclick: () => chooseMember(member) },
      },
      picture,
      h("span", { class: "member-reward" }, numberText(reward)),
    );
  });
  const caption = [
    `mean reward ${numberText(group.mean)}`,
    group.isFlat ? "all equal: nothing is learned" : "",
    hasAdvantages ? "bars: rewards; triangles: advantages" : "bars: rewards",
  ];
  return h(
    "div",
    {},
    h("div", { class: "members", role: "group", "aria-label": "Completions of this prompt" }, buttons),
    h("p", { class: "muted" }, caption.filter(Boolean).join(" · ")),
  );
}

function facts({ line, row }: DetailContext): HTMLElement {
  const pairs: [string, string][] = [
    ["reward", numberText(line.reward)],
    ...named(row.rewards).map(([name, value]): [string, string] => [
      `reward ${name}`,
      `${numberText(typeof value === "number" ? value : null)} × ${numberText(weightOf(row, name))}`,
    ]),
    ["advantage", line.advantage === null ? "not recorded" : numberText(line.advantage)],
    ["tokens", countText(line.tokens)],
    [
      "ended",
      line.finished
        ? typeof row.stop === "string"
          ? `by stop string ${JSON.stringify(row.stop)}`
          : "by itself"
        : "cut at the length limit",
    ],
    ...(line.verdict === null ? [] : [["verifier", verdictText(line.verdict)] as [string, string]]),
    ...(typeof row.step === "number" ? [["learned from in step", countText(row.step)] as [string, string]] : []),
    ...named(row.extra).map(([name, value]): [string, string] => [
      name,
      typeof value === "string" ? value : JSON.stringify(value),
    ]),
  ];
  return h(
    "dl",
    { class: "facts" },
    pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
}

const named = (value: unknown): [string, unknown][] =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? Object.entries(value) : [];

function weightOf(row: Readonly<Record<string, unknown>>, name: string): number | null {
  const weight = (row.reward_weights as Record<string, unknown> | undefined)?.[name];
  return typeof weight === "number" ? weight : null;
}
