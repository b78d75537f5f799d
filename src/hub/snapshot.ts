/**
 * A repository at one commit → a folder in the shared cache with the files that are wanted. Asks the hub which commit a
 * branch is; what is cached is not downloaded again, and is all there is without a network. Leaves out the xet protocol:
 * its files come by plain HTTP, as the hub offers them too.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, statfsSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  blobPath,
  cachedCommit,
  cachedTree,
  type HubFile,
  inCache,
  isCommit,
  link,
  repoFolder,
  snapshotFolder,
  tagCache,
  writeRef,
  writeTree,
} from "./cache.ts";
import { downloadBlob } from "./download.ts";
import { hubCache, offlineBy } from "./environment.ts";
import { HubError, nameOf, pageOf, type Repository, unreachable } from "./failures.ts";
import { beginTransfer, bytesText, secondsText, type TransferWatch } from "./progress.ts";
import { askHubFor } from "./request.ts";

export interface Snapshot {
  readonly folder: string;
  readonly commit: string;
  /** Those wanted, by their paths in the folder. */
  readonly paths: readonly string[];
}

/**
 * Which files are needed, of all that there are; `read` fetches a small one to decide by. May throw where they are not what
 * the caller needs.
 */
export type Choice = (
  paths: readonly string[],
  read: (path: string) => Promise<string>,
) => readonly string[] | Promise<readonly string[]>;

const downloadsAtOnce = 4;

/** Files that a copy in the cache may lack, where there is no network to fetch them. */
type IsOptional = (path: string) => boolean;

/**
 * @throws HubError where there is no such repository or revision, it is gated, the hub cannot be reached and the cache does
 *   not have it, or the cache cannot be written
 */
export async function hubSnapshot(
  repo: Repository,
  choose: Choice,
  watch: TransferWatch,
  isOptional: IsOptional = () => false,
): Promise<Snapshot> {
  const forbidden = offlineBy(repo.type);
  if (forbidden !== null) return (await fromCache(repo, choose, isOptional)) ?? notCached(repo, forbidden);
  let commit: string;
  let tree: readonly HubFile[];
  try {
    commit = await currentCommit(repo, watch);
    tree = cachedTree(repo, commit) ?? (await listTree(repo, commit));
  } catch (error) {
    const cached =
      error instanceof HubError && error.kind === "unreachable" ? await fromCache(repo, choose, isOptional) : null;
    if (cached === null) throw error;
    watch.note(`note: ${(error as HubError).message.split(";")[0]}; the copy in the cache is used`);
    return cached;
  }
  const fetched = (wanted: readonly string[]) =>
    fetchFiles(
      repo,
      commit,
      tree.filter(({ path }) => wanted.includes(path)),
      watch,
    );
  const folder = snapshotFolder(repo, commit);
  const paths = await choose(
    tree.map(({ path }) => path),
    async (path) => {
      await fetched([path]);
      return readFileSync(join(folder, path), "utf8");
    },
  );
  await fetched(paths);
  if (cachedTree(repo, commit) === null) writeTree(repo, commit, tree);
  writeRef(repo, commit);
  return { folder, commit, paths };
}

