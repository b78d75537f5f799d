/**
 * `--ranks N`: starts this command N times on this machine, as one run, and waits for all. Signals go on to the ranks,
 * which save once, together; a rank that fails ends the others by itself, and what has not ended then is killed.
 */
import { randomBytes } from "node:crypto";
import type { Subprocess } from "bun";
import { parentVariable, placementOf, secretVariable } from "../ranks/environment.ts";
import { freePort } from "../ranks/port.ts";
import { passOnSignals } from "./interrupt.ts";

/** How long the ranks have to end after the first of them has failed. */
const END_WITHIN_MS = 6000;

/**
 * Does a command's work in this process or, if several ranks are asked for and nothing else has started them, in as many.
 *
 * @returns the exit status
 */
export async function inRanks(ranks: number | null, work: () => Promise<number>): Promise<number> {
  return ranks !== null && ranks > 1 && !placementOf() ? launch(ranks) : work();
}

/** Runs this process's own command line as `size` ranks. */
async function launch(size: number): Promise<number> {
  const common = {
    ...process.env,
    WORLD_SIZE: String(size),
    LOCAL_WORLD_SIZE: String(size),
    MASTER_ADDR: "127.0.0.1",
    MASTER_PORT: String(freePort()),
    [secretVariable]: randomBytes(32).toString("hex"),
    [parentVariable]: String(process.pid),
    // Compiling JavaScript once more, for speed that matters little here, takes processor time from the ranks' kernels.
    BUN_JSC_useFTLJIT: process.env.BUN_JSC_useFTLJIT ?? "false",
  };
  // The executable is its own program; otherwise Bun is, and the program its first argument.
  const command = [process.execPath, ...(Bun.main.includes("$bunfs") ? [] : [Bun.main]), ...process.argv.slice(2)];
  const ranks = Array.from({ length: size }, (_, rank) =>
    Bun.spawn(command, {
      env: { ...common, RANK: String(rank), LOCAL_RANK: String(rank) },
      // Rank 0 speaks; the others' stderr is for what nobody foresaw.
      stdio: ["ignore", rank === 0 ? "inherit" : "ignore", "inherit"],
    }),
  );
  const release = passOnSignals((signal) => {
    for (const rank of ranks) rank.kill(signal);
  });
  try {
    const codes = await allEnded(ranks);
    const status = codes[0]!;
    return status !== 0 ? status : (codes.find((code) => code !== 0) ?? 0);
  } finally {
    release();
    for (const rank of ranks) rank.kill("SIGKILL");
  }
}

/** The exit statuses of all; once one has failed, the others have some time. */
async function allEnded(ranks: readonly Subprocess[]): Promise<number[]> {
  const statusOf = async (rank: Subprocess) => {
    const code = await rank.exited;
    return rank.signalCode === null ? code : 1;
  };
  const all = ranks.map(statusOf);
  const failed = new Promise<void>((resolve) => {
    for (const one of all) one.then((code) => code !== 0 && resolve());
  });
  const whole = Promise.all(all);
  await Promise.race([whole, failed]);
  await Promise.race([whole, Bun.sleep(END_WITHIN_MS)]);
  for (const rank of ranks) if (rank.exitCode === null && rank.signalCode === null) rank.kill("SIGKILL");
  return whole;
}
