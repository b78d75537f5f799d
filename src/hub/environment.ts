/**
 * Where the hub, its cache and the user's token are, by the variables of huggingface_hub: HF_ENDPOINT, HF_HOME,
 * HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HF_DATASETS_OFFLINE. They are read at each call, so that a
 * program may set them. Leaves out the tokens that Colab and OIDC give.
 */
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

export type RepoType = "model" | "dataset";

export const hubEndpoint = (): string => (process.env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");

export function hubHome(): string {
  const { HF_HOME, XDG_CACHE_HOME } = process.env;
  return expanded(HF_HOME || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface"));
}

/** The folder of downloaded repositories, which all tools of the hub share. */
export function hubCache(): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE } = process.env;
  return expanded(HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE || join(hubHome(), "hub"));
}

/** Python's `expanduser` and `expandvars`. */
function expanded(path: string): string {
  const home = path.replace(/^~(?=\/|$)/, () => homedir());
  return home.replace(/\$(?:(\w+)|\{(\w+)\})/g, (all, a?: string, b?: string) => process.env[a ?? b ?? ""] ?? all);
}

/** From HF_TOKEN, else from the file that `hf auth login` writes; null: there is none. */
export function hubToken(): string | null {
  const { HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH } = process.env;
  const given = (HF_TOKEN || HUGGING_FACE_HUB_TOKEN || "").trim();
  if (given !== "") return given;
  const path = expanded(HF_TOKEN_PATH || join(hubHome(), "token"));
  try {
    const text = existsSync(path) ? readFileSync(path, "utf8").trim() : "";
    return text === "" ? null : text;
  } catch {
    return null; // Unreadable: the hub says what it does not show without one.
  }
}

/** The variable that forbids the network; null: none does. */
export function offlineBy(type: RepoType): string | null {
  const names = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", ...(type === "dataset" ? ["HF_DATASETS_OFFLINE"] : [])];
  return names.find((name) => isOn(process.env[name])) ?? null;
}

export const isOn = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? "");
