/**
 * Files to a model repository of the hub, in one commit: the repository and the branch are made if they do not exist.
 * Large files go through Git LFS. The protocol is @huggingface/hub's; which files is the caller's to say.
 */
import { createBranch, createRepo, HubApiError, uploadFiles } from "@huggingface/hub";
import { errorText, InputError } from "../errors.ts";
import { hubEndpoint, hubToken, offlineBy } from "./environment.ts";
import { HubError, networkReason, notTheHub, pageOf, type Repository, refusal, unreachable } from "./failures.ts";
import { hubName } from "./names.ts";
import { beginTransfer, bytesText, type TransferWatch } from "./progress.ts";
import { askHubFor, isTrusted } from "./request.ts";

export interface PushTarget {
  /** `owner/name`, or a name of the token's owner. */
  readonly id: string;
  readonly revision: string | null;
  /** Of a repository that is made; null: as its owner has set. */
  readonly isPrivate: boolean | null;
  /** null: the user's. */
  readonly token: string | null;
}

export interface PushedFile {
  readonly path: string;
  /** Where its contents are; or the contents themselves, as a text. */
  readonly from: { readonly file: string } | { readonly text: string };
}

export interface Pushed {
  readonly url: string;
  readonly commit: string;
}

/** The token. @throws InputError where there is none, or the network is forbidden: before there is anything to push */
export function pushToken({ token }: Pick<PushTarget, "token">, what: string): string {
  const forbidden = offlineBy("model");
  if (forbidden !== null) throw new InputError(`${what}: ${forbidden} forbids the network; unset it`);
  const found = token ?? hubToken();
  const page = `${hubEndpoint()}/settings/tokens`;
  if (found === null)
    throw new InputError(`${what}: needs a token with write access; make one at ${page} and set HF_TOKEN`);
  if (!found.startsWith("hf_"))
    throw new InputError(`${what}: the token does not begin with hf_; copy it from ${page} as it is`);
  return found;
}

/** The repository's whole name. @throws HubError where the token is not accepted, or the hub cannot be reached */
export async function pushedRepository(target: PushTarget, what: string): Promise<Repository> {
  const token = pushToken(target, what);
  const repo: Repository = { type: "model", id: target.id, revision: target.revision, isWritten: true };
  const { json } = await askHubFor<{ name?: unknown }>(repo, "/api/whoami-v2", { token });
  if (typeof json.name !== "string") throw notTheHub(repo, 200);
  const id = target.id.includes("/") ? target.id : `${json.name}/${target.id}`;
  if (hubName(id)?.id !== id)
    throw new InputError(
      `hub_model_id ${target.id}: not a name on the hub; use letters, digits, -, _ and . (owner/name)`,
    );
  return { ...repo, id };
}

/** @throws HubError where the hub refuses it or cannot be reached; nothing is committed then */
export async function pushFiles(
  target: PushTarget,
  files: readonly PushedFile[],
  message: string,
  watch: TransferWatch,
): Promise<Pushed> {
  const accessToken = pushToken(target, "push");
  const repo = await madeRepository(await pushedRepository(target, "push"), target, accessToken);
  const contents = files.map(({ path, from }) => ({
    path,
    content: "file" in from ? Bun.file(from.file) : new Blob([from.text]),
  }));
  const total = contents.reduce((sum, { content }) => sum + content.size, 0);
  watch.note(`pushing to ${pageOf(repo)}: ${files.length} files, ${bytesText(total)}`);
  const transfer = beginTransfer(watch, repo.id, total);
  try {
    const output = await uploadFiles({
      repo: { type: "model", name: repo.id },
      files: contents,
      commitTitle: message,
      branch: repo.revision ?? "main",
      // Xet would need its own protocol on every server; each has Git LFS.
      useXet: false,
      ...access(repo, accessToken, (bytes) => transfer.add(bytes)),
    });
    return { url: pageOf(repo), commit: output!.commit.oid };
  } catch (error) {
    throw asHubError(repo, error);
  } finally {
    transfer.end();
  }
}

async function madeRepository(repo: Repository, target: PushTarget, accessToken: string): Promise<Repository> {
  const named = { type: "model", name: repo.id } as const;
  let found = repo;
  try {
    const { json } = await askHubFor<{ id?: unknown }>(repo, `/api/models/${repo.id}`, { token: accessToken });
    // Renamed: its new name.
    if (typeof json.id === "string") found = { ...repo, id: json.id };
  } catch (error) {
    if (!(error instanceof HubError) || error.kind !== "missing") throw error;
    const visibility =
      target.isPrivate === null ? {} : ({ visibility: target.isPrivate ? "private" : "public" } as const);
    await ignoring(409, repo, () => createRepo({ repo: named, ...visibility, ...access(repo, accessToken) }));
  }
  const branch = repo.revision;
  if (branch !== null && branch !== "main")
    await ignoring(409, found, () =>
      createBranch({ repo: { type: "model", name: found.id }, branch, ...access(found, accessToken) }),
    );
  return found;
}

/** Another process may have made it at the same time. */
async function ignoring(status: number, repo: Repository, make: () => Promise<unknown>): Promise<void> {
  try {
    await make();
  } catch (error) {
    if (!(error instanceof HubApiError) || error.statusCode !== status) throw asHubError(repo, error);
  }
}

/** What the library takes: where the hub is, and a fetch whose failures are in plain words. */
function access(repo: Repository, accessToken: string, onSent: (bytes: number) => void = () => {}) {
  const watched = async (input: string | URL | Request, init?: RequestInit): Promise<Response> => {
    let response: Response;
    try {
      response = await fetch(input, init);
    } catch (error) {
      throw unreachable(repo, networkReason(error), error);
    }
    const isHub = isTrusted(response.url || String(input));
    if (!response.ok && response.status !== 409) {
      if (isHub) throw await refusal(repo, response);
      throw unreachable(repo, `the store of large files answers ${response.status}`);
    }
    if (isHub && response.headers.get("content-type")?.startsWith("text/html")) throw notTheHub(repo, response.status);
    if (init?.body instanceof Blob) onSent(init.body.size);
    return response;
  };
  return { hubUrl: hubEndpoint(), accessToken, fetch: Object.assign(watched, { preconnect: fetch.preconnect }) };
}

function asHubError(repo: Repository, error: unknown): unknown {
  if (error instanceof InputError) return error;
  const code = (error as NodeJS.ErrnoException | null)?.code;
  // A file of the folder went missing, or a bug: not the hub's.
  if (typeof code === "string" && (error as NodeJS.ErrnoException).syscall !== undefined) return error;
  return new HubError("refused", `${repo.id}: ${errorText(error)}`, { cause: error });
}
