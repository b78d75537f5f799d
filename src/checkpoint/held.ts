/**
 * The contents of a folder that somebody would miss: a run of this program (checkpoints, metrics, completions, its model),
 * an evaluation, or any model, whatever its format. Only run.json and the end of metrics.jsonl are opened.
 */
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { InputError } from "../errors.ts";
import { requireFile } from "../files/paths.ts";
import { isModelFile } from "./huggingface.ts";
import { isFolder, type ListedCheckpoint, listCheckpoints } from "./state.ts";

/** The settings of the run that wrote here. */
export const runFile = "run.json";
export const metricsFile = "metrics.jsonl";
export const completionsFolder = "completions";
/** Of `report_to`'s trackers. A folder of such a name is a run's only if it has the mark in it. */
export const trackerFolders: readonly string[] = ["tensorboard", "wandb"];
export const trackerMark = ".grpo";
export const evaluationFiles: readonly string[] = ["answers.jsonl", "results.json"];

/** Files beside the weights in a checkpoint, this program's or transformers'. */
const trainerFile =
  /^(trainer_state\.json|training_args\.bin|(optimizer|scheduler|scaler)\.(safetensors|pt|bin)|rng_state.*\.pth)$/;
const anyWeights =
  /\.(safetensors|safetensors\.index\.json|bin|bin\.index\.json|pt|pth|ckpt|gguf|h5|msgpack|onnx|npz)$/;
/**
 * The weights that a new model replaces: those under the names that transformers looks for, and whatever else vLLM would load
 * with it, which is every .safetensors. Weights of other names (a .gguf made from the model, arrays in .npz) stay beside it.
 */
const replacedWeights =
  /\.safetensors(\.index\.json)?$|^((pytorch|adapter)_model\b.*\.bin(\.index\.json)?|tf_model\.h5|flax_model\.msgpack)$/;
const modelParts = /^(adapter_config\.json|additional_chat_templates|critic|config\.json)$/;

export interface Held {
  readonly checkpoints: readonly ListedCheckpoint[];
  /** Of the newest checkpoint, or of the last line of metrics if later; null: unknown. */
  readonly step: number | null;
  readonly isRun: boolean;
  /** A file of the evaluation; null: none. */
  readonly evaluation: string | null;
  /** A file that shows the model, weights first; null: none. */
  readonly model: string | null;
  /** A file with a name that this program uses, but from another program; null: none. */
  readonly foreign: string | null;
  /** Top-level names that a new run replaces. */
  readonly names: readonly string[];
  /** Whether a model or an evaluation is among them, rather than only logs and checkpoints. */
  readonly hasResult: boolean;
}

/** The contents of `folder`; null: none of these, or no such folder. */
export function heldIn(folder: string): Held | null {
  if (!isFolder(folder)) return null;
  const all = readdirSync(folder).filter((name) => !name.startsWith("."));
  for (const name of all) requireReadable(join(folder, name), name);
  const checkpoints = listCheckpoints(folder);
  const ofRun = runNames(folder, all);
  const weights = all.filter((name) => anyWeights.test(name) && !trainerFile.test(name)).sort();
  const besideWeights = all.filter((name) => (isModelFile(name) || modelParts.test(name)) && !anyWeights.test(name));
  const ofTrainer = all.filter((name) => trainerFile.test(name));
  const evaluation = all.filter((name) => evaluationFiles.includes(name));
  const results = [...weights.filter((name) => replacedWeights.test(name)), ...besideWeights, ...evaluation];
  const names = [...ofRun, ...results, ...ofTrainer];
  if ([...names, ...weights].every((name) => isNothing(join(folder, name), name))) return null;
  const steps = [checkpoints.at(-1)?.step, lastStep(join(folder, metricsFile))].filter((step) => step !== undefined);
  return {
    checkpoints,
    step: steps.length === 0 ? null : Math.max(...steps),
    isRun: [...ofRun, ...ofTrainer].some((name) => name !== runFile && !isNothing(join(folder, name), name)),
    evaluation: evaluation[0] ?? null,
    model: weights[0] ?? besideWeights[0] ?? null,
    foreign: ofRun.includes(runFile) && runRecord(folder) === null ? runFile : null,
    names,
    hasResult: results.length > 0,
  };
}

