/** `grpo …` in this process, with its output: a separate process for each of thousands of cases would take too long. */
import { main } from "../../src/cli/main.ts";

export interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Unhandled errors; the caller of a case checks here after it. */
export const stray: unknown[] = [];
let listening = false;

function listen(): void {
  if (listening) return;
  listening = true;
  process.on("uncaughtException", (error) => stray.push(error));
  process.on("unhandledRejection", (error) => stray.push(error));
}

/** Runs a command line and collects its stdout and stderr. */
export async function grpoHere(argv: readonly string[]): Promise<Ended> {
  listen();
  const written = { out: "", err: "" };
  const originals = { out: process.stdout.write, err: process.stderr.write };
  const into = (stream: "out" | "err") =>
    ((text: string | Uint8Array, ...rest: unknown[]) => {
      written[stream] += typeof text === "string" ? text : new TextDecoder().decode(text);
      for (const callback of rest) if (typeof callback === "function") callback();
      return true;
    }) as typeof process.stdout.write;
  process.stdout.write = into("out");
  process.stderr.write = into("err");
  try {
    const code = await main(argv);
    // Something that a command left behind may still fail.
    await Bun.sleep(0);
    for (const error of stray.splice(0)) written.err += `not waited for: ${Bun.inspect(error)}\n`;
    return { code, ...written };
  } finally {
    process.stdout.write = originals.out;
    process.stderr.write = originals.err;
  }
}
