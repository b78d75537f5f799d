/**
 * Runs planted bugs and their correct twins on the emulated driver, in a separate process since a fault ends the context.
 * Prints each outcome as a line of JSON. Arguments: the folder of the emulated libraries, then optional names to select.
 */
import { NvidiaCallError } from "../../../ffi/bindings/nvidia-libraries.ts";
import { errorText } from "../../../src/errors.ts";
import { type Report, threadOrders } from "../control.ts";
import { type Bug, bugs } from "./bugs.ts";
import { type HostBug, hostBugs } from "./host-bugs.ts";
import { openSession, type Session } from "./session.ts";

export interface PlantedOutcome {
  readonly name: string;
  readonly fixed: boolean;
  /** Name of the thread order, or of the stream mode. */
  readonly order: string;
  readonly reports: readonly Report[];
  /** Name of the status that a call returned, or another error's text. */
  readonly error?: string;
  readonly wrongValues: number;
}

function attempt(session: Session, work: () => ArrayBuffer | undefined, expected: readonly number[], integers = false) {
  let error: string | undefined;
  let wrongValues = 0;
  try {
    const bytes = work();
    if (bytes) {
      const values = integers ? new Int32Array(bytes) : new Float32Array(bytes);
      wrongValues = expected.filter((value, i) => values[i] !== value).length;
    }
  } catch (thrown) {
    error = thrown instanceof NvidiaCallError ? thrown.statusName : errorText(thrown);
  }
  return { reports: session.control.reports(), error, wrongValues };
}

function runBug(folder: string, bug: Bug, fixed: boolean, order: (typeof threadOrders)[number]): PlantedOutcome {
  const session = openSession(folder);
  session.control.setStreams("eager");
  session.control.setOrder(order);
  const outcome = attempt(
    session,
    () => {
      const kernel = session.kernel(`${bug.name}.cu`, fixed ? "good" : "bad");
      const out = session.buffer(bug.zeroed ? new Uint8Array(bug.outBytes) : bug.outBytes);
      const shared = (fixed ? bug.goodShared : undefined) ?? bug.shared ?? 0;
      session.launch(kernel, bug.grid ?? 1, bug.block, shared, bug.args(session, out, fixed));
      session.synchronize();
      return session.read(out, bug.outBytes);
    },
    bug.expected,
    bug.integers,
  );
  return { name: bug.name, fixed, order, ...outcome };
}

function runHostBug(folder: string, bug: HostBug, fixed: boolean, streams: "eager" | "lazy"): PlantedOutcome {
  const session = openSession(folder);
  session.control.setOrder("ascending");
  session.control.setStreams(streams);
  return {
    name: bug.name,
    fixed,
    order: streams,
    ...attempt(session, () => bug.run(session, fixed), bug.expected ?? []),
  };
}

if (import.meta.main) {
  const [folder, ...names] = process.argv.slice(2);
  const chosen = (name: string) => names.length === 0 || names.includes(name);
  const print = (outcome: PlantedOutcome) => console.log(JSON.stringify(outcome));
  for (const bug of bugs.filter(({ name }) => chosen(name))) {
    for (const order of threadOrders) for (const fixed of [false, true]) print(runBug(folder!, bug, fixed, order));
  }
  for (const bug of hostBugs.filter(({ name }) => chosen(name))) {
    const ways = bug.lazy ? (["lazy"] as const) : (["eager", "lazy"] as const);
    for (const streams of ways) for (const fixed of [false, true]) print(runHostBug(folder!, bug, fixed, streams));
  }
}
