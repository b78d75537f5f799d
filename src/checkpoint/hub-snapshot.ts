/**
 * A hub id (`org/name`) → a folder, through the cache that all Hugging Face tools share. Only the files that this program
 * uses are downloaded. Respects HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN. Leaves out revisions
 * other than `main`.
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  downloadFileToCacheDir,
  getHFHubCachePath,
  getRepoFolderName,
  HubApiError,
  listFiles,
  modelInfo,
} from "@huggingface/hub";
import { errorText, InputError, RunError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { indexFileName, singleFileName } from "./checkpoint.ts";
import { isModelFile } from "./huggingface.ts";

/**
 * @param id `org/name` on the hub
 * @returns a folder
 * @throws InputError if there is none, RunError if the download breaks off
 */
export async function hubSnapshot(id: string): Promise<string> {
  const cached = cachedSnapshot(id);
  if (isOffline()) {
    if (cached !== null) return cached;
    throw new InputError(
      `${id}: no such folder, and it is not in the hub's cache ${getHFHubCachePath()}, which ` +
        "HF_HUB_OFFLINE limits this run to; unset it, or give the folder",
    );
  }
  let commit: string;
  try {
    commit = (await modelInfo({ name: id, revision: "main", additionalFields: ["sha"], ...access() })).sha;
  } catch (error) {
    if (error instanceof HubApiError && [401, 403, 404].includes(error.statusCode))
      throw new InputError(
        `${id}: no such folder, and the hub has no such model or does not show it to you ` +
          `(${error.statusCode}); check the name, or set HF_TOKEN for a private or gated model`,
      );
    if (cached !== null) return cached;
    throw new InputError(
      `${id}: no such folder, and the hub cannot be reached (${errorText(error)}); go online, or ` +
        "download the model elsewhere and give its folder",
    );
  }
  return await download(id, commit);
}

async function download(id: string, commit: string): Promise<string> {
  const repo = { type: "model", name: id } as const;
  // The library reports progress with console.debug, which Bun prints to stdout, where the results go.
  const { debug } = console;
  console.debug = console.error;
  try {
    for await (const file of listFiles({ repo, recursive: true, revision: commit, ...access() }))
      if (file.type === "file" && isModelFile(file.path))
        await downloadFileToCacheDir({ repo, path: file.path, revision: commit, ...access() });
  } catch (error) {
    throw new RunError(`${id}: the download broke off (${errorText(error)}); run the command again to continue`);
  } finally {
    console.debug = debug;
  }
  const refs = join(repoFolder(id), "refs");
  mkdirSync(refs, { recursive: true });
  // Last, so that `main` points to a complete copy.
  writeFileAtomic(join(refs, "main"), commit);
  const folder = join(repoFolder(id), "snapshots", commit);
  if (!existsSync(join(folder, "config.json")))
    throw new InputError(`${id}: holds no config.json; name a repository with a transformers model`);
  return folder;
}

/** The newest complete copy in the cache, or null. */
function cachedSnapshot(id: string): string | null {
  const main = join(repoFolder(id), "refs", "main");
  if (!existsSync(main)) return null;
  const folder = join(repoFolder(id), "snapshots", readFileSync(main, "utf8").trim());
  const has = (name: string) => existsSync(join(folder, name));
  return has("config.json") && (has(singleFileName) || has(indexFileName)) ? folder : null;
}

function repoFolder(id: string): string {
  return join(getHFHubCachePath(), getRepoFolderName({ type: "model", name: id }));
}

function isOffline(): boolean {
  return /^(1|true|yes|on)$/i.test(process.env.HF_HUB_OFFLINE ?? "");
}

function access(): { hubUrl?: string; accessToken?: string } {
  const { HF_ENDPOINT: endpoint, HF_TOKEN: token } = process.env;
  return {
    ...(endpoint && { hubUrl: endpoint.replace(/\/$/, "") }),
    ...(token && { accessToken: token }),
  };
}
