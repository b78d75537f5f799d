/** Elements. Text from a run enters the page as text only, never as markup. */

type Child = Node | string | null | undefined | false;
type Attributes = Readonly<Record<string, unknown>>;

/**
 * `h("button", { class: "chip", "aria-pressed": "true", onclick: f }, "all")`. Attributes that are null, undefined or false
 * are left out; functions are listeners.
 */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: readonly (Child | readonly Child[])[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value as EventListener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag: string, attributes: Attributes = {}, ...children: readonly Child[]): SVGElement {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, String(value));
  append(element, children);
  return element;
}

function append(element: Element, children: readonly (Child | readonly Child[])[]): void {
  for (const child of children.flat()) if (child) element.append(child as Node | string);
}

export function replace(element: Element, ...children: readonly (Child | readonly Child[])[]): void {
  element.replaceChildren();
  append(element, children);
}

/** Sets a text, an attribute: what stays as it is costs a picture too, unless it is left alone. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}
export function setAttribute(element: Element, name: string, value: string): void {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** @throws Error if the page lacks it: a mistake of ours */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no #${id}`);
  return element as T;
}

/** Runs `work` once when `later` comes to it, however often it is asked for until then. */
function onceLater(later: (run: () => void) => void, work: () => void): () => void {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    later(() => {
      asked = false;
      work();
    });
  };
}

/** Runs `work` once before the next picture, however often it is asked for. */
export const oncePerFrame = (work: () => void): (() => void) => onceLater((run) => requestAnimationFrame(run), work);

/** Runs `work` so many milliseconds after it is asked for, however often it is asked for until then. */
export const onceWithin = (ms: number, work: () => void): (() => void) => onceLater((run) => setTimeout(run, ms), work);

/** Whether keys belong to a field that takes text or moves by itself. */
export const takesKeys = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
