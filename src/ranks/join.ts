/**
 * The ranks of a run meet: rank 0 listens where the rendezvous says, the others come to it, each shows that it knows the
 * secret, and each connects to all others. Both sides of a connection prove themselves by a keyed hash over numbers that
 * the other has just drawn, so the secret is never sent. Everything has a deadline.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { lookup } from "node:dns/promises";
import { hostname, networkInterfaces } from "node:os";
import type { Socket, TCPSocketListener } from "bun";
import { errorText, InputError, RunError } from "../errors.ts";
import type { Placement, Rendezvous } from "./environment.ts";
import { type Kind, release } from "./frames.ts";
import { createLink, type Link } from "./link.ts";
import { type Secret, secretOf } from "./secret.ts";

/** What a rank says of itself. */
export interface Member {
  readonly rank: number;
  readonly size: number;
  readonly host: string;
  readonly pid: number;
  /** Of the program and of Bun. */
  readonly version: string;
  /** Where it listens for ranks above it. */
  readonly address: string;
  readonly port: number;
}

export interface JoinOptions {
  readonly placement: Placement & { readonly rendezvous: Rendezvous };
  readonly version: string;
  /** How long ranks wait for each other. */
  readonly waitMs: number;
  /** Ends the wait early. */
  readonly shouldStop: () => boolean;
}

/** A connection to each other rank, which hears nothing until it is given a receiver; own entry: null. */
export interface Joined {
  readonly members: readonly Member[];
  readonly links: readonly (Link | null)[];
}

const RETRY_MS = 100;
/** How long a stranger may take to prove itself. */
const HANDSHAKE_MS = 10_000;
const NONCE_BYTES = 32;

const loopback = /^(localhost|127\.|::1$)/;
const placeOf = ({ host, port }: Rendezvous) => `${host}:${port}`;

function proof(secret: Buffer, role: "hello" | "welcome", ...parts: readonly Uint8Array[]): Buffer {
  const hash = createHmac("sha256", secret).update(`${role}\0`);
  for (const part of parts) hash.update(part);
  return hash.digest();
}

const matches = (given: unknown, expected: Buffer): boolean => {
  const bytes = Buffer.from(typeof given === "string" ? given : "", "hex");
  return bytes.length === expected.length && timingSafeEqual(bytes, expected);
};

interface Hello {
  readonly nonce: string;
  readonly proof: string;
  /** A `Member` as JSON, over which the proof goes. */
  readonly member: string;
}

function parsed<T>(bytes: Uint8Array): Partial<T> {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString());
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}

function memberOf(text: string): Member | null {
  const { rank, size, host, pid, version, address, port } = parsed<Member>(Buffer.from(text));
  const whole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  const short = (value: unknown): value is string => typeof value === "string" && value.length < 300;
  if (!whole(rank) || !whole(size) || !whole(pid) || !whole(port)) return null;
  return short(host) && short(version) && short(address) ? { rank, size, host, pid, version, address, port } : null;
}

/** A socket whose bytes go to a link, made when it opens. */
const handlers = (open: (link: Link, socket: Socket<{ link?: Link }>) => void) => ({
  open(socket: Socket<{ link?: Link }>) {
    socket.setNoDelay(true);
    const link = createLink(socket);
    socket.data = { link };
    open(link, socket);
  },
  data({ data: { link } }: Socket<{ link?: Link }>, bytes: Uint8Array) {
    link?.onData(bytes);
    release(bytes); // a link copies what it keeps
  },
  drain: ({ data: { link } }: Socket<{ link?: Link }>) => link?.onDrain(),
  close: ({ data }: Socket<{ link?: Link }>, error?: Error) => data?.link?.onClose(error ? errorText(error) : "closed"),
  error: ({ data }: Socket<{ link?: Link }>, error: Error) => data?.link?.onClose(errorText(error)),
});

interface Guests {
  /** A rank has come; returns why it is refused, or null. */
  readonly admit: (member: Member, link: Link) => string | null;
  /** Somebody without the secret has come. */
  readonly stranger: (from: string) => void;
}

