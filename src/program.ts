/**
 * What it is that runs: the one executable or a checkout. Says which commit it was made of, and how a user of it calls a
 * command. Leaves out the files that the executable carries (assets.ts).
 */
import { join } from "node:path";

// Put in by release/build.ts; a checkout has neither.
declare const GRPO_COMMIT: string | undefined;
declare const GRPO_ASSETS: string | undefined;

/** Whether the program runs as one executable, whose files lie in a virtual folder that only Bun itself can read. */
export const compiled = import.meta.url.includes("$bunfs") || import.meta.url.includes("~BUN");

/** A hash of every file that the executable carries; empty in a checkout. */
export const assetsHash: string = typeof GRPO_ASSETS === "string" ? GRPO_ASSETS : "";

/** How a command is called here: `grpo train` of the executable, `bun run train` in a checkout. */
export function callOf(command: string): string {
  return compiled ? `grpo ${command}` : `bun run ${command}`;
}

/** The commit that the program was built from or that is checked out, "-modified" where files differ; null: unknown. */
export function commit(): string | null {
  if (typeof GRPO_COMMIT === "string") return GRPO_COMMIT === "" ? null : GRPO_COMMIT;
  return commitOf(join(import.meta.dir, ".."));
}

/** What git says of a folder; null where there is no git, or the folder is not the top of a repository. */
export function commitOf(folder: string): string | null {
  if (!Bun.which("git")) return null;
  const git = (...words: string[]) => {
    const { stdout, success } = Bun.spawnSync(["git", "-C", folder, ...words], { stderr: "ignore" });
    return success ? stdout.toString().trim() : null;
  };
  // A copy without .git inside another repository has none of its own.
  if (git("rev-parse", "--show-cdup") !== "") return null;
  const hash = git("rev-parse", "--short=12", "HEAD");
  if (hash === null) return null;
  return git("status", "--porcelain", "--untracked-files=no") === "" ? hash : `${hash}-modified`;
}
