/**
 * `grpo check:gpu`: the checks of test/cuda on this machine's own GPU. They are test files, which Bun runs from their
 * sources: in a checkout those at hand, for the executable those that lie beside it (release/pack.ts puts them there).
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { assetPath } from "../assets.ts";
import { InputError } from "../errors.ts";
import { compiled } from "../program.ts";
import type { Command } from "./command.ts";

/** The program that runs the checks and ends with their exit status; it takes the command's arguments. */
const ENTRY = "test/cuda/check/main.ts";

export const checkGpu: Command = {
  name: "check:gpu",
  summary: "prove every op and the training on this machine's own GPU",
  usage: `Usage: grpo check:gpu [--model FOLDER [--key value …]]

Runs every op against float64 and the reference models on this machine's GPU with NVIDIA's libraries, the sanitizers where
there are any, and forty steps of the bundled model; with --model also three steps of that model.

The executable runs the tests that lie in its own folder or in the working folder: those of a pack, or of a checkout.

Example: grpo check:gpu --model ./Qwen3-0.6B`,
  async run(argv) {
    const child = Bun.spawn([process.execPath, join(sourcesFolder(), ENTRY), ...argv], {
      // The executable is Bun too, where it is told to be.
      env: { ...process.env, ...(compiled ? { BUN_BE_BUN: "1" } : {}) },
      stdio: ["inherit", "inherit", "inherit"],
    });
    return await child.exited;
  },
};

/** @throws InputError where the executable has no tests beside it */
function sourcesFolder(): string {
  if (!compiled) return assetPath(".");
  const places = [...new Set([dirname(process.execPath), process.cwd()])];
  const found = places.find((folder) => existsSync(join(folder, ENTRY)));
  if (found !== undefined) return found;
  throw new InputError(
    `the executable does not hold the tests, and ${ENTRY} is not in ${places.join(" or ")}; put it into a checkout of the same commit, or unpack a pack (bun run pack)`,
  );
}
