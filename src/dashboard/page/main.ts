/** The page: opens the store, the panels and the stream of events, and leads from one to the other. */
import type { ProgressMessage, StateMessage } from "../protocol.ts";
import { openCharts } from "./charts.ts";
import { openCompletions } from "./completions.ts";
import { byId, takesKeys } from "./dom.ts";
import { openHead } from "./head.ts";
import { openMemory } from "./memory.ts";
import { type Note, openNotes, openSettings } from "./settings.ts";
import { openStore } from "./store.ts";

const tabs = ["charts", "completions", "memory", "settings", "notes"] as const;
type Tab = (typeof tabs)[number];

// The token has become a cookie: it need not stay in the address.
if (location.search !== "") history.replaceState(null, "", `${location.pathname}${location.hash}`);

const themes = ["auto", "light", "dark"] as const;
const themeButton = byId("theme");
function setTheme(name: (typeof themes)[number]): void {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
  themeButton.textContent = name === "auto" ? "◐ auto" : name === "light" ? "☀ light" : "☾ dark";
  themeButton.setAttribute("aria-label", `Colours: ${name}`);
}
setTheme(themes.find((name) => name === localStorage.getItem("theme")) ?? "auto");

/** Says something to screen readers. */
function announce(text: string): void {
  byId("live").textContent = text;
}

async function open(): Promise<void> {
  const store = await openStore();
  const head = openHead(store);
  const charts = openCharts(store, announce);
  const completions = openCompletions(store);
  const memory = openMemory(store);
  const settings = openSettings(store);
  const notes = openNotes();

  const retheme = (): void => {
    charts.retheme();
    memory.draw();
  };
  themeButton.addEventListener("click", () => {
    const now = themes.findIndex((name) => name === (localStorage.getItem("theme") ?? "auto"));
    setTheme(themes[(now + 1) % themes.length]!);
    retheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", retheme);

  let current: Tab | null = null;
  const show = (tab: Tab): void => {
    if (tab === current) return;
    current = tab;
    for (const each of tabs) {
      const button = byId(`tab-${each}`);
      button.setAttribute("aria-selected", String(each === tab));
      button.tabIndex = each === tab ? 0 : -1;
      byId(`panel-${each}`).hidden = each !== tab;
    }
    completions.setVisible(tab === "completions");
    if (tab === "memory") memory.draw();
    if (tab === "settings") settings.draw();
    if (location.hash !== `#${tab}`) history.replaceState(null, "", `#${tab}`);
  };
  const fromHash = (): Tab => tabs.find((tab) => location.hash === `#${tab}`) ?? "charts";
  for (const tab of tabs) byId(`tab-${tab}`).addEventListener("click", () => show(tab));
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const open = tabs.filter((tab) => !byId(`tab-${tab}`).hidden);
    const next = open[(open.indexOf(current ?? "charts") + step + open.length) % open.length]!;
    show(next);
    byId(`tab-${next}`).focus();
  });
  addEventListener("hashchange", () => show(fromHash()));

  const help = byId<HTMLDialogElement>("help");
  byId("help-button").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (takesKeys(event.target) || event.altKey || event.ctrlKey || event.metaKey || help.open) return;
    if (event.key === "?") help.showModal();
    else {
      const tab = tabs[Number(event.key) - 1];
      if (tab === undefined || byId(`tab-${tab}`).hidden || (event.target as HTMLElement).closest(".plot")) return;
      show(tab);
      byId(`tab-${tab}`).focus();
    }
    event.preventDefault();
  });

  store.onChange(head.draw);
  store.refresh();
  show(fromHash());
  // Nobody looks at a hidden page: it keeps what the events bring, since a run that has ended is not asked again, and neither draws
  // (a browser draws no pictures of it) nor asks.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) store.refresh();
  });

  const events = new EventSource("/api/events");
  const parsed = <T>(event: Event): T => JSON.parse((event as MessageEvent<string>).data) as T;
  events.addEventListener("open", () => {
    notes.clear();
    head.connected(true);
  });
  events.addEventListener("error", () => head.connected(false));
  events.addEventListener("state", (event) => {
    const message = parsed<StateMessage>(event);
    void store.take(message);
    if (message.status !== "ended") return;
    // Nobody will answer again.
    events.close();
    head.progress(null);
  });
  events.addEventListener("progress", (event) => head.progress(parsed<ProgressMessage>(event)));
  events.addEventListener("note", (event) => notes.add(parsed<Note>(event)));
}

open().catch((error: unknown) => {
  byId("waiting").textContent = `The page cannot be shown: ${error instanceof Error ? error.message : String(error)}`;
});