/** Asks whoever connects for its proof. */
function listen(address: Rendezvous, secret: () => Buffer | null, self: () => Member, guests: Guests) {
  return Bun.listen<{ link?: Link }>({
    hostname: address.host,
    port: address.port,
    socket: handlers((link, socket) => {
      const challenge = randomBytes(NONCE_BYTES);
      const late = setTimeout(() => socket.terminate(), HANDSHAKE_MS);
      const from = socket.remoteAddress;
      const refuse = (text: string) => {
        clearTimeout(late);
        link.send("refusal", 0, Buffer.from(JSON.stringify({ text })));
        link.close();
      };
      link.handle({
        onFrame(kind, _, bytes) {
          if (kind !== "hello") return socket.terminate();
          const { nonce = "", proof: given, member: text = "" } = parsed<Hello>(bytes);
          const key = secret();
          const theirs = Buffer.from(String(nonce), "hex");
          if (key === null || !matches(given, proof(key, "hello", challenge, theirs, Buffer.from(String(text))))) {
            guests.stranger(from);
            return refuse("secret");
          }
          const member = memberOf(String(text));
          if (member === null) return refuse("it does not say who it is");
          clearTimeout(late);
          link.trust();
          const reason = guests.admit(member, link);
          if (reason !== null) return refuse(reason);
          const answer = {
            proof: proof(key, "welcome", theirs, challenge).toString("hex"),
            member: JSON.stringify(self()),
          };
          link.send("welcome", 0, Buffer.from(JSON.stringify(answer)));
        },
        onEnd: () => clearTimeout(late),
      });
      link.send("challenge", 0, challenge);
    }),
  });
}

/** Why a connection did not come about; `again`: it may if it is tried later. */
class Refused extends Error {
  readonly again: boolean;

  constructor(message: string, again: boolean) {
    super(message);
    this.again = again;
  }
}

/** Connects and proves itself. @throws Refused */
async function call(
  to: Rendezvous,
  secret: () => Buffer | null,
  self: (localAddress: string) => Member,
): Promise<{ link: Link; member: Member }> {
  const key = secret();
  if (key === null) throw new Refused("no key", true);
  const done = Promise.withResolvers<{ link: Link; member: Member }>();
  const nonce = randomBytes(NONCE_BYTES);
  let challenge: Uint8Array = new Uint8Array(0);
  let opened: Socket<{ link?: Link }> | null = null;
  const late = setTimeout(() => {
    done.reject(new Refused("no answer", true));
    opened?.terminate();
  }, HANDSHAKE_MS);
  const steps = (link: Link, socket: Socket<{ link?: Link }>): Partial<Record<Kind, (bytes: Uint8Array) => void>> => ({
    challenge(bytes) {
      challenge = bytes;
      const member = JSON.stringify(self(socket.localAddress));
      const hello = {
        nonce: nonce.toString("hex"),
        member,
        proof: proof(key, "hello", bytes, nonce, Buffer.from(member)).toString("hex"),
      };
      link.send("hello", 0, Buffer.from(JSON.stringify(hello)));
    },
    welcome(bytes) {
      const { proof: given, member: text } = parsed<Hello>(bytes);
      const member = memberOf(String(text));
      if (!matches(given, proof(key, "welcome", nonce, challenge)) || member === null)
        return done.reject(new Refused("impostor", false));
      link.trust();
      link.handle(null);
      done.resolve({ link, member });
    },
    refusal(bytes) {
      const { text } = parsed<{ text: string }>(bytes);
      done.reject(new Refused(String(text).slice(0, 1000), text === "secret"));
    },
  });
  Bun.connect<{ link?: Link }>({
    hostname: to.host,
    port: to.port,
    socket: handlers((link, socket) => {
      opened = socket;
      const known = steps(link, socket);
      link.handle({
        onFrame(kind, _, bytes) {
          const step = known[kind];
          if (step) step(bytes);
          else done.reject(new Refused("impostor", false));
        },
        onEnd: (why) => done.reject(new Refused(why, true)),
      });
    }),
  }).catch((error: unknown) => done.reject(new Refused(errorText(error), true)));
  try {
    return await done.promise;
  } catch (error) {
    (opened as Socket<{ link?: Link }> | null)?.terminate();
    throw error;
  } finally {
    clearTimeout(late);
  }
}

