/**
 * `mpirun -n N grpo train` with Open MPI and MPICH: ranks find each other by MPI, which also carries their gradients and weights;
 * the bytes are those of `--ranks N`, which goes over TCP.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, readlinkSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { checkpointBytes, childrenOf, onRanks, ranksBytes, rankTraining, untilStep } from "../e2e/rank-runs.ts";
import { argvOf, type Flags, root, until, workFolder } from "../e2e/runs.ts";
import { fetchMpi, kinds } from "./fetch.ts";

setDefaultTimeout(300_000);

const work = workFolder();
afterAll(work.remove);

const flags: Flags = { ...rankTraining, device: "cpu", save_steps: 2 };
const completions = 48;
const main = join(root, "src/cli/main.ts");

/** Open MPI refuses root, and more ranks than cores, unless told otherwise. */
const permitted = {
  ...{
    OMPI_ALLOW_RUN_AS_ROOT: "1",
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
    PRTE_MCA_rmaps_default_mapping_policy: ":oversubscribe",
  },
};

function mpirun(folder: string, ranks: number, own: Flags, env: Record<string, string> = {}) {
  const size = { per_device_train_batch_size: completions / ranks };
  const child = Bun.spawn(
    [
      join(folder, "bin/mpirun"),
      "-n",
      String(ranks),
      process.execPath,
      main,
      "train",
      ...argvOf({ ...flags, ...size, ...own }),
    ],
    { env: { ...process.env, ...permitted, NO_COLOR: "1", ...env }, stdio: ["ignore", "pipe", "pipe"] },
  );
  const late = setTimeout(() => child.kill("SIGKILL"), 200_000);
  const finish = async () => {
    const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    await child.exited;
    clearTimeout(late);
    return { code: child.exitCode, out, err };
  };
  return { child, finished: finish() };
}

const isRank = (pid: number): boolean => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").includes(main);
  } catch {
    return false;
  }
};

const runsBun = (pid: number): boolean => {
  try {
    return readlinkSync(`/proc/${pid}/exe`) === realpathSync(process.execPath);
  } catch {
    return false;
  }
};

/** The ranks that a launcher has started, directly or by a program of its own, in the order in which they were started. */
function ranksBelow(pid: number): number[] {
  return childrenOf(pid).flatMap((child) => (runsBun(child) ? [child] : ranksBelow(child)));
}

const reference = work.at("by TCP");
beforeAll(() => onRanks(4, reference, { ...flags, per_device_train_batch_size: completions }));

describe.each([...kinds])("%s", (kind) => {
  const mpi = fetchMpi(kind);
  if ("missing" in mpi) console.warn(`${kind}: ${mpi.missing}`);
  // Without Python or the network there is no MPI to test with.
  const ours = test.skipIf("missing" in mpi);
  const folder = "folder" in mpi ? mpi.folder : "";

  ours("2 and 4 ranks have the bytes of --ranks", async () => {
    for (const ranks of [4, 2]) {
      const output_dir = work.at(`${kind} ${ranks}`);
      const { code, out, err } = await mpirun(folder, ranks, { output_dir }).finished;
      expect({ code, err }).toEqual({ code: 0, err: "" });
      expect(out).toMatch(/^ranks exchange by (Open MPI v5|MPICH Version: 5)/im);
      expect(ranksBytes(output_dir)).toEqual(ranksBytes(reference));
      expect(checkpointBytes(join(output_dir, "checkpoint-4"))).toEqual(
        checkpointBytes(join(reference, "checkpoint-4")),
      );
    }
  });

  ours("a rendezvous in the environment makes them meet without MPI", async () => {
    const output_dir = work.at(`${kind} tcp`);
    const env = { MASTER_ADDR: "127.0.0.1", MASTER_PORT: "0", BUN_GRPO_SECRET: "of the test" };
    const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    env.MASTER_PORT = String(server.port);
    server.stop(true);
    const { code, out } = await mpirun(folder, 2, { output_dir }, env).finished;
    expect(code).toBe(0);
    expect(out).not.toMatch(/ranks exchange by/);
    expect(ranksBytes(output_dir)).toEqual(ranksBytes(reference));
  });

  ours("the death of a rank ends all, and the last checkpoint is resumed", async () => {
    const output_dir = work.at(`${kind} killed`);
    const { child, finished } = mpirun(folder, 4, { output_dir, max_steps: 1000, save_steps: 1 });
    await untilStep(output_dir, 2);
    const ranks = ranksBelow(child.pid);
    expect(ranks).toHaveLength(4);
    process.kill(ranks[2]!, "SIGKILL");
    const since = performance.now();
    const { code } = await finished;
    expect(code).not.toBe(0);
    expect(performance.now() - since).toBeLessThan(30_000);
    await until("the end of all ranks", () => !ranks.some(isRank));
    const more = { output_dir, resume_from_checkpoint: true, max_steps: 4, save_steps: 0 };
    const resumed = await mpirun(folder, 2, more).finished;
    expect({ code: resumed.code, err: resumed.err }).toEqual({ code: 0, err: "" });
  });
});
