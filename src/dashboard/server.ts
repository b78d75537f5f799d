/**
 * The page's server: the page, the metrics of the runs as columns, the completions line by line, and events when something
 * is new. It answers GET only, takes numbers and names of columns only, and opens nothing but the files of the runs.
 */
import { hostname, networkInterfaces } from "node:os";
import { InputError, RunError } from "../errors.ts";
import type { PageFiles } from "./bundle.ts";
import { createEvents, eventText } from "./events.ts";
import { cookieOf, hasToken, isLoopback, newToken, type Policy, refusalOf, safeHeaders } from "./guard.ts";
import { type FreshRows, type ProgressMessage, type StateMessage, type Status, tables } from "./protocol.ts";
import { answerOf, refused } from "./routes.ts";
import type { RunView } from "./run-view.ts";

export const DEFAULT_PORT = 7007;
/** Ports tried after a default one that is taken. */
const MORE_PORTS = 20;
/**
 * How often the folders are looked at, in ms. What is new is told and drawn as often, all of it at once, since a browser beside
 * the training takes its cores: at 500 ms, runs of the bundled model took a fifth longer on 2 cores. A page that is opened and a
 * trainer that says what it is at (open.ts, somewhat more often than this) have them looked at at once.
 */
const POLL_MS = 4600;
/** How long reading a large file may keep requests waiting, in ms. */
const BUSY_MS = 12;
/** A page behind a proxy hears something this often, in ms. */
const HEARTBEAT_MS = 15_000;
/** Notes kept for pages that are opened later. */
const NOTES = 200;

export interface ServerOptions {
  readonly runs: readonly RunView[];
  readonly files: PageFiles;
  /** Where it listens: a name or address of this machine. */
  readonly host: string;
  /** null: the usual one, or the next that is free. 0: any. */
  readonly port: number | null;
  readonly status: Status;
}

export interface PageServer {
  /** With the token, where one is needed. */
  readonly url: string;
  readonly port: number;
  readonly token: string | null;
  progress(progress: ProgressMessage): void;
  note(text: string): void;
  /** Reads what is left and tells the pages that the run has ended. */
  end(): Promise<void>;
  close(): void;
}