/** Where rank 0 listens: on loopback only, if that is what the rendezvous names; else on the interface that has the name. */
async function listeningAddress({ host, port }: Rendezvous): Promise<Rendezvous> {
  if (loopback.test(host)) return { host: "127.0.0.1", port };
  const own = new Set(Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address)));
  const found = await lookup(host).catch(() => null);
  // Many machines give their own name a loopback address, which the others cannot reach.
  return { host: found && own.has(found.address) && !loopback.test(found.address) ? found.address : "0.0.0.0", port };
}

/** Who is missing, for messages: "rank 3", "ranks 1, 2 and 5 others". */
function missingRanks(links: readonly (Link | null)[], rank: number): string {
  const missing = links.flatMap((link, r) => (link === null && r !== rank ? [r] : []));
  const shown = missing.slice(0, 8).join(", ");
  const more = missing.length > 8 ? ` and ${missing.length - 8} others` : "";
  return `${missing.length === 1 ? "rank" : "ranks"} ${shown}${more}`;
}

/**
 * Makes the ranks meet.
 *
 * @throws RunError where they do not within the deadline or the port is taken; InputError where they are not ranks of the
 *   same run: another secret, version or number of ranks, or two with one number
 */
export async function join({ placement, version, waitMs, shouldStop }: JoinOptions): Promise<Joined> {
  const { rank, size, rendezvous } = placement;
  const place = placeOf(rendezvous);
  const deadline = performance.now() + waitMs;
  const secret = secretOf(placement);
  const links: (Link | null)[] = Array.from({ length: size }, () => null);
  const members: Member[] = [];
  const self = { rank, size, host: hostname(), pid: process.pid, version };
  let strangers: string | null = null;
  let refusal: InputError | null = null;
  let server: TCPSocketListener<{ link?: Link }> | null = null;
  let ownAddress = { address: rendezvous.host, port: rendezvous.port };
  const keep = (member: Member, link: Link): void => {
    link.handle(null);
    links[member.rank] = link;
    members[member.rank] = member;
  };
  const guests: Guests = {
    admit(member, link) {
      const reason = oddity(member, { ...self, ...ownAddress }, links, members);
      if (reason !== null) refusal ??= new InputError(reason);
      else keep(member, link);
      return reason;
    },
    stranger: (from) => {
      strangers ??= from;
    },
  };
  const listenAt = (at: Rendezvous) => listen(at, secret.read, () => ({ ...self, ...ownAddress }), guests);
  const complete = () => links.every((link, r) => link !== null || r === rank);
  /** Waits until `done`. @throws the refusal of a rank, and RunError at the deadline */
  const waitFor = async (done: () => boolean, what: () => string): Promise<void> => {
    while (!done()) {
      if (refusal !== null) throw refusal;
      if (shouldStop()) throw new RunError("stopped while the ranks were meeting");
      if (performance.now() > deadline) throw new RunError(what());
      await Bun.sleep(5);
    }
  };
  const waited = `${(waitMs / 1000).toFixed(0)} s`;
  try {
    if (rank === 0) {
      server = await listenOrSay(listenAt, await listeningAddress(rendezvous), place);
      secret.publish();
      await waitFor(complete, () => {
        const odd = strangers === null ? "" : `; ${strangers} came with another secret`;
        return `waited ${waited} at ${place} for ${missingRanks(links, rank)}${odd}: start ${size} ranks with the same MASTER_ADDR and MASTER_PORT; ${secret.cure}`;
      });
      const table = Buffer.from(JSON.stringify([{ ...self, ...ownAddress }, ...members.slice(1)]));
      members[0] = { ...self, ...ownAddress };
      await allReady(links, table, waitFor, () => `waited ${waited} for the ranks to reach each other`);
      return { members, links };
    }
    const first = await reach(rendezvous, secret, deadline, shouldStop, (local) => {
      server ??= listenAt({ host: local, port: 0 });
      ownAddress = { address: local, port: server.port };
      return { ...self, ...ownAddress };
    });
    secret.settle();
    links[0] = first.link;
    members[0] = first.member;
    const heard = new Map<Kind, Uint8Array>();
    first.link.handle({
      onFrame(kind, _, bytes) {
        heard.set(kind, bytes);
        // What follows is for whoever has the link next.
        if (kind === "go") first.link.handle(null);
      },
      onEnd(why) {
        refusal ??= new InputError(`rank 0 (${first.member.host}) has ended before all ranks had met (${why})`);
      },
    });
    const hears = (kind: Kind) =>
      waitFor(
        () => heard.has(kind),
        () => `waited ${waited} for rank 0 at ${place}, which waits for other ranks`,
      );
    await hears("table");
    const all = JSON.parse(Buffer.from(heard.get("table")!).toString()) as Member[];
    for (const other of all.slice(1, rank)) {
      const at = { host: other.address, port: other.port };
      const { link, member } = await reach(at, secret, deadline, shouldStop, () => ({ ...self, ...ownAddress }));
      keep(member, link);
    }
    await waitFor(complete, () => `waited ${waited} for ${missingRanks(links, rank)}`);
    first.link.send("ready", 0);
    await hears("go");
    members[rank] = { ...self, ...ownAddress };
    return { members, links };
  } catch (error) {
    for (const link of links) link?.close();
    throw error;
  } finally {
    server?.stop(false);
    if (rank === 0) secret.withdraw();
  }
}

