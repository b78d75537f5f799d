/** Names in PEFT's files. */

/** A parameter beside the base model's: the name that PEFT gives it. */
export const adaptedName = (name: string): string => `base_model.model.${name}`;

/** The base model's name for a parameter of which a copy is trained. */
export const originalName = (name: string): string => name.replace(/^base_model\.model\./, "");

/** Whether a parameter is one of an adapter's two matrices, rather than a copy of the base model's. */
export const isLowRank = (name: string): boolean => /\.lora_[AB]\.weight$/.test(name);
