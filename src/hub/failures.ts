/**
 * What the hub, or something on the way to it, refuses, in one line with the cure. Tells by `kind` what a caller may do
 * about it: a hub that cannot be reached leaves the cache.
 */
import { errorText, InputError } from "../errors.ts";
import { hubEndpoint, hubToken, type RepoType } from "./environment.ts";

/** "unreachable": the network, a proxy, a server that is down; "damaged": not the bytes that the hub lists. */
type FailureKind = "missing" | "gated" | "revision" | "file" | "unreachable" | "damaged" | "disk" | "refused";

export class HubError extends InputError {
  readonly kind: FailureKind;

  constructor(kind: FailureKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}

/** A repository, and the name the user gave it by. */
export interface Repository {
  readonly type: RepoType;
  /** `org/name`, or the plain name of some old datasets. */
  readonly id: string;
  /** null: the default branch. */
  readonly revision: string | null;
  /** It is pushed to: other cures help. */
  readonly isWritten?: boolean;
}

export const nameOf = ({ id, revision }: Repository): string => (revision === null ? id : `${id}@${revision}`);

/** The repository's page. */
export const pageOf = ({ type, id }: Repository): string =>
  `${hubEndpoint()}/${type === "dataset" ? "datasets/" : ""}${id}`;

const otherwise: Readonly<Record<RepoType, string>> = {
  model: "go online, or download the model elsewhere and give its folder",
  dataset: "check the network, or download it elsewhere and give the folder",
};

/** No answer, or one that is not the hub's. */
export function unreachable(repo: Repository, why: string, cause?: unknown): HubError {
  const cure = repo.isWritten ? "check the network, and push again" : otherwise[repo.type];
  const text = `${nameOf(repo)}: the hub cannot be reached (${why}); ${cure}`;
  return new HubError("unreachable", text, { cause });
}

/** Why `fetch` failed, without the address it was about: that of a signed download is a secret. */
export function networkReason(error: unknown): string {
  const { code, name } = (error ?? {}) as { code?: unknown; name?: unknown };
  if (name === "TimeoutError") return `no answer from ${hostOf(hubEndpoint())} in time`;
  const known: Readonly<Record<string, string>> = {
    ConnectionRefused: `${hostOf(hubEndpoint())} refuses the connection`,
    ECONNREFUSED: `${hostOf(hubEndpoint())} refuses the connection`,
    ENOTFOUND: `there is no host ${hostOf(hubEndpoint())}, or no network`,
    FailedToOpenSocket: `there is no host ${hostOf(hubEndpoint())}, or no network`,
    ConnectionClosed: "the connection was closed",
    ECONNRESET: "the connection was closed",
  };
  return known[String(code)] ?? errorText(error).replace(/https?:\/\/\S+/g, "the hub");
}

export function hostOf(url: string): string {
  return URL.canParse(url) ? new URL(url).host : url;
}

/** Something on the way answers in the hub's place: a proxy, a sign-in page of a network, a mirror that is none. */
export function notTheHub(repo: Repository, status: number): HubError {
  const host = hostOf(hubEndpoint());
  return new HubError(
    "unreachable",
    `${nameOf(repo)}: what answers at ${host} is not the hub (a web page in place of its answer, status ${status}): ` +
      "a proxy or a network's sign-in page is in between, or HF_ENDPOINT is wrong; " +
      "check HTTPS_PROXY and HF_ENDPOINT, or sign in to the network",
  );
}

const isPage = (response: Response): boolean =>
  (response.headers.get("content-type") ?? "").startsWith("text/html") && !response.headers.has("x-error-code");

/** The failure that an answer other than 2xx stands for. */
export async function refusal(repo: Repository, response: Response, path?: string): Promise<HubError> {
  const { status, headers } = response;
  const code = headers.get("x-error-code") ?? "";
  const said = headers.get("x-error-message") ?? (await errorOf(response));
  const name = nameOf(repo);
  const token = hubToken() !== null;
  if (status === 407)
    return new HubError("unreachable", `${name}: the proxy asks for a password (407); give it in HTTPS_PROXY`);
  if (isPage(response)) return notTheHub(repo, status);
  if (code === "GatedRepo") {
    const accept = `accept its terms at ${pageOf(repo)}`;
    const cure = token
      ? `${accept} with the account of your token, and wait until access is granted`
      : `${accept}, then set HF_TOKEN to a token of that account (or: hf auth login)`;
    return new HubError("gated", `${name}: this repository is gated (${status}); ${cure}`);
  }
  if (code === "RevisionNotFound" || (status === 404 && /revision/i.test(said)))
    return new HubError(
      "revision",
      `${repo.id}: there is no revision "${repo.revision ?? "main"}"; name a branch, tag or commit`,
    );
  if (code === "EntryNotFound" && path !== undefined)
    return new HubError("file", `${name}: ${path} is listed but missing (${status}); try again later`);
  // "Invalid username or password" is what the hub says of a repository that does not exist.
  if (status === 401 && token && /invalid (credentials|token)|expired/i.test(said))
    return new HubError(
      "refused",
      `${name}: the hub does not accept your token (401); make one at ${hubEndpoint()}/settings/tokens and set HF_TOKEN`,
    );
  if (/disabled/i.test(said))
    return new HubError("refused", `${name}: the hub has disabled this repository (${status}); choose another`);
  if (status === 401 || status === 404 || code === "RepoNotFound") return missing(repo, status, token);
  if (status === 403 && repo.isWritten)
    return new HubError(
      "refused",
      `${name}: your token may not write there (403${said && `: ${said}`}); use one with write access, or another hub_model_id`,
    );
  if (status === 403)
    return new HubError(
      "refused",
      `${name}: your token has no access to this repository (403${said && `: ${said}`}); use one that may read it`,
    );
  if (status === 429)
    return new HubError(
      "unreachable",
      `${name}: the hub asks to wait (429: too many requests); try again in some minutes${token ? "" : ", or set HF_TOKEN"}`,
    );
  if (status >= 500) return unreachable(repo, `it answers ${status}`);
  return new HubError("refused", `${name}: the hub refuses this (${status}${said && `: ${said}`}); check the name`);
}

function missing(repo: Repository, status: number, token: boolean): HubError {
  const what = { model: "no such model", dataset: "no public dataset of this name" }[repo.type];
  const cure = token ? "check the name, and that your token may read it" : "check the name, or set HF_TOKEN";
  return new HubError(
    "missing",
    `${nameOf(repo)}: the hub has ${what} or does not show it to you (${status}); ${cure} for a private or gated one`,
  );
}

/** The hub's own words about a failure, cut short. */
async function errorOf(response: Response): Promise<string> {
  try {
    const text = await response.clone().text();
    const { error } = JSON.parse(text) as { error?: unknown };
    return typeof error === "string" ? errorText(error).slice(0, 200) : "";
  } catch {
    return "";
  }
}
