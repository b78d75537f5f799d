/** The recipe that settings start from; what each recipe sets is in `../presets.ts`. */
import { z } from "zod";
import { presetNames } from "../presets.ts";
import { about } from "./about.ts";

export const presetSettings = {
  preset: z
    .enum(presetNames)
    .nullable()
    .default(null)
    .meta(about("A paper's settings in place of the defaults; settings that are given go before them.")),
} as const;