/** @throws InputError if the port or the host cannot be used */
export function startServer(options: ServerOptions): PageServer {
  const { runs, files, host } = options;
  let status = options.status;
  const events = createEvents();
  const notes: { readonly at: number; readonly text: string }[] = [];
  let lastProgress: ProgressMessage | null = null;
  let last: StateMessage | null = null;
  let lastState = "";
  /** Notes and progress that are told with the next state: each time that something is told costs a page a picture. */
  let waiting: string[] = [];
  let isProgressNew = false;
  let told = 0;

  const state = (): StateMessage => ({ status, runs: runs.map((run) => run.state()) });
  const tell = (): void => {
    const now = state();
    const text = JSON.stringify(now);
    if (events.pages > 0) {
      const parts = waiting;
      if (text !== lastState) parts.push(eventText("state", { ...now, fresh: freshRows(runs, last, now) }));
      if (isProgressNew && lastProgress !== null) parts.push(eventText("progress", lastProgress));
      if (parts.length > 0) {
        events.send(parts.join(""));
        told = performance.now();
      }
    }
    [last, lastState, waiting, isProgressNew] = [now, text, [], false];
  };

  const isPublic = !isLoopback(host);
  const token = isPublic ? newToken() : null;
  const policy: Policy = { names: isPublic ? [host, hostname()].map(lower) : [], anyAddress: isPublic, token };

  const answer = async (request: Request, server: Bun.Server<undefined>, url: URL): Promise<Response> => {
    const { pathname: path, searchParams: query } = url;
    if (path === "/api/events") {
      // What waits is in what a page begins with.
      tell();
      const first = [eventText("state", state()), ...notes.map((note) => eventText("note", note))];
      if (lastProgress !== null) first.push(eventText("progress", lastProgress));
      const stream = events.open(first);
      if (stream === null) return refused(503, "too many pages are open");
      server.timeout(request, 0);
      wake();
      return new Response(stream, { headers: { "content-type": "text/event-stream" } });
    }
    return (await answerOf(runs, files, path, query)) ?? refused(404, "there is nothing here");
  };

  const cookie = (): string => `grpo-${server.port}`;
  const respond = async (request: Request, server: Bun.Server<undefined>): Promise<Response> => {
    const url = URL.canParse(request.url) ? new URL(request.url) : null;
    if (url === null) return refused(400, "this address cannot be read");
    const refusal = refusalOf(request, url.pathname, policy);
    if (refusal !== null) return refused(refusal.status, refusal.text);
    const inAddress = url.pathname === "/" ? url.searchParams.get("token") : null;
    if (!hasToken([inAddress, cookieOf(request.headers, cookie())], token))
      return refused(401, "open the address with its token, as the program printed it");
    const response = await answer(request, server, url);
    if (token !== null && inAddress !== null)
      response.headers.set("set-cookie", `${cookie()}=${token}; HttpOnly; SameSite=Strict; Path=/`);
    return response;
  };

  const server = listen(options, async (request, own) => {
    const response = await respond(request, own).catch(() => refused(500, "this could not be answered"));
    for (const [name, value] of Object.entries(safeHeaders)) response.headers.set(name, value);
    if (response.status === 405) response.headers.set("allow", "GET");
    return response;
  });

  let timer: ReturnType<typeof setTimeout> | undefined;
  let polling = false;
  let closed = false;
  const pollAll = async (): Promise<void> => {
    let since = performance.now();
    for (const run of runs)
      while (run.poll()) {
        if (performance.now() - since < BUSY_MS) continue;
        tell();
        await Bun.sleep(1);
        since = performance.now();
        if (closed) return;
      }
    tell();
  };
  const poll = async (): Promise<void> => {
    if (polling || closed) return;
    polling = true;
    clearTimeout(timer);
    await pollAll().finally(() => {
      polling = false;
    });
    if (!closed) timer = setTimeout(poll, POLL_MS);
  };
  const wake = (): void => void poll();
  const heartbeat = setInterval(() => {
    if (performance.now() - told > HEARTBEAT_MS / 2) events.send(": \n\n");
  }, HEARTBEAT_MS);
  wake();

  const shown = isPublic && ["0.0.0.0", "::"].includes(host) ? hostname() : host;
  const authority = shown.includes(":") ? `[${shown}]` : shown;
  return {
    url: `http://${authority}:${server.port}/${token === null ? "" : `?token=${token}`}`,
    port: server.port!,
    token,
    progress(progress) {
      lastProgress = progress;
      isProgressNew = true;
      wake();
    },
    note(text) {
      const note = { at: Date.now(), text: text.slice(0, 2000) };
      notes.push(note);
      if (notes.length > NOTES) notes.shift();
      waiting.push(eventText("note", note));
    },
    async end() {
      status = "ended";
      lastProgress = null;
      while (polling) await Bun.sleep(5);
      await pollAll();
      events.close();
    },
    close() {
      closed = true;
      clearTimeout(timer);
      clearInterval(heartbeat);
      events.close();
      for (const run of runs) run.close();
      server.stop(true);
    },
  };
}

/** The rows of each run that have come between two states. */
function freshRows(runs: readonly RunView[], before: StateMessage | null, now: StateMessage): StateMessage["fresh"] {
  return runs.map((run, i) => {
    const since = before?.runs[i];
    if (since === undefined || since.epoch !== now.runs[i]!.epoch) return null;
    const found = tables.flatMap((name): [string, FreshRows][] => {
      const fresh = run.table(name).fresh(since.rows[name]);
      return fresh === null ? [] : [[name, fresh]];
    });
    return found.length === 0 ? null : Object.fromEntries(found);
  });
}

const lower = (text: string): string => text.toLowerCase();

/** Whether a name or address is the machine's: what starts the server does not tell a strange one from a taken port. */
function isOwn(host: string): boolean {
  if (isLoopback(host) || ["0.0.0.0", "::", hostname()].includes(host)) return true;
  const addresses = Object.values(networkInterfaces()).flatMap((each = []) => each.map(({ address }) => address));
  return addresses.includes(host);
}

/** @throws InputError if the port is taken or the host is none of this machine, RunError for anything else */
function listen(
  { host, port }: ServerOptions,
  fetch: (request: Request, server: Bun.Server<undefined>) => Promise<Response>,
): Bun.Server<undefined> {
  if (!isOwn(host))
    throw new InputError(`host ${host}: not an address of this machine; give one of its own, or 0.0.0.0 for all`);
  const last = port === null ? DEFAULT_PORT + MORE_PORTS : port;
  for (let each = port ?? DEFAULT_PORT; ; each++) {
    try {
      return Bun.serve({
        hostname: host === "localhost" ? "127.0.0.1" : host,
        port: each,
        fetch,
        development: false,
        idleTimeout: 60,
      });
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      if (code === "EADDRINUSE" && each < last) continue;
      if (code === "EADDRINUSE")
        throw new InputError(`port ${each} is taken; give another, or none for the next that is free`);
      if (code === "EACCES") throw new InputError(`port ${each} is reserved by the system; give one from 1024`);
      throw new RunError(`the page's server does not start on ${host}:${each} (${code || String(error)})`);
    }
  }
}
