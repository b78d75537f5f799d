/**
 * Lets reward functions import `bun-grpo` by name, wherever their file lies and also when the whole program is one
 * executable without a node_modules. The folder of rewards itself uses nothing of the public API.
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
