/** Text with its LaTeX as MathML. temml is fetched when the first formula is shown; what it cannot read stays as it stands. */
import { h } from "./dom.ts";
import { mathPieces } from "./math-text.ts";

let temml: Promise<typeof import("temml").default> | null = null;

/** Formulas of one text that are rendered; the rest stays as it stands. */
const MOST = 500;

export function mathText(text: string): HTMLElement {
  const element = h("div", { class: "prose" });
  let count = 0;
  for (const piece of mathPieces(text)) {
    if (piece.kind === "text" || ++count > MOST) {
      element.append(piece.text);
      continue;
    }
    const place = h(piece.isBlock ? "div" : "span", { class: "math", title: piece.source }, piece.text);
    element.append(place);
    void render(piece.source, piece.isBlock, place);
  }
  return element;
}

async function render(source: string, displayMode: boolean, place: HTMLElement): Promise<void> {
  temml ??= import("temml").then((module) => module.default);
  const whole = h("span");
  try {
    (await temml).render(source, whole, {
      displayMode,
      throwOnError: true,
      trust: false,
      maxExpand: 200,
      maxSize: [20, 20],
    });
    place.replaceChildren(...whole.childNodes);
  } catch {
    place.classList.add("unread");
  }
}
