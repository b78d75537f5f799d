/**
 * `grpo …` on the emulated GPU, as in `bun run emulated`: each in its own process, two at a time, one per core. The product is
 * started as by a user; only the folder in which the loader finds NVIDIA's libraries differs. With BUN_GRPO_CUDA=real the same
 * commands run on this machine's own GPU, where the emulator's settings have no effect.
 */
import { join } from "node:path";
import { argvOf, type Finished, type Flags, root } from "../e2e/runs.ts";
import { buildEmulator } from "../emulator/build.ts";

/** One thread per process; accesses are checked if a test asks for it, which takes three times as long. */
const usual = { EMULATOR_CHECK: "0", EMULATOR_THREADS: "1" };
export const checked = { EMULATOR_CHECK: "1" };

const onHardware = process.env.BUN_GRPO_CUDA === "real";
/** Concurrent processes: for the emulator one per core of a small machine; with a GPU they mostly wait for the host. */
const atOnce = onHardware ? 4 : 2;

const waiting: (() => void)[] = [];
let running = 0;

async function turn(): Promise<void> {
  if (running < atOnce) running++;
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
  /** Use the emulator in any case. */
  readonly always?: boolean;
}

/** `bun run emulated COMMAND --device cuda …`; killed after `seconds`. */
export async function emulated(command: string, flags: Flags, options: EmulatedOptions = {}): Promise<Finished> {
  const real = onHardware && !options.always;
  const program = real ? "src/cli/main.ts" : "test/emulator/run.ts";
  if (!real) await buildEmulator(); // two processes that start at once would both compile it
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

/** The same, but must succeed. @throws Error with its output */
export async function succeeds(command: string, flags: Flags, options: EmulatedOptions = {}): Promise<Finished> {
  const finished = await emulated(command, flags, options);
  if (finished.code !== 0)
    throw new Error(`grpo ${command} ended with ${finished.code ?? finished.signal}: ${finished.err}${finished.out}`);
  return finished;
}
