/** An adapter as a plain model, merged into its base: what `grpo export --merge` does. */
import { resolveModel } from "../checkpoint/hub.ts";
import { copyModelAssets, readModelFolder, writeConfig } from "../checkpoint/huggingface.ts";
import { mergedTensors } from "../checkpoint/merge.ts";
import { openOutputFolder } from "../checkpoint/output-folder.ts";
import { onlyFinite, writeWeights } from "../checkpoint/safetensors-write.ts";
import { writeTogether } from "../checkpoint/together.ts";
import { createClosers } from "../closing.ts";

export interface ExportRequest {
  /** The adapter's folder, or its name on the hub. */
  readonly model: string;
  readonly outputDir: string;
  /** The base's projections are made NF4 first, as the adapter was trained beside them. */
  readonly loadIn4bit?: boolean;
  readonly overwrite: boolean;
  readonly note: (text: string) => void;
}

/**
 * Writes base and adapter as one model, in the base's type, that needs neither.
 *
 * @returns how many weights have been changed
 * @throws InputError for a folder that is no adapter, or an output folder that holds something; RunError if it cannot be written
 */
export async function exportMerged(request: ExportRequest): Promise<{ changed: number }> {
  const { model, outputDir, loadIn4bit = false, overwrite, note } = request;
  const output = openOutputFolder({ folder: outputDir, command: "export", note });
  const opened = createClosers();
  try {
    output.permit({ overwrite, resumes: false, inputs: { model } });
    const folder = await resolveModel(model, { note });
    const from = readModelFolder(folder, "either");
    opened.add(from.checkpoint);
    if (from.adapter) opened.add(from.adapter);
    const { config, tensors, changed } = mergedTensors(from, loadIn4bit);
    await writeTogether(outputDir, async (temporary) => {
      copyModelAssets(folder, temporary);
      await writeWeights(temporary, tensors.map(onlyFinite));
      writeConfig(temporary, config, config.dtype);
    });
    return { changed };
  } finally {
    opened.close();
    output.release();
  }
}