/** Without a network: what is in the cache, if it is complete. */
async function fromCache(repo: Repository, choose: Choice, isOptional: IsOptional): Promise<Snapshot | null> {
  const commit = cachedCommit(repo);
  if (commit === null) return null;
  const folder = snapshotFolder(repo, commit);
  const tree = cachedTree(repo, commit)?.map(({ path }) => path) ?? null;
  const there = existsSync(folder) ? filesIn(folder) : [];
  if (tree === null && there.length === 0) return null;
  try {
    const paths = await choose(tree ?? there, async (path) => readFileSync(join(folder, path), "utf8"));
    const found = paths.filter((path) => there.includes(path));
    const isWhole = paths.every((path) => found.includes(path) || isOptional(path));
    return isWhole ? { folder, commit, paths: found } : null;
  } catch (error) {
    // What is needed may be missing from the copy only.
    if (tree === null || (error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

function filesIn(folder: string): string[] {
  // Links to blobs that exist.
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => existsSync(join(folder, name)));
}

function notCached(repo: Repository, variable: string): never {
  throw new HubError(
    "unreachable",
    `${nameOf(repo)}: it is not in the hub's cache ${hubCache()}, or not completely, and ${variable} limits this run to ` +
      "the cache; unset it, or give a folder",
  );
}

/** Which commit the revision is now. */
async function currentCommit(repo: Repository, { note }: TransferWatch): Promise<string> {
  const revision = repo.revision ?? "main";
  // A commit never changes.
  if (isCommit(revision) && cachedTree(repo, revision) !== null) return revision;
  const { json } = await askHubFor<{ sha?: unknown; id?: unknown }>(
    repo,
    `/api/${repo.type}s/${repo.id}/revision/${encodeURIComponent(revision)}`,
  );
  if (typeof json.sha !== "string" || !isCommit(json.sha))
    throw unreachable(repo, "its answer names no commit: HF_ENDPOINT may be another kind of server");
  if (typeof json.id === "string" && json.id !== repo.id && json.id.toLowerCase() !== repo.id.toLowerCase())
    note(`note: ${repo.id} is now called ${json.id} (${pageOf({ ...repo, id: json.id })})`);
  return json.sha;
}

interface ListedFile {
  readonly type: string;
  readonly path: string;
  readonly size: number;
  readonly oid: string;
  readonly xetHash?: string;
  readonly lfs?: { readonly oid: string; readonly size: number };
}

/** All files of a commit, page by page. */
async function listTree(repo: Repository, commit: string): Promise<HubFile[]> {
  const files: HubFile[] = [];
  let url: string | null = `/api/${repo.type}s/${repo.id}/tree/${commit}?recursive=true`;
  while (url !== null) {
    const { json, headers }: { json: readonly ListedFile[]; headers: Headers } = await askHubFor(repo, url);
    if (!Array.isArray(json)) throw unreachable(repo, "its answer is no list of files");
    for (const entry of json) if (entry.type === "file") files.push(hubFile(repo, entry));
    url = /<([^>]+)>;\s*rel="next"/.exec(headers.get("link") ?? "")?.[1] ?? null;
  }
  return files;
}

function hubFile(repo: Repository, { path, size, oid, xetHash, lfs }: ListedFile): HubFile {
  const hash = lfs?.oid ?? oid;
  const isSafe = path.split("/").every((part) => part !== "" && part !== "." && part !== "..") && !path.includes("\\");
  if (!isSafe || !/^[0-9a-f]{40,64}$/.test(hash))
    throw unreachable(repo, `it lists a file under an impossible name or hash (${JSON.stringify(path)})`);
  return { path, size: lfs?.size ?? size, hash, isLarge: lfs !== undefined, xetHash, blobId: oid };
}

/** Downloads what is missing of the files, several at once. */
async function fetchFiles(
  repo: Repository,
  commit: string,
  files: readonly HubFile[],
  watch: TransferWatch,
): Promise<void> {
  const folder = snapshotFolder(repo, commit);
  const unlinked = files.filter(({ path }) => !existsSync(join(folder, path)));
  if (unlinked.length === 0) return;
  tagCache();
  const missing = unlinked.filter((file) => !existsSync(blobPath(repo, file)));
  const total = missing.reduce((sum, { size }) => sum + size, 0);
  if (missing.length > 0) {
    requireSpace(repo, total);
    const count = `${missing.length} file${missing.length === 1 ? "" : "s"}`;
    watch.note(`downloading ${nameOf(repo)}: ${count}, ${bytesText(total)}`);
    const transfer = beginTransfer(watch, nameOf(repo), total);
    const prefix = repo.type === "dataset" ? "/datasets/" : "/";
    const urlOf = ({ path }: HubFile) =>
      `${prefix}${repo.id}/resolve/${commit}/${path.split("/").map(encodeURIComponent).join("/")}`;
    // Two paths may have the same contents.
    const queue = [...new Map(missing.map((file) => [file.hash, file])).values()];
    const worker = async () => {
      for (let file = queue.shift(); file !== undefined; file = queue.shift())
        await downloadBlob(repo, file, urlOf(file), transfer, watch);
    };
    try {
      const ends = await Promise.allSettled(Array.from({ length: downloadsAtOnce }, worker));
      const failed = ends.find((end) => end.status === "rejected");
      if (failed) throw failed.reason;
    } finally {
      transfer.end();
    }
    watch.note(`downloaded ${nameOf(repo)} in ${secondsText(transfer.seconds)}`);
  }
  for (const file of unlinked) link(repo, commit, file);
}

/** A disk that is too small is told before the download, not after most of it. */
function requireSpace(repo: Repository, total: number): void {
  const folder = inCache(() => {
    mkdirSync(repoFolder(repo), { recursive: true });
    return repoFolder(repo);
  });
  const { bavail, bsize } = statfsSync(folder);
  const free = bavail * bsize;
  if (free >= total) return;
  throw new HubError(
    "disk",
    `${nameOf(repo)}: ${bytesText(total)} are to be downloaded, and ${dirname(folder)} has room for ${bytesText(free)}; ` +
      "free some space, or set HF_HOME to a folder on another disk",
  );
}
