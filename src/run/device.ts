/** Opens a run's device, and a session on it. */
import { whileOpen } from "../closing.ts";
import type { Device } from "../device/device.ts";
import { openDevice } from "../device/open.ts";
import { connectDevices } from "../ranks/connect.ts";
import type { Team } from "../ranks/ranks.ts";
import { planSession, type Session, type Tenants, withSession } from "../session/session.ts";
import type { SessionPlan } from "../session/tenant.ts";

export interface DeviceSettings {
  /** auto, cpu, cuda or cuda:N */
  readonly device: string;
  readonly threads: number | null;
}

interface LeftToDevice {
  /** null: as many as the device says. */
  readonly microBatchTokens: number | null;
}

/** A run's settings with what null leaves to the device. */
export type OnDevice<C extends LeftToDevice> = C & { readonly microBatchTokens: number };

export function onDevice<C extends LeftToDevice>(config: C, device: Pick<Device, "microBatchTokens">): OnDevice<C> {
  return { ...config, microBatchTokens: config.microBatchTokens ?? device.microBatchTokens };
}

/** Opens a run's device; notes when its kernels are compiled first, or when `auto` falls back to the CPU. */
export function openRunDevice(
  { device, threads }: DeviceSettings,
  note: (text: string) => void,
  localRank = 0,
): Promise<Device> {
  return openDevice({ device, threads, localRank, note });
}

/** What decides about a rank's device. */
type RankPlace = Pick<Team, "ranks" | "localRank" | "division">;

/**
 * The device of a rank, connected with those of the others if they divide optimizer steps.
 *
 * @throws RunError as `connectDevices`; RanksFailure
 */
export async function openTeamDevice(
  settings: DeviceSettings,
  { ranks, localRank, division }: RankPlace,
  note: (text: string) => void,
): Promise<Device> {
  const device = await openRunDevice(settings, note, localRank);
  try {
    const line = division === null ? null : await connectDevices(device, ranks);
    if (line !== null) note(line);
    return device;
  } catch (error) {
    device.close();
    throw error;
  }
}

/** Runs `work` on a run's device, then closes it. */
export async function withDevice<R>(
  settings: DeviceSettings,
  note: (text: string) => void,
  work: (device: Device) => Promise<R>,
): Promise<R> {
  return whileOpen(await openRunDevice(settings, note), work);
}

/** The same with a rank's device. */
export async function withTeamDevice<R>(
  settings: DeviceSettings,
  team: RankPlace,
  note: (text: string) => void,
  work: (device: Device) => Promise<R>,
): Promise<R> {
  return whileOpen(await openTeamDevice(settings, team, note), work);
}

/** Runs `work` with a session of what `compose` plans on a run's device, then closes both. */
export function withDeviceSession<T extends Tenants, R>(
  settings: DeviceSettings,
  note: (text: string) => void,
  compose: (plan: SessionPlan) => T,
  work: (session: Session<T>) => Promise<R>,
): Promise<R> {
  return withDevice(settings, note, (device) => withSession(planSession(device, compose, note), work));
}
