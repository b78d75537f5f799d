/** Kernels that may keep an array in a thread's local memory, and why; all others must not. */
export const stackReasons: Readonly<Record<string, string>> = {};
