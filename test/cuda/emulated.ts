/**
 * `grpo …` on the emulated GPU, as `bun run emulated` runs it: a process each, two at a time, one a core. The product is
 * what a user starts; only the folder that the loader finds NVIDIA's libraries in is another. With BUN_GRPO_CUDA=real the
 * same commands run on this machine's own GPU, where the emulator's settings say nothing.
 */
import { join } from "node:path";
import { argvOf, type Finished, type Flags, root } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";

/** One thread a process; accesses are checked where a test asks for it, which takes three times as long. */
const usual = { EMULATOR_CHECK: "0", EMULATOR_THREADS: "1" };
export const checked = { EMULATOR_CHECK: "1" };

const waiting: (() => void)[] = [];
let running = 0;

async function turn(): Promise<void> {
  if (running < 2) running++;
  else await new Promise<void>((resolve) => waiting.push(resolve));
}

function done(): void {
  const next = waiting.shift();
  if (next) next();
  else running--;
}

export interface EmulatedOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly seconds?: number;
  /** On the emulator in any case. */
  readonly always?: boolean;
}

const onHardware = process.env.BUN_GRPO_CUDA === "real";

/** `bun run emulated COMMAND --device cuda …`; ended by force after `seconds`. */
export async function emulated(command: string, flags: Flags, options: EmulatedOptions = {}): Promise<Finished> {
  const hardware = onHardware && !options.always;
  const program = hardware ? "src/cli/main.ts" : "test/emulator/run.ts";
  if (!hardware) await buildEmulator(); // two processes that start at once would both compile it
  await turn();
  try {
    const argv = [command, ...argvOf({ device: "cuda", ...flags })];
    const child = Bun.spawn([process.execPath, join(root, program), ...argv], {
      cwd: root,
      env: { ...process.env, NO_COLOR: "1", ...usual, ...options.env },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const timer = setTimeout(() => child.kill("SIGKILL"), (options.seconds ?? 300) * 1000);
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    await child.exited;
    clearTimeout(timer);
    return { code: child.exitCode, signal: child.signalCode, out, err };
  } finally {
    done();
  }
}

/** The same, which has to succeed. @throws Error with what it printed */
export async function succeeds(command: string, flags: Flags, options: EmulatedOptions = {}): Promise<Finished> {
  const finished = await emulated(command, flags, options);
  if (finished.code !== 0)
    throw new Error(`grpo ${command} ended with ${finished.code ?? finished.signal}: ${finished.err}${finished.out}`);
  return finished;
}
