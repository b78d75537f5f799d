/**
 * Who may ask the page's server: this machine alone, unless another host was named; then whoever has the token. Pages of other
 * origins may not, even if a name of theirs leads to this machine (DNS rebinding): the Host header must name this machine, and
 * Origin and Sec-Fetch-Site, which browsers send and pages cannot change, must say that the page itself asks.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { isIP } from "node:net";

export interface Policy {
  /** Names by which this machine may be called, besides its loopback addresses, in small letters. */
  readonly names: readonly string[];
  /** Numeric addresses are accepted too: no name that could lead here is involved. */
  readonly anyAddress: boolean;
  /** null: none is needed. */
  readonly token: string | null;
}

export interface Refusal {
  readonly status: number;
  readonly text: string;
}

/** 192 random bits, in letters that need no escape in an address. */
export const newToken = (): string => randomBytes(24).toString("base64url");

/** The host's name out of a Host header or an origin's authority: without port and brackets, in small letters; null: no such thing. */
function hostname(authority: string): string | null {
  const [, bracketed, plain] = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/@\\[\]]+))(?::\d{1,5})?$/.exec(authority) ?? [];
  return (bracketed ?? plain)?.toLowerCase() ?? null;
}

/** Whether a name or address can only mean the machine itself. */
export const isLoopback = (name: string): boolean =>
  name === "localhost" || name === "::1" || (isIP(name) === 4 && name.startsWith("127."));

function isHere(name: string, { names, anyAddress }: Policy): boolean {
  return isLoopback(name) || names.includes(name) || (anyAddress && isIP(name) !== 0);
}

/** @returns why a request is not answered; null: it is */
export function refusalOf(request: Pick<Request, "method" | "headers">, path: string, policy: Policy): Refusal | null {
  const { headers, method } = request;
  if (method !== "GET") return { status: 405, text: "only GET is answered" };
  const host = hostname(headers.get("host") ?? "");
  if (host === null || !isHere(host, policy)) return { status: 421, text: "this Host is not answered" };
  const origin = headers.get("origin");
  if (origin !== null && origin !== `http://${headers.get("host")}`)
    return { status: 403, text: "requests of other origins are not answered" };
  const site = headers.get("sec-fetch-site");
  const follows = path === "/" && headers.get("sec-fetch-mode") === "navigate";
  if (site !== null && site !== "same-origin" && site !== "none" && !follows)
    return { status: 403, text: "requests of other sites are not answered" };
  return null;
}

/** Whether a request has the token: in its cookie, or for the page itself in its address. */
export function hasToken(given: readonly (string | null | undefined)[], token: string | null): boolean {
  if (token === null) return true;
  return given.some((each) => typeof each === "string" && isSame(each, token));
}

const digest = (text: string): Buffer => createHash("sha256").update(text).digest();

/** In the same time wherever they differ. */
const isSame = (given: string, token: string): boolean => timingSafeEqual(digest(given), digest(token));

/** The value of a cookie. */
export function cookieOf(headers: Headers, name: string): string | null {
  for (const part of (headers.get("cookie") ?? "").split(";")) {
    const at = part.indexOf("=");
    if (at > 0 && part.slice(0, at).trim() === name) return part.slice(at + 1).trim();
  }
  return null;
}

/** On every answer. Scripts and styles come from this server alone, and nothing is sent anywhere else. */
export const safeHeaders: Readonly<Record<string, string>> = {
  "content-security-policy": [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "font-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join("; "),
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "permissions-policy": "camera=(), geolocation=(), microphone=()",
  "cache-control": "no-store",
};
