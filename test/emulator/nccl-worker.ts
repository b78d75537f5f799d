/** A rank of nccl.test.ts: `bun nccl-worker.ts ID RANK JSON` does what is asked, and prints what came of it. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { bytesAt } from "../../ffi/bindings/libc.ts";
import { NCCL_UINT8, openNccl } from "../../ffi/bindings/nccl.ts";
import { errorText } from "../../src/errors.ts";
import { buildEmulator } from "./build.ts";
import { openCalls } from "./calls.ts";

export interface Asked {
  readonly streams: "eager" | "lazy";
  /** Bytes of each message. */
  readonly send?: readonly number[];
  readonly receive?: readonly number[];
  /** What is sent begins beyond its allocation. */
  readonly beyond?: boolean;
  /** It aborts its communicator once the other rank is done with its messages, however they ended there. */
  readonly leaves?: boolean;
  /** It is killed once all have joined. */
  readonly dies?: boolean;
  readonly misuse?: boolean;
}

export interface Told {
  readonly failure: string | null;
  /** Communicators that were not released. */
  readonly live: number;
  readonly reports: readonly string[];
  /** Bytes and value of each message: all of its bytes are the sender's 100 · rank + its place. −1: they are not equal. */
  readonly received: readonly (readonly [number, number])[];
  readonly refusals?: readonly string[];
}

const [idFile = "", rankText = "", asked = "{}"] = process.argv.slice(2);
const rank = Number(rankText);
const peer = 1 - rank;
const { streams, send = [], receive = [], beyond, leaves, dies, misuse }: Asked = JSON.parse(asked);
const { folder } = await buildEmulator();
const calls = openCalls(folder);
const nccl = openNccl({ folder });
calls.restart();
calls.control.setStreams(streams);
const stream = calls.stream();

/** Rank 0's id, by a file. */
async function groupId(): Promise<Uint8Array> {
  if (rank === 0) {
    writeFileSync(`${idFile}.new`, nccl.createId());
    renameSync(`${idFile}.new`, idFile);
  }
  while (!existsSync(idFile)) await Bun.sleep(5);
  return readFileSync(idFile);
}

const refusals: string[] = [];
const refused = (what: string, result: number) => refusals.push(`${what}: ${result} ${result === 0 ? "" : errorOf()}`);
function errorOf(): string {
  try {
    nccl.check("ncclSend", 4);
  } catch (error) {
    return errorText(error).split(": ")[2]!.split(";")[0]!;
  }
  return "";
}

let failure: string | null = null;
let communicator = 0;
const into: { readonly address: number; readonly bytes: number }[] = [];
const until = async (done: () => boolean): Promise<void> => {
  while (!done()) await Bun.sleep(1);
};
try {
  communicator = nccl.begin(await groupId(), rank, 2);
  const place = calls.alloc(64);
  const message = (to = peer, type = NCCL_UINT8) => nccl.calls.ncclSend(place, 4, type, to, communicator, stream);
  if (misuse) refused("before all have joined", message());
  await until(() => nccl.isReady(communicator));
  if (dies) process.kill(process.pid, "SIGKILL");
  if (misuse) {
    refused("outside of a group", message());
    nccl.calls.ncclGroupStart();
    refused("to itself", message(rank));
    refused("an unknown type", message(peer, 99));
    calls.cu.cuStreamBeginCapture_v2(stream, 1);
    refused("while it is captured", message());
    calls.cu.cuStreamEndCapture(stream, calls.out.address);
    nccl.calls.ncclGroupEnd();
    refused("an end without a beginning", nccl.calls.ncclGroupEnd());
  }
  nccl.calls.ncclGroupStart();
  for (const [i, bytes] of send.entries()) {
    const address = calls.alloc(Math.max(bytes, 1));
    new Uint8Array(bytesAt(address, Math.max(bytes, 1))).fill(100 * rank + i);
    const from = beyond ? address + bytes : address;
    nccl.check("ncclSend", nccl.calls.ncclSend(from, bytes, NCCL_UINT8, peer, communicator, stream));
  }
  for (const bytes of receive) {
    const address = calls.alloc(Math.max(bytes, 1));
    into.push({ address, bytes });
    nccl.check("ncclRecv", nccl.calls.ncclRecv(address, bytes, NCCL_UINT8, peer, communicator, stream));
  }
  nccl.check("ncclGroupEnd", nccl.calls.ncclGroupEnd());
  await until(() => nccl.isReady(communicator));
  const status = calls.cu.cuStreamSynchronize(stream);
  if (status !== 0) throw new Error(`the stream's status is ${status}`);
  await until(() => nccl.isReady(communicator));
  if (!leaves) nccl.check("ncclCommFinalize", nccl.calls.ncclCommFinalize(communicator));
} catch (error) {
  failure = errorText(error);
}
const doneFile = (of: number) => `${idFile}.${of} done`;
writeFileSync(doneFile(rank), "");
if (leaves) await until(() => existsSync(doneFile(peer)));
const received = into.map(({ address, bytes }) => {
  const values = new Uint8Array(bytesAt(address, Math.max(bytes, 1))).subarray(0, bytes);
  return [bytes, values.every((value) => value === values[0]) ? (values[0] ?? 0) : -1] as const;
});
if (failure === null && !leaves) nccl.check("ncclCommDestroy", nccl.calls.ncclCommDestroy(communicator));
else nccl.calls.ncclCommAbort(communicator);
if (misuse) refused("after its end", nccl.calls.ncclCommDestroy(communicator));
const told: Told = {
  failure,
  live: (calls.control.live() as unknown as Record<string, number>).ncclComm ?? 0,
  reports: calls.control.reports().map(({ kind, text }) => `${kind}: ${text}`),
  received,
  ...(misuse && { refusals }),
};
process.stdout.write(JSON.stringify(told));
