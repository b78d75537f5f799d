/**
 * What a tenant of a session is: something that is planned with others in one piece of memory, and opened once that is there.
 * A function `plan…(plan, …)` adds its buffers and returns it; `open` fills them. Its type says what it opens to.
 */
import type { ModelFolder } from "../checkpoint/huggingface.ts";
import type { Closable } from "../closing.ts";
import type { Device, ScratchSizes } from "../device/device.ts";
import type { ModelHead } from "../families/config.ts";
import type { PlanBuilder } from "../tensor/plan.ts";
import type { Tensor } from "../tensor/tensor.ts";

export interface Tenant<T> {
  open(place: Place): Promise<T>;
}

/** Where tenants are opened. */
export interface Place {
  /** The planned buffers by name. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** What another tenant opens to. Each is opened once, when it is first asked for. */
  open<T>(tenant: Tenant<T>): Promise<T>;
  /** Has `part` closed with the session. */
  closes(part: Closable): void;
}

/** A session while it is planned. */
export interface SessionPlan {
  readonly device: Device;
  /** Takes the buffers. */
  readonly memory: PlanBuilder;
  /**
   * Opens a model folder. Its files are closed once all tenants are open: the device has its own copy of the weights then.
   *
   * @throws InputError as `openModelFolder` does
   */
  folder(path: string, wanted?: ModelHead | "either"): ModelFolder;
  /** Ops of these sizes will run: the device keeps scratch for them beside the planned buffers. */
  computes(...sizes: readonly ScratchSizes[]): void;
}
