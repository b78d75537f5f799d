/**
 * Whether the program runs as the single executable or from a checkout: its commit, and how its user calls a command.
 * Bundled files are in assets.ts.
 */
import { join } from "node:path";

// Defined by release/build.ts; a checkout has neither.
declare const GRPO_COMMIT: string | undefined;
declare const GRPO_ASSETS: string | undefined;

/** Whether the program is the single executable, whose files are in a virtual folder that only Bun can read. */
export const compiled = import.meta.url.includes("$bunfs") || import.meta.url.includes("~BUN");

/** A hash of all files in the executable; empty in a checkout. */
export const assetsHash: string = typeof GRPO_ASSETS === "string" ? GRPO_ASSETS : "";

/** Whether it is a package among those of another project. */
const installed = import.meta.dir.includes("/node_modules/");

/** How the user calls a command: `grpo train` with the executable, `bunx grpo train` of a package, `bun run train` in a checkout. */
export function callOf(command: string): string {
  if (installed) return `bunx grpo ${command}`;
  return compiled ? `grpo ${command}` : `bun run ${command}`;
}

/** The commit that was built or is checked out, with "-modified" if files differ; null if unknown. */
export function commit(): string | null {
  if (typeof GRPO_COMMIT === "string") return GRPO_COMMIT === "" ? null : GRPO_COMMIT;
  return commitOf(join(import.meta.dir, ".."));
}

/** A folder's commit by git; null without git, or if the folder is not the top of a repository. */
export function commitOf(folder: string): string | null {
  if (!Bun.which("git")) return null;
  const git = (...words: string[]) => {
    const { stdout, success } = Bun.spawnSync(["git", "-C", folder, ...words], { stderr: "ignore" });
    return success ? stdout.toString().trim() : null;
  };
  // A copy without .git inside another repository must not report that repository's commit.
  if (git("rev-parse", "--show-cdup") !== "") return null;
  const hash = git("rev-parse", "--short=12", "HEAD");
  if (hash === null) return null;
  return git("status", "--porcelain", "--untracked-files=no") === "" ? hash : `${hash}-modified`;
}
