/** Amounts of memory as users name them: a size, or a GPU that has it. */
import { InputError } from "../errors.ts";
import { nearest } from "./nearest.ts";

/** MiB in all, as nvidia-smi shows them; GPUs of compute capability 8.0 and later, which the CUDA device needs. */
const gpus = {
  "RTX 3060": 12_288,
  "RTX 3090": 24_576,
  "RTX 4060 Ti 16GB": 16_380,
  "RTX 4080": 16_376,
  "RTX 4090": 24_564,
  "RTX 5090": 32_607,
  "RTX A6000": 49_140,
  A10: 23_028,
  L4: 23_034,
  L40S: 46_068,
  "A100 40GB": 40_960,
  "A100 80GB": 81_920,
  H100: 81_559,
  H200: 143_771,
} as const;

export const gpuNames = Object.keys(gpus) as (keyof typeof gpus)[];

export interface NamedMemory {
  readonly bytes: number;
  /** null: a size by itself. */
  readonly gpu: string | null;
}

const units: Readonly<Record<string, number>> = { k: 1, m: 2, g: 3, t: 4 };
const plain = (name: string): string => name.toLowerCase().replace(/nvidia|geforce|[\s_-]/g, "");

/**
 * `24GiB` and `24G` are 24 · 2^30 bytes, `24GB` 24 · 10^9.
 *
 * @throws InputError for anything else than a size or the name of a GPU
 */
export function memoryNamed(text: string): NamedMemory {
  const [, number, unit, binary] = /^(\d+(?:\.\d+)?)\s*([kmgt])(i?b)?$/i.exec(text.trim()) ?? [];
  if (number !== undefined) {
    const base = binary?.toLowerCase() === "b" ? 1000 : 1024;
    return { bytes: Math.floor(Number(number) * base ** units[unit!.toLowerCase()]!), gpu: null };
  }
  // "4090" is enough, "A100" is not.
  const wanted = plain(text);
  const like = gpuNames.filter((name) => plain(name) === wanted || (wanted !== "" && plain(name).endsWith(wanted)));
  const gpu = like.length === 1 ? like[0] : undefined;
  if (gpu !== undefined) return { bytes: gpus[gpu] * 2 ** 20, gpu };
  const guess = nearest(wanted, gpuNames.map(plain));
  const meant = gpuNames.find((name) => plain(name) === guess);
  throw new InputError(
    `memory ${JSON.stringify(text)}: ${meant === undefined ? `give a size such as 24GiB, or one of ${gpuNames.join(", ")}` : `did you mean ${meant}?`}`,
  );
}
