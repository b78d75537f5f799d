/**
 * Lets reward functions import `bun-grpo` by name, wherever their file is, even if the whole program is one executable
 * without a node_modules. src/rewards itself does not use the public API.
 */
import { plugin } from "bun";

/** @param load imports src/index.ts; called when a reward function asks for the API, so that most processes never load it */
export function offerPublicApi(load: () => Promise<object>): void {
  plugin({
    name: "bun-grpo",
    setup(build) {
      build.module("bun-grpo", async () => ({ exports: { ...(await load()) }, loader: "object" }));
    },
  });
}
