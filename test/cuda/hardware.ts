/**
 * `bun run check:gpu`: everything that the emulated driver proves, on this machine's own GPU with NVIDIA's libraries, and
 * what only hardware can tell: sanitizers, and speed. Stages go on after one fails; the last line counts them.
 *
 *   bun run check:gpu                      the bundled tiny model
 *   bun run check:gpu --model ./Qwen3-0.6B   also times a step of that model
 */
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assetPath } from "../../src/assets.ts";
import { openCudaDevice } from "../../src/device/cuda.ts";
import { errorText } from "../../src/errors.ts";

const main = assetPath("src/cli/main.ts");
const real = { BUN_GRPO_CUDA: "real", OPS_PATH: "cuda" };

interface Stage {
  readonly name: string;
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Why it cannot run here; null: it can. */
  readonly missing?: string | null;
}

/** compute-sanitizer of the toolkit, where one is installed. */
function sanitizer(): string | null {
  const places = [process.env.CUDA_HOME, "/usr/local/cuda"].filter((folder): folder is string => !!folder);
  return (
    Bun.which("compute-sanitizer") ??
    places.map((folder) => join(folder, "bin", "compute-sanitizer")).find((file) => existsSync(file)) ??
    null
  );
}

function modelStage(argv: readonly string[]): Stage[] {
  const at = argv.indexOf("--model");
  if (at < 0) return [];
  const model = argv[at + 1] ?? "";
  const output = join(tmpdir(), "bun-grpo-check-gpu-model");
  const flags = ["--max_steps", "3", "--num_generations", "16", "--max_completion_length", "256"];
  const command = [
    process.execPath,
    main,
    "train",
    "--device",
    "cuda",
    "--model",
    model,
    ...flags,
    "--output_dir",
    output,
  ];
  return [
    { name: "three steps of the model", command: [...command, ...argv.slice(at + 2)], env: { BUN_GRPO_TRACE: "1" } },
  ];
}

function stages(argv: readonly string[]): Stage[] {
  const train = (steps: number, name: string) => {
    const output = join(tmpdir(), `bun-grpo-check-gpu-${name}`);
    return [process.execPath, main, "train", "--device", "cuda", "--max_steps", String(steps), "--output_dir", output];
  };
  const tool = sanitizer();
  const missing = tool ? null : "no compute-sanitizer on PATH or under $CUDA_HOME/bin; it comes with the CUDA toolkit";
  const sanitized = ["memcheck", "racecheck", "synccheck", "initcheck"].map((check) => ({
    name: `compute-sanitizer ${check}`,
    command: [tool ?? "", "--tool", check, "--error-exitcode", "9", ...train(1, check)],
    missing,
  }));
  return [
    { name: "doctor", command: [process.execPath, main, "doctor"] },
    {
      name: "every op against float64",
      command: [process.execPath, "test", "--timeout", "600000", "./test/ops/"],
      env: real,
    },
    {
      name: "models against the reference",
      command: [process.execPath, "test", "--timeout", "600000", "./test/cuda/"],
      env: real,
    },
    ...sanitized,
    { name: "forty steps of the bundled model", command: train(40, "bundled"), env: { BUN_GRPO_TRACE: "1" } },
    ...modelStage(argv),
  ];
}

try {
  const device = await openCudaDevice();
  console.log(device.description);
  device.close();
} catch (error) {
  console.error(errorText(error));
  process.exit(2);
}
let [passed, failed] = [0, 0];
for (const { name, command, env = {}, missing = null } of stages(process.argv.slice(2))) {
  if (missing) {
    console.log(`== ${name}: left out: ${missing}`);
    continue;
  }
  console.log(`== ${name}`);
  const { exitCode } = Bun.spawnSync([...command], {
    cwd: assetPath("."),
    env: { ...process.env, ...env },
    stdio: ["ignore", "inherit", "inherit"],
  });
  console.log(`== ${name}: ${exitCode === 0 ? "ok" : `FAILED (exit status ${exitCode})`}`);
  if (exitCode === 0) passed++;
  else failed++;
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
