/**
 * The tokens of a completion, each with a ground and an underline as strong as its number: the colour says it, and without it
 * the thickness of the line, dotted where the number is negative. Arrow keys go from token to token.
 */
import { h, replace } from "./dom.ts";
import { numberText, percentText } from "./format.ts";
import { type Colouring, colouringTexts, scaleOf, type Token } from "./token-values.ts";

/** Tokens that are drawn; the rest of a longer completion is plain text. */
const MOST = 20_000;

const shown = (text: string): string => JSON.stringify(text).slice(1, -1);

/** All that is known of a token. */
export function tokenFacts(token: Token, place: number): string {
  const { logprob, ratio, entropy, advantage, shift } = token;
  const facts = [
    `token ${place + 1}: “${shown(token.text)}” (id ${token.id})`,
    logprob !== undefined && `logprob ${numberText(logprob)} (${percentText(Math.exp(logprob))})`,
    entropy !== undefined && `entropy ${numberText(entropy)}`,
    ratio !== undefined && `ratio ${numberText(ratio)}`,
    advantage !== undefined && `advantage ${numberText(advantage)}`,
    shift !== undefined && `against reference ${numberText(shift)}`,
    !token.isOwn && "not sampled",
  ];
  return facts.filter(Boolean).join(" · ");
}

export interface TokenView {
  readonly element: HTMLElement;
  colour(by: Colouring): void;
}

export function tokenView(tokens: readonly Token[]): TokenView {
  const readout = h("p", { class: "readout", "aria-live": "polite" }, "Point at a token, or move with ← →.");
  const scale = h("div", { class: "scale" });
  const spans = tokens.slice(0, MOST).map((token) => {
    const isEmpty = token.text === "";
    return h("span", { class: isEmpty ? "token none" : "token" }, isEmpty ? `⟨${token.id}⟩` : token.text);
  });
  const text = h(
    "div",
    { class: "tokens prose", tabindex: "0", role: "group", "aria-label": "Tokens; arrow keys move" },
    spans,
    tokens.length > MOST &&
      tokens
        .slice(MOST)
        .map((token) => token.text)
        .join(""),
  );
  const places = new Map(spans.map((span, i) => [span as Node, i]));
  let current = -1;
  const point = (index: number): void => {
    if (index === current || tokens[index] === undefined || spans[index] === undefined) return;
    spans[current]?.classList.remove("current");
    current = index;
    spans[index].classList.add("current");
    readout.textContent = tokenFacts(tokens[index], index);
  };
  text.addEventListener("pointerover", (event) => {
    const index = places.get(event.target as Node);
    if (index !== undefined) point(index);
  });
  text.addEventListener("keydown", (event) => {
    const steps: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, Home: -tokens.length, End: tokens.length };
    const step = steps[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    point(Math.min(spans.length - 1, Math.max(0, current + step)));
    spans[current]?.scrollIntoView({ block: "nearest" });
  });
  return {
    element: h("div", { class: "token-view" }, scale, text, readout),
    colour(by) {
      const { strength, ends, isTwoSided } = scaleOf(tokens, by);
      for (const [i, span] of spans.entries()) {
        const token = tokens[i]!;
        const value = token[by] === undefined ? 0 : strength(token);
        const size = Math.abs(value);
        span.style.setProperty("--strength", `${Math.round(size * 100)}%`);
        span.style.borderBottomWidth = `${size < 0.04 ? 0 : 1 + Math.round(size * 2)}px`;
        span.classList.toggle("minus", value < 0);
      }
      const { name, about } = colouringTexts[by];
      const step = (share: number) => {
        const mark = h("span", { class: share < 0 ? "token minus" : "token" }, "\u2002");
        mark.style.setProperty("--strength", `${Math.abs(share) * 100}%`);
        mark.style.borderBottomWidth = `${share === 0 ? 0 : 1 + Math.round(Math.abs(share) * 2)}px`;
        return mark;
      };
      const shares = isTwoSided ? [-1, -0.5, 0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1];
      replace(
        scale,
        h("span", { class: "scale-name" }, name),
        numberText(ends[0]),
        h("span", { "aria-hidden": "true" }, shares.map(step)),
        numberText(ends[1]),
        h("span", { class: "muted" }, about),
      );
    },
  };
}
