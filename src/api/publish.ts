/**
 * A trained model to the hub, with its card: at the end of a run and, as `hub_strategy` says, when checkpoints are saved. A
 * push that fails costs the run nothing: it is told in one line, with the command that pushes again.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { adapterConfigName } from "../checkpoint/adapter.ts";
import { runRecord } from "../checkpoint/held.ts";
import { isModelFile } from "../checkpoint/huggingface.ts";
import { isFolder } from "../checkpoint/state.ts";
import type { SftConfig, TrainConfig } from "../config/schema.ts";
import { errorText, InputError } from "../errors.ts";
import { writeFileAtomic } from "../files/atomic.ts";
import { HubError } from "../hub/failures.ts";
import type { TransferWatch } from "../hub/progress.ts";
import type { Pushed, PushedFile, PushTarget } from "../hub/push.ts";
import { callOf } from "../program.ts";
import { modelCard } from "./model-card.ts";

type PublishConfig = Pick<
  TrainConfig | SftConfig,
  "outputDir" | "pushToHub" | "hubStrategy" | "hubModelId" | "hubPrivateRepo" | "hubRevision" | "hubToken"
>;

const cardName = "README.md";

/** What a run pushes; each method does nothing where that is not asked for. */
export interface Publisher {
  saved(checkpoint: string, step: number): Promise<void>;
  /** @returns the model's page, or why it is not there; null: nothing was to be pushed */
  finished(): Promise<{ readonly url: string } | { readonly failure: string } | null>;
}

/**
 * @throws InputError before the run, where a push cannot succeed: no token, one that is not accepted, an impossible name. A
 *   hub that cannot be reached now may be in the end.
 */
export async function openPublisher(config: PublishConfig, note: (text: string) => void): Promise<Publisher> {
  if (!config.pushToHub) return { saved: async () => {}, finished: async () => null };
  const { outputDir, hubStrategy } = config;
  const target = targetOf(config, outputDir);
  const { pushedRepository } = await hubLibrary();
  try {
    await pushedRepository(target, "push_to_hub");
  } catch (error) {
    if (!(error instanceof HubError) || error.kind !== "unreachable") throw error;
    note(`note: push_to_hub: ${errorText(error)}`);
  }
  const pushed = async (folder: string, message: string, more: readonly PushedFile[] = []) => {
    try {
      const { url } = await pushModel(folder, outputDir, target, message, { note }, more);
      return { url };
    } catch (error) {
      // Nothing of the run is lost with it, whatever it is.
      const why = errorText(error).split(";")[0];
      const failure = `the push to the hub failed (${why}); nothing is lost, push again with: ${retryWith(config, folder)}`;
      return { failure };
    }
  };
  return {
    async saved(checkpoint, step) {
      if (hubStrategy === "end") return;
      const kept = { checkpoint: "last-checkpoint", all_checkpoints: basename(checkpoint), every_save: null }[
        hubStrategy
      ];
      const more =
        kept === null
          ? []
          : filesBelow(checkpoint).map((path) => ({ path: `${kept}/${path}`, from: { file: join(checkpoint, path) } }));
      const outcome = await pushed(checkpoint, `Training in progress, step ${step}`, more);
      note("failure" in outcome ? `note: ${outcome.failure}` : `pushed step ${step} to ${outcome.url}`);
    },
    async finished() {
      const outcome = await pushed(outputDir, "End of training");
      note("failure" in outcome ? `note: ${outcome.failure}` : `pushed the model to ${outcome.url}`);
      return outcome;
    },
  };
}

/** What the settings name, or the folder's name. */
export function targetOf(
  config: Omit<PublishConfig, "outputDir" | "pushToHub" | "hubStrategy">,
  folder: string,
): PushTarget {
  const { hubModelId, hubPrivateRepo, hubRevision, hubToken } = config;
  return {
    id: hubModelId ?? basename(resolve(folder)),
    revision: hubRevision,
    isPrivate: hubPrivateRepo,
    token: hubToken,
  };
}

/** The command line that pushes again. The token is not part of it. */
function retryWith({ hubModelId, hubRevision, hubPrivateRepo }: PublishConfig, folder: string): string {
  const quoted = (text: string) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  return [
    callOf("push"),
    quoted(folder),
    ...(hubModelId === null ? [] : ["--hub_model_id", quoted(hubModelId)]),
    ...(hubRevision === null ? [] : ["--hub_revision", quoted(hubRevision)]),
    ...(hubPrivateRepo === null ? [] : ["--hub_private_repo", String(hubPrivateRepo)]),
  ].join(" ");
}

/** Pushes the model in a folder: a run's, or one of its checkpoints. @throws InputError, HubError */
export async function pushModel(
  folder: string,
  runFolder: string,
  target: PushTarget,
  message: string,
  watch: TransferWatch,
  more: readonly PushedFile[] = [],
): Promise<Pushed> {
  const paths = filesBelow(folder).filter(isModelFile);
  const isModel = paths.includes("config.json") || paths.includes(adapterConfigName);
  if (!isModel || !paths.some((path) => path.endsWith(".safetensors")))
    throw new InputError(
      `${folder}: holds no model (config.json, *.safetensors) and no adapter; give a run's folder or a checkpoint`,
    );
  const { pushFiles, pushedRepository } = await hubLibrary();
  const { id } = await pushedRepository(target, "push");
  const files = paths.map((path) => ({ path, from: { file: join(folder, path) } }));
  const card: PushedFile = { path: cardName, from: { text: writtenCard(runFolder, id) } };
  return pushFiles(target, [...files, card, ...more], message, watch);
}

/** The run's card, written into its folder too, unless the user has one there. */
function writtenCard(runFolder: string, id: string): string {
  const path = join(runFolder, cardName);
  const before = existsSync(path) ? readFileSync(path, "utf8") : null;
  const card = modelCard(runFolder, id, before);
  if (card === null) return before!;
  writeFileAtomic(path, card);
  return card;
}

/** The folder with a checkpoint's run, or the folder itself. */
export function runFolderOf(folder: string): string {
  const above = dirname(resolve(folder));
  return runRecord(folder) === null && runRecord(above) !== null ? above : folder;
}

const filesBelow = (folder: string): string[] =>
  isFolder(folder)
    ? readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name).slice(join(folder, "/").length))
        .filter((path) => !path.split("/").some((part) => part.startsWith(".")))
    : [];

/** It takes long to load. */
const hubLibrary = () => import("../hub/push.ts");
