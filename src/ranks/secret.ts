/**
 * What shows that a process belongs to a run: a secret from the launcher or the user or, where neither gives one, a key
 * that rank 0 leaves in the cache folder of its user, and takes away once all ranks have met.
 */
import { randomBytes } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { madeInCache, writeInCache } from "../cache.ts";
import { type Placement, secretVariable } from "./environment.ts";

export interface Secret {
  /** Whether it may still change: the key that was read may be an earlier run's. */
  readonly isFile: boolean;
  /** The bytes; null: rank 0 has not left them yet. */
  read(): Buffer | null;
  /** The key that was read last is the run's, whatever becomes of the file. */
  settle(): void;
  /** Rank 0 leaves the key, and takes it away. */
  publish(): void;
  withdraw(): void;
  /** What to do where the ranks do not have the same. */
  readonly cure: string;
}

const cure = `set ${secretVariable} to the same text for every rank`;

export function secretOf({ secret, rendezvous }: Pick<Placement, "secret" | "rendezvous">): Secret {
  if (secret !== null)
    return { isFile: false, read: () => Buffer.from(secret), settle() {}, publish() {}, withdraw() {}, cure };
  const name = `${rendezvous?.host}-${rendezvous?.port}`.replace(/[^\w.-]/g, "_");
  const path = join(madeInCache("ranks"), `${name}.key`);
  let last: Buffer | null = null;
  let settled = false;
  return {
    isFile: true,
    read() {
      if (settled) return last;
      try {
        const bytes = readFileSync(path);
        last = bytes.length === 0 ? null : bytes;
      } catch {
        last = null;
      }
      return last;
    },
    settle() {
      settled = true;
    },
    publish: () => writeInCache(path, randomBytes(32).toString("hex"), 0o600),
    withdraw: () => rmSync(path, { force: true }),
    cure: `they need the same cache folder (${path}), or ${cure}`,
  };
}
