/**
 * A tenant of a session is planned together with others in a single allocation, and opened after allocation. A function
 * `plan…(plan, …)` adds its buffers and returns it; `open` fills them. Its type says what it opens to.
 */
import type { ModelFolder } from "../checkpoint/huggingface.ts";
import type { Closable } from "../closing.ts";
import type { Device, ScratchSizes } from "../device/device.ts";
import type { ModelHead } from "../families/config.ts";
import type { OptionalBuffers, PlanBuilder } from "../tensor/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { HeldCompletions } from "./memory.ts";

export interface Tenant<T> {
  open(place: Place): Promise<T>;
}

/** Where tenants are opened. */
export interface Place {
  /** The planned buffers by name. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Opens another tenant; each is opened once, on first use. */
  open<T>(tenant: Tenant<T>): Promise<T>;
  /** Closes `part` with the session. */
  closes(part: Closable): void;
}

/** A session during planning. */
export interface SessionPlan {
  readonly device: Device;
  /** Takes the buffers. */
  readonly memory: PlanBuilder;
  /** Takes those that are in host memory beside a device that has its own. */
  readonly hostMemory: PlanBuilder;
  /**
   * Opens a model folder. Its files are closed after all tenants are open, when the device has its own copy of the
   * weights.
   *
   * @param base an adapter's base, if that is not where the adapter says
   * @throws InputError as `openModelFolder` does
   */
  folder(path: string, wanted?: ModelHead | "either", base?: string | null): ModelFolder;
  /** Announces ops of these sizes: the device keeps scratch for them besides the planned buffers. */
  computes(...sizes: readonly ScratchSizes[]): void;
  /** Announces completions that the program holds as JavaScript values. */
  holds(completions: HeldCompletions): void;
  /** A remark for the user; each is given once. */
  note(text: string): void;
  /** Called when all tenants are planned: adds buffers whose sizes follow from the others. */
  finally(complete: () => void): void;
  /** Offers buffers to plan when everything else is, as many as there is room for. */
  offers(buffers: OptionalBuffers): void;
}
