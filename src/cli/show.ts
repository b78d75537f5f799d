/** `grpo show`: the page of finished or running runs. What it serves is src/dashboard/server.ts. */
import { text, whole } from "../config/settings/kinds.ts";
import { pageFiles } from "../dashboard/bundle.ts";
import { runsIn } from "../dashboard/folders.ts";
import { viewRun } from "../dashboard/run-view.ts";
import { startServer } from "../dashboard/server.ts";
import type { Command } from "./command.ts";
import { describeFlags, readFlags } from "./flags.ts";

const settings = {
  port: whole(0, null, 65_535)`Where the page is served. 0: any free port; null: 7007, or the next that is free.`,
  host: text("localhost", "HOST")`
    Any name or address but this machine's loopback needs the token in the printed address; 0.0.0.0 is all of them.`,
} as const;

export const show: Command = {
  flags: settings,
  usage: `Usage: grpo show DIR [DIR …] [--port N] [--host HOST]

Serves a page with the charts, completions, memory plan and settings of the run in DIR, the output folder of train or sft,
finished or still running; several are compared. A folder that holds several runs stands for all of them. It reads
nothing else, and writes nothing. Ctrl-C ends it.

${describeFlags(settings)}
Example: grpo show outputs/train`,
  async run(argv) {
    const { flags, positionals } = readFlags("show", settings, argv, ["DIR"], { more: true });
    const found = runsIn(positionals);
    const runs = found.map(({ folder, name }, i) => viewRun(folder, i, name));
    const server = startServer({ runs, files: await pageFiles(), ...flags, status: "unknown" });
    process.stdout.write(`${server.url}\n`);
    await new Promise<void>((resolve) => {
      for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => resolve());
    });
    server.close();
  },
};
