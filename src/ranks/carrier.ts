/**
 * What carries the bytes of exchanges where a launcher of MPI has started the ranks: messages of MPI, over whatever network it
 * knows. Through it the ranks also learn where to meet. Everything else (values, signs of life, failures) goes over the ranks'
 * own connections.
 */
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { type Mpi, mpiVariable, openMpi } from "../../ffi/bindings/mpi.ts";
import { openWaiter } from "../device/cuda/waiting.ts";
import { InputError } from "../errors.ts";
import type { Placement, Rendezvous } from "./environment.ts";
import { freePort } from "./port.ts";

export interface Carrier {
  /** "Open MPI v5.0.11" */
  readonly name: string;
  /**
   * As `Ranks.exchange`.
   *
   * @param requireAll throws if a rank has failed: called again and again
   */
  exchange(
    send: readonly (readonly Uint8Array[])[],
    receive: readonly (readonly Uint8Array[])[],
    requireAll: () => void,
  ): Promise<void>;
  /** Every rank calls it at its end. */
  finish(): void;
}

function carrierOf(mpi: Mpi): Carrier {
  const wait = openWaiter();
  return {
    name: mpi.version,
    async exchange(send, receive, requireAll) {
      const { isDone } = mpi.exchange(send, receive);
      await wait("exchange", () => {
        requireAll();
        return isDone();
      });
    },
    finish: mpi.finish,
  };
}

/** What ranks that have no rendezvous have in common. */
export interface Meeting {
  readonly rendezvous: Rendezvous;
  readonly secret: string;
  readonly carrier: Carrier;
}

/**
 * Asks MPI where the ranks meet; null if a launcher of another kind has started them.
 *
 * @throws InputError if the launcher's library is missing, or another one's is found
 */
export function meetByMpi({ launcher, rank, size, localSize }: Placement): Meeting | null {
  if (launcher !== "Open MPI" && launcher !== "MPICH") return null;
  const mpi = openMpi(launcher);
  if (mpi.rank !== rank || mpi.size !== size)
    throw new InputError(
      `${launcher} has started this process as rank ${rank} of ${size}, and ${mpi.path} (${mpi.version}) says rank ${mpi.rank} of ${mpi.size}: it belongs to another MPI; name the launcher's own library in ${mpiVariable}`,
    );
  const own = (): Omit<Meeting, "carrier"> => {
    const host = localSize === size ? "127.0.0.1" : hostname();
    return { rendezvous: { host, port: freePort() }, secret: randomBytes(32).toString("hex") };
  };
  const common = JSON.parse(mpi.broadcast(rank === 0 ? JSON.stringify(own()) : "")) as Omit<Meeting, "carrier">;
  return { ...common, carrier: carrierOf(mpi) };
}
