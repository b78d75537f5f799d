/** Kernels that may keep an array in a thread's local memory, with reasons; no others may. */
export const stackReasons: Readonly<Record<string, string>> = {};