/** Tells all ranks of each other, and waits until each has reached all. */
async function allReady(
  links: readonly (Link | null)[],
  table: Uint8Array,
  waitFor: (done: () => boolean, what: () => string) => Promise<void>,
  what: () => string,
): Promise<void> {
  const others = links.flatMap((link) => (link === null ? [] : [link]));
  let ready = 0;
  let ended = 0;
  for (const link of others) {
    link.handle({
      onFrame(kind) {
        if (kind === "ready") ready++;
      },
      onEnd: () => ended++,
    });
    link.send("table", 0, table);
  }
  await waitFor(() => ready + ended === others.length, what);
  // The end of a rank is the watch's business.
  for (const link of others) {
    link.handle(null);
    link.send("go", 0);
  }
}

async function listenOrSay<T>(listenAt: (at: Rendezvous) => T, at: Rendezvous, place: string): Promise<T> {
  try {
    return listenAt(at);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EADDRINUSE")
      throw new RunError(`${place} is in use, perhaps by another run: set MASTER_PORT to a free port for every rank`);
    throw new RunError(`cannot listen at ${place} (${code ?? errorText(error)}): MASTER_ADDR must be rank 0's machine`);
  }
}

/** Why a rank cannot belong to this run; null: it can. */
function oddity(
  member: Member,
  self: Member,
  links: readonly (Link | null)[],
  members: readonly Member[],
): string | null {
  const who = `rank ${member.rank} (${member.host}, process ${member.pid})`;
  if (member.size !== self.size) return `${who} is one of ${member.size} ranks, rank ${self.rank} one of ${self.size}`;
  if (member.version !== self.version)
    return `${who} runs ${member.version}, rank ${self.rank} (${self.host}) ${self.version}; all ranks need the same`;
  const double = member.rank === self.rank ? self : links[member.rank] ? members[member.rank] : undefined;
  if (member.rank >= self.size || double)
    return `${who} has the number of another process${double ? ` (${double.host}, process ${double.pid})` : ""}`;
  return null;
}

/** Connects to a rank that may not listen yet. */
async function reach(
  to: Rendezvous,
  secret: Secret,
  deadline: number,
  shouldStop: () => boolean,
  self: (localAddress: string) => Member,
): Promise<{ link: Link; member: Member }> {
  const host = loopback.test(to.host) ? "127.0.0.1" : to.host;
  const place = placeOf(to);
  for (;;) {
    try {
      return await call({ ...to, host }, secret.read, self);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const { message, again } = error;
      if (message === "impostor")
        throw new InputError(`what listens at ${place} is no rank of this run; set MASTER_PORT to another port`);
      const otherSecret = message === "secret";
      const late = performance.now() > deadline;
      if (otherSecret && (late || !secret.isFile))
        throw new InputError(`the rank at ${place} has another secret, or belongs to another run; ${secret.cure}`);
      if (!again) throw new InputError(message);
      if (late) {
        const what = message === "no key" ? secret.cure : `check MASTER_ADDR and MASTER_PORT (${message})`;
        throw new RunError(`there is no rank at ${place}: ${what}`);
      }
      if (shouldStop()) throw new RunError("stopped while the ranks were meeting");
      await Bun.sleep(RETRY_MS);
    }
  }
}
