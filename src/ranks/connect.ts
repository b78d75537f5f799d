/** Lets the devices of a run's ranks exchange their memory without the host, where they can. */
import type { Device } from "../device/device.ts";
import type { Ranks } from "./ranks.ts";

/**
 * Joins the ranks' devices to a group, if each has one of its own and the library for it; otherwise what they exchange goes by
 * way of the host. All ranks call it. Returns a line about it; null if devices compute in the host's memory or there are no
 * other ranks.
 *
 * @throws RunError if the library finds the devices and cannot connect them; RanksFailure
 */
export async function connectDevices(device: Device, ranks: Ranks): Promise<string | null> {
  const { peers } = device;
  if (!ranks.exchanges) return null;
  await ranks.meetNeighbours();
  const host = ranks.carrier === null ? "by way of the host" : `by way of the host, by ${ranks.carrier}`;
  const all = await ranks.gather("the devices of the ranks", peers === null ? null : peers.survey());
  const found = all.flatMap((each) => (each === null || "missing" in each ? [] : [each]));
  const [missing = null] = all.flatMap((each) => (each !== null && "missing" in each ? [each.missing] : []));
  if (peers === null || found.length === 0) {
    if (missing !== null) return `ranks exchange ${host}: ${missing}`;
    return ranks.carrier === null ? null : `ranks exchange by ${ranks.carrier}`;
  }
  const why = reasonAgainst(all.length, found, missing);
  if (why !== null) return `ranks exchange ${host}: ${why}`;
  const id = await ranks.first("the group of devices", () => peers.createId());
  await ranks.waitFor(() => peers.join(id, ranks.rank, ranks.size, ranks.requireAll));
  return `ranks exchange by ${found[0]!.library}`;
}

interface Found {
  readonly library: string;
  readonly device: string;
}

/** Why devices cannot exchange; null: they can. */
function reasonAgainst(ranks: number, found: readonly Found[], missing: string | null): string | null {
  if (found.length < ranks) return missing ?? "some of them compute on the CPU";
  const libraries = [...new Set(found.map(({ library }) => library))];
  if (libraries.length > 1) return `they have ${libraries.join(" and ")}; install the same version for all`;
  const devices = new Set(found.map(({ device }) => device));
  return devices.size < ranks ? `${ranks} of them share ${devices.size} GPU${devices.size === 1 ? "" : "s"}` : null;
}
