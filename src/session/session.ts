/**
 * Everything that a command computes with, in one piece of memory. Its tenants (the policy and what trains it, a reference, a
 * rollout, a critic, reward models) are files of their own: each adds its buffers to the plan first, and fills them once
 * the memory is there. Here is what is common to all: the plan is made, checked, allocated, opened and closed as a whole.
 */
import { type Closable, createClosers, whileOpen } from "../closing.ts";
import { breathe } from "../device/breathe.ts";
import type { Device, DeviceMemory, ScratchSizes } from "../device/device.ts";
import { placeTensors, planMemory } from "../tensor/plan.ts";
import { tensor } from "../tensor/tensor.ts";
import { estimateMemory, type MemoryEstimate, requireMemory } from "./memory.ts";
import { openModelFolder } from "./planned-model.ts";
import type { Place, SessionPlan, Tenant } from "./tenant.ts";

/** Tenants by the names under which a command wants them; null: one that this run does without. */
export type Tenants = Readonly<Record<string, Tenant<unknown> | readonly Tenant<unknown>[] | null>>;

/** What a tenant opens to, or each of several. */
type Opened<T> = T extends Tenant<infer V> ? V : T extends readonly Tenant<infer V>[] ? readonly V[] : T;

/** What the tenants open to, under their names. */
export type Session<T extends Tenants> = { readonly [K in keyof T]: Opened<T[K]> } & Closable;

export interface PlannedSession<T extends Tenants> extends Closable {
  readonly tenants: T;
  readonly memory: MemoryEstimate;
  /**
   * Allocates what was planned and opens the tenants.
   *
   * @throws InputError when the machine has not enough memory
   */
  open(): Promise<Session<T>>;
}

/** Bytes touched between two turns of the event loop. */
const TOUCHED_AT_ONCE = 64 * 2 ** 20;

/** Writes to all of the memory now, so that a machine without it says so before the first step and not within one. */
async function touch(device: Device, arena: DeviceMemory): Promise<void> {
  for (let at = 0; at < arena.byteLength; at += TOUCHED_AT_ONCE) {
    const floats = Math.floor(Math.min(TOUCHED_AT_ONCE, arena.byteLength - at) / 4);
    device.ops.fill(tensor("arena", arena.address + at, "float32", [floats]), 0);
    await breathe();
  }
}

async function openAll<T extends Tenants>(
  tenants: T,
  tensors: Place["tensors"],
  closes: Place["closes"],
): Promise<Omit<Session<T>, "close">> {
  const known = new Map<Tenant<unknown>, Promise<unknown>>();
  const place: Place = {
    tensors,
    closes,
    open<V>(tenant: Tenant<V>) {
      const opened = known.get(tenant) ?? tenant.open(place);
      known.set(tenant, opened);
      return opened as Promise<V>;
    },
  };
  const session: Record<string, unknown> = {};
  for (const [name, entry] of Object.entries(tenants)) {
    if (entry === null || "open" in entry) session[name] = entry && (await place.open(entry));
    else {
      const several: unknown[] = [];
      for (const tenant of entry) several.push(await place.open(tenant));
      session[name] = several;
    }
  }
  return session as Omit<Session<T>, "close">;
}

/**
 * Plans a session without allocating anything.
 *
 * @param compose plans the tenants, in the order in which their buffers lie, and names those that the command uses; they
 *   are opened in the order of the names
 * @throws InputError as the tenants do
 */
export function planSession<T extends Tenants>(device: Device, compose: (plan: SessionPlan) => T): PlannedSession<T> {
  const files = createClosers();
  const memory = planMemory();
  const scratch: ScratchSizes[] = [];
  let tenants: T;
  try {
    tenants = compose({
      device,
      memory,
      folder(path, wanted) {
        const folder = openModelFolder(path, wanted);
        files.add(folder.checkpoint);
        return folder;
      },
      computes: (...sizes) => void scratch.push(...sizes),
    });
  } catch (error) {
    files.abandon();
    throw error;
  }
  const layout = memory.build();
  const estimate = estimateMemory(layout, device.scratchBytes(...scratch), device.freeBytes() !== null);
  return {
    tenants,
    memory: estimate,
    async open() {
      requireMemory(estimate, device);
      device.prepare(...scratch);
      const closers = createClosers();
      try {
        const arena = device.allocate(layout.totalBytes, "the memory plan");
        closers.add({ close: () => arena.free() });
        await touch(device, arena);
        const session = await openAll(tenants, placeTensors(layout, arena.address), closers.add);
        files.close();
        return { ...session, close: closers.close } as Session<T>;
      } catch (error) {
        closers.abandon();
        throw error;
      }
    },
    close: files.close,
  };
}

/** Opens what was planned, runs `work` with it, and closes both. */
export function withSession<T extends Tenants, R>(
  planned: PlannedSession<T>,
  work: (session: Session<T>) => Promise<R>,
): Promise<R> {
  return whileOpen(planned, async () => whileOpen(await planned.open(), work));
}
