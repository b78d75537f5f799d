/** The recipe that settings start from; what each recipe sets is in `../presets.ts`. */
import { presetNames } from "../presets.ts";
import { choice } from "./kinds.ts";

export const presetSettings = {
  preset: choice(
    presetNames,
    null,
  )`A paper's settings instead of the defaults; settings given explicitly override them.`,
} as const;
