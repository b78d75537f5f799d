/** What files of the cache say of themselves in Arrow's metadata, beyond their types. */

/** On a field: its texts are JSON, each the value that the row holds; says why the values have no type of their own. */
export const MIXED = "bun-grpo:mixed";

/** On the schema: JSON with the columns that were left out of the file, and why. */
export const LEFT_OUT = "bun-grpo:left_out";