/** A run's own files must be files: a circular link, a pipe or a folder in their place is not a run's. */
function requireReadable(path: string, name: string): void {
  if (name !== metricsFile && name !== runFile && name !== completionsFolder) return;
  requireFile(path);
  if (!existsSync(path)) throw new InputError(`${path}: is a broken link; remove it, or choose another --output_dir`);
  if (name === completionsFolder || !isFolder(path)) return;
  throw new InputError(`${path}: is a folder, not a file; move it away, or choose another --output_dir`);
}

const isRunName = (name: string): boolean =>
  name === metricsFile || name === completionsFolder || name === runFile || /^checkpoint-\d+$/.test(name);

const isTracker = (folder: string, name: string): boolean =>
  trackerFolders.includes(name) && existsSync(join(folder, name, trackerMark));

/** The logs and checkpoints among the names in a folder. */
export const runNames = (folder: string, names: readonly string[]): string[] =>
  names.filter((name) => isRunName(name) || isTracker(folder, name));

export interface RunRecord {
  readonly command: string;
  /** The bundled model on the bundled problems. */
  readonly bundled: boolean;
  /** Optimizer steps of a whole run of `train`. */
  readonly totalSteps?: number | undefined;
  readonly settings: Readonly<Record<string, unknown>>;
  /** Its memory plan, for the page. */
  readonly memory?: unknown;
}

/** The record of the last run in a folder; null: unreadable, or another program's file of that name. */
export function runRecord(folder: string): RunRecord | null {
  try {
    const { command, bundled, totalSteps, settings } = JSON.parse(
      readFileSync(join(folder, runFile), "utf8"),
    ) as RunRecord;
    return typeof command === "string" && typeof settings === "object"
      ? { command, bundled, totalSteps, settings }
      : null;
  } catch {
    return null;
  }
}

/** What a run that ended before its first step leaves. */
function isNothing(path: string, name: string): boolean {
  if (name === runFile) return runRecord(dirname(path)) !== null;
  if (name === metricsFile) return statSync(path).size === 0;
  const left = trackerFolders.includes(name) ? [trackerMark] : name === completionsFolder ? [] : null;
  return left !== null && readdirSync(path).every((inner) => left.includes(inner));
}

/** "a run (step 4, 2 checkpoints, its model)", "an evaluation (answers.jsonl)", "a model (model.safetensors)". */
export function describeHeld({ checkpoints, step, isRun, evaluation, model, foreign }: Held): string {
  const count = checkpoints.length;
  const parts: string[] = [];
  if (isRun) {
    const inner = [
      ...(step === null ? [] : [`step ${step}`]),
      count === 0 ? "no checkpoint" : `${count} checkpoint${count === 1 ? "" : "s"}`,
      ...(model === null ? [] : ["its model"]),
    ];
    parts.push(`a run (${inner.join(", ")})`);
  } else if (model !== null) parts.push(`a model (${model})`);
  if (evaluation !== null) parts.push(`an evaluation (${evaluation})`);
  if (foreign !== null) parts.push(`a ${foreign} that no run wrote`);
  return parts.join(" and ");
}

/** The step of the last complete line. */
function lastStep(path: string): number | undefined {
  if (!existsSync(path)) return undefined;
  const fd = openSync(path, "r");
  try {
    const { size } = fstatSync(fd);
    const tail = Buffer.alloc(Math.min(size, 1 << 16));
    readSync(fd, tail, 0, tail.length, size - tail.length);
    for (const line of tail.toString("utf8").split("\n").toReversed()) {
      const found = /^\{"step":(\d+)[,}]/.exec(line);
      if (found !== null && line.endsWith("}")) return Number(found[1]);
    }
    return undefined;
  } finally {
    closeSync(fd);
  }
}
