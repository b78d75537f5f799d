/** What a training run and the process of its page tell each other. */
import type { ProgressMessage } from "./protocol.ts";

export type ToPage =
  | {
      readonly kind: "start";
      readonly folder: string;
      readonly host: string;
      /** null: the usual one, or the next that is free. */
      readonly port: number | null;
    }
  | { readonly kind: "progress"; readonly progress: ProgressMessage }
  | { readonly kind: "note"; readonly text: string }
  /** The run has ended; the page shows its last numbers, and its process ends. */
  | { readonly kind: "end" };

export type FromPage =
  | { readonly kind: "ready"; readonly url: string }
  /** `isUsage`: the user can put it right. */
  | { readonly kind: "failed"; readonly message: string; readonly isUsage: boolean };
