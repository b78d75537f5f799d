/**
 * A session is everything that a command computes with, in a single allocation. Its tenants (the policy with its
 * training, a reference, a rollout, a critic, reward models) have files of their own: each first adds its buffers to
 * the plan, and fills them after allocation. This file plans, checks, allocates, opens and closes the whole.
 */
import { type Closable, createClosers, whileOpen } from "../closing.ts";
import type { Device, ScratchSizes } from "../device/device.ts";
import { clearHost } from "../device/host-numbers.ts";
import { type MemoryPlan, type OptionalBuffers, placeTensors, planMemory } from "../tensor/plan.ts";
import { planOptional } from "./gradient-checkpointing.ts";
import { estimateMemory, type HeldCompletions, type MemoryEstimate, requireMemory } from "./memory.ts";
import { openModelFolder } from "./planned-model.ts";
import type { Place, SessionPlan, Tenant } from "./tenant.ts";

/** Tenants under the names that a command uses; null: one that this run does without. */
export type Tenants = Readonly<Record<string, Tenant<unknown> | readonly Tenant<unknown>[] | null>>;

/** What a tenant, or each of several, opens to. */
type Opened<T> = T extends Tenant<infer V> ? V : T extends readonly Tenant<infer V>[] ? readonly V[] : T;

/** The opened tenants under their names. */
export type Session<T extends Tenants> = { readonly [K in keyof T]: Opened<T[K]> } & Closable;

export interface PlannedSession<T extends Tenants> extends Closable {
  readonly tenants: T;
  readonly memory: MemoryEstimate;
  /**
   * Allocates the plan and opens the tenants.
   *
   * @throws InputError if the machine does not have enough memory
   */
  open(): Promise<Session<T>>;
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
 * @param compose plans the tenants, which sets the order of their buffers, and returns those that the command uses;
 *   they are opened in the order of its keys
 * @param note takes remarks on the models, each once
 * @throws InputError as the tenants do
 */
export function planSession<T extends Tenants>(
  device: Device,
  compose: (plan: SessionPlan) => T,
  note: (text: string) => void = () => {},
): PlannedSession<T> {
  const files = createClosers();
  const memory = planMemory();
  const hostMemory = planMemory();
  const scratch: ScratchSizes[] = [];
  let held: HeldCompletions | null = null;
  const optional: OptionalBuffers[] = [];
  const last: (() => void)[] = [];
  const said = new Set<string>();
  let tenants: T;
  try {
    tenants = compose({
      device,
      memory,
      hostMemory,
      folder(path, wanted, base) {
        const folder = openModelFolder(path, wanted, base);
        files.add(folder.checkpoint);
        if (folder.adapter) files.add(folder.adapter);
        return folder;
      },
      finally: (complete) => void last.push(complete),
      computes: (...sizes) => void scratch.push(...sizes),
      holds(completions) {
        held = completions;
      },
      note(text) {
        if (said.has(text)) return;
        said.add(text);
        note(text);
      },
      offers: (buffers) => void optional.push(buffers),
    });
    for (const complete of last) complete();
  } catch (error) {
    files.abandon();
    throw error;
  }
  const onHost = hostMemory.build();
  const estimateOf = (plan: MemoryPlan) =>
    estimateMemory(plan, device.scratchBytes(...scratch), device.freeBytes() !== null, onHost, held);
  const layout = planOptional(memory, optional, (plan) => estimateOf(plan).peakBytes, device);
  const estimate = estimateOf(layout);
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
        device.populate(arena);
        const tensors = new Map(placeTensors(layout, arena.address));
        if (onHost.totalBytes > 0) {
          const pinned = device.allocateHost(onHost.totalBytes, "the optimizer's states in host memory");
          closers.add({ close: () => pinned.free() });
          await clearHost(pinned);
          for (const [name, each] of placeTensors(onHost, pinned.address)) tensors.set(name, each);
        }
        const session = await openAll(tenants, tensors, closers.add);
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

/** Opens a planned session, runs `work` with it, then closes both. */
export function withSession<T extends Tenants, R>(
  planned: PlannedSession<T>,
  work: (session: Session<T>) => Promise<R>,
): Promise<R> {
  return whileOpen(planned, async () => whileOpen(await planned.open(), work));
}
