/**
 * One request to the hub: the token only where it belongs, redirects followed, busy servers asked again, failures in
 * plain words. A signed address that a redirect leads to is never shown.
 */
import { hubEndpoint, hubToken } from "./environment.ts";
import { hostOf, networkReason, notTheHub, type Repository, refusal, unreachable } from "./failures.ts";

export interface HubRequest {
  readonly method?: "GET" | "HEAD" | "POST" | "PUT";
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | undefined;
  /** In place of the user's token. */
  readonly token?: string | null | undefined;
  /** The file that is asked for, for messages. */
  readonly path?: string;
  readonly signal?: AbortSignal | undefined;
}

/** Waits before the same request again, in milliseconds: a busy server, a broken connection. Tests shorten them. */
export const patience: { waits: readonly number[]; answerMs: number; stallMs: number } = {
  waits: [500, 1000, 2000, 4000],
  answerMs: 15_000,
  stallMs: 20_000,
};

const busy = new Set([429, 502, 503, 504]);
const maxRedirects = 10;

/**
 * @param url an address, or a path below the endpoint
 * @param waits between tries while the server is busy; a lost connection is told at once
 * @throws HubError for anything but 2xx
 */
export async function askHub(
  repo: Repository,
  url: string,
  request: HubRequest = {},
  waits: readonly number[] = patience.waits.slice(0, 2),
): Promise<Response> {
  for (let tries = 0; ; tries++) {
    const response = await followed(repo, url.startsWith("/") ? `${hubEndpoint()}${url}` : url, request);
    if (response.ok) return response;
    const wait = waits[tries];
    if (wait === undefined || !busy.has(response.status)) throw await refusal(repo, response, request.path);
    await response.body?.cancel();
    await Bun.sleep(Math.max(wait, Math.min(60, Number(response.headers.get("retry-after")) || 0) * 1000));
  }
}

/** The same, and its answer as JSON. */
export async function askHubFor<T>(
  repo: Repository,
  url: string,
  request: HubRequest = {},
): Promise<{ readonly json: T; readonly headers: Headers }> {
  const response = await askHub(repo, url, request);
  let text: string;
  try {
    text = await response.text();
  } catch (error) {
    throw unreachable(repo, networkReason(error), error);
  }
  try {
    return { json: JSON.parse(text) as T, headers: response.headers };
  } catch {
    throw notTheHub(repo, response.status);
  }
}

/** fetch follows redirects too, but would not say that a token must not go along to another host. */
async function followed(repo: Repository, url: string, request: HubRequest): Promise<Response> {
  let at = url;
  for (let redirects = 0; redirects <= maxRedirects; redirects++) {
    const response = await once(repo, at, request);
    const location = response.headers.get("location");
    if (location === null || response.status < 300 || response.status >= 400) return response;
    await response.body?.cancel();
    at = new URL(location, at).href;
  }
  throw unreachable(repo, `${hostOf(url)} redirects in a circle`);
}

async function once(repo: Repository, url: string, request: HubRequest): Promise<Response> {
  const { method = "GET", headers = {}, body, signal } = request;
  const token = request.token ?? hubToken();
  // Until the head of the answer; how long a body may take is the reader's to say.
  const late = new AbortController();
  const timer = setTimeout(
    () => late.abort(new DOMException("timeout", "TimeoutError")),
    body === undefined ? patience.answerMs : 600_000,
  );
  try {
    return await fetch(url, {
      method,
      headers: {
        "User-Agent": "bun-grpo",
        ...headers,
        ...(token !== null && isTrusted(url) && { Authorization: `Bearer ${token}` }),
      },
      ...(body !== undefined && { body }),
      redirect: "manual",
      signal: signal === undefined ? late.signal : AbortSignal.any([late.signal, signal]),
    });
  } catch (error) {
    throw unreachable(repo, networkReason(error), error);
  } finally {
    clearTimeout(timer);
  }
}

/** Where the token may go: the endpoint, and the hub itself behind a mirror. A store of large files needs none. */
export function isTrusted(url: string): boolean {
  const { origin, protocol, hostname } = new URL(url);
  if (origin === new URL(hubEndpoint()).origin) return true;
  return protocol === "https:" && (hostname === "huggingface.co" || hostname === "hf.co");
}
