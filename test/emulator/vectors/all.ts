/** All vectors, by section of the manual. */
import { approximateForms } from "./approximate.ts";
import { bitForms } from "./bits.ts";
import { compareForms } from "./compare.ts";
import { controlForms } from "./control.ts";
import { convertForms } from "./convert.ts";
import { floatForms } from "./float.ts";
import type { Form } from "./form.ts";
import { integerForms } from "./integer.ts";
import { matrixForms } from "./matrix.ts";
import { memoryForms } from "./memory.ts";
import { warpForms } from "./warp.ts";

export const vectors: Readonly<Record<string, readonly Form[]>> = {
  "integer arithmetic": integerForms,
  "logic, shifts, fields, moves": bitForms,
  "floating point": floatForms,
  "approximate functions": approximateForms,
  comparison: compareForms,
  conversion: convertForms,
  memory: memoryForms,
  "control and barriers": controlForms,
  "warp-wide": warpForms,
  matrices: matrixForms,
};
