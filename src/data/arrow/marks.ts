/** Marks in the Arrow metadata of cached files. */

/** On a field: its texts are JSON, each the row's value; the mark says why the values have no common type. */
export const MIXED = "bun-grpo:mixed";

/** On the schema: JSON with the columns that were left out of the file, and why. */
export const LEFT_OUT = "bun-grpo:left_out";
