/**
 * Who the page's server answers, and what: paths, methods, Host, Origin, sites, tokens. Requests are written byte by byte,
 * since a client's library would put them right first.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundlePage, type PageFiles } from "../../src/dashboard/bundle.ts";
import { type Policy, refusalOf } from "../../src/dashboard/guard.ts";
import { type RunView, viewRun } from "../../src/dashboard/run-view.ts";
import { type PageServer, startServer } from "../../src/dashboard/server.ts";
import { InputError } from "../../src/errors.ts";
import { makeRun, metricsLine } from "../fixtures/made-run.ts";

const work = mkdtempSync(join(tmpdir(), "grpo-page-"));
const run = join(work, "run");
let files: PageFiles;
let server: PageServer;
let open: PageServer;
const servers: PageServer[] = [];

function serve(host: string, port = 0, runs: RunView[] = [viewRun(run, 0)]): PageServer {
  const started = startServer({ runs, files, host, port, status: "unknown" });
  servers.push(started);
  return started;
}

beforeAll(async () => {
  mkdirSync(run);
  makeRun(run, { steps: 20, generations: [1] });
  writeFileSync(join(work, "secret.txt"), "secret");
  files = await bundlePage();
  server = serve("localhost");
  open = serve("0.0.0.0");
});
afterAll(() => {
  for (const each of servers) each.close();
  rmSync(work, { recursive: true, force: true });
});

/** The answer to a request as it is written, with its head and body; reads until the connection ends. */
async function raw(port: number, request: string): Promise<{ status: number; head: string; body: string }> {
  const answer = await new Promise<string>((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(request));
    let text = "";
    socket.on("data", (bytes) => {
      text += bytes;
    });
    socket.on("close", () => resolve(text));
    socket.on("error", reject);
  });
  const [head = "", ...body] = answer.split("\r\n\r\n");
  return {
    status: Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1] ?? 0),
    head: head.toLowerCase(),
    body: body.join("\r\n\r\n"),
  };
}

const get = (path: string, headers: Record<string, string> = {}, port = server.port, method = "GET") => {
  const all = { Host: `localhost:${port}`, Connection: "close", ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return raw(port, `${method} ${path} HTTP/1.1\r\n${lines.join("")}\r\n`);
};

describe("on this machine alone", () => {
  test("the page, its files and its runs", async () => {
    const page = await get("/");
    expect(page.status).toBe(200);
    expect(page.body).toContain("<title>grpo</title>");
    for (const name of ["/main.js", "/style.css", "/icon.svg"]) expect((await get(name)).status).toBe(200);
    expect((await get("/main.js")).head).toContain("text/javascript");
    const runs = await get("/api/runs");
    expect(runs.body).toContain('"name":"run"');
  });

  test("every answer, refusals too, has the headers that keep a browser safe", async () => {
    for (const path of ["/", "/api/runs", "/nothing"]) {
      const { head } = await get(path);
      expect(head).toContain("content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'");
      expect(head).not.toContain("unsafe");
      expect(head).not.toContain("access-control");
      for (const line of ["x-content-type-options: nosniff", "referrer-policy: no-referrer", "cache-control: no-store"])
        expect(head).toContain(line);
    }
  });

  test("no path leads out", async () => {
    const paths = [
      "/../secret.txt",
      "/..%2fsecret.txt",
      "/%2e%2e/secret.txt",
      "/....//secret.txt",
      `/${work}/secret.txt`,
      "//etc/passwd",
      "/index.html/../../secret.txt",
      "/api/completions?run=0&step=../../secret",
      "/api/completions?run=0&step=1%2f..%2f..",
      "/api/completions?run=../0&step=1",
      "/api/completions?run=0&step=-1",
      "/api/completions?run=0&step=1e3",
      "/api/completion?run=0&step=1&line=99999999999999999999",
      "/api/columns?run=0&table=__proto__&from=0",
      "/api/columns?run=constructor&table=steps",
      "/api/names?run=1&table=steps",
      "/api/",
      "/main.ts",
      "/run.json",
      "/metrics.jsonl",
      "/\0",
    ];
    for (const path of paths) {
      const { status, body } = await get(path);
      expect({ path, refused: status === 0 || status >= 400 }).toEqual({ path, refused: true });
      expect(body).not.toContain("secret");
      expect(body).not.toContain("root:");
    }
  });

  test("GET only", async () => {
    for (const method of ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]) {
      const { status, head } = await get("/api/runs", {}, server.port, method);
      expect({ method, status }).toEqual({ method, status: 405 });
      expect(head).toContain("allow: get");
    }
  });

  test("Host must name this machine: a name that leads here is not enough", async () => {
    const port = server.port;
    for (const host of [`localhost:${port}`, `127.0.0.1:${port}`, `[::1]:${port}`, "localhost:9999", "LocalHost"])
      expect({ host, status: (await get("/api/runs", { Host: host })).status }).toEqual({ host, status: 200 });
    const strangers = [
      "evil.example",
      `evil.example:${port}`,
      "localhost.evil.example",
      "127.0.0.1.evil.example",
      "192.168.0.7",
      "",
      "localhost@evil",
      "a b",
    ];
    for (const host of strangers) {
      const { status } = await get("/api/runs", { Host: host });
      expect({ host, refused: status === 0 || status >= 400 }).toEqual({ host, refused: true });
    }
    expect((await raw(port, "GET /api/runs HTTP/1.1\r\nConnection: close\r\n\r\n")).status).not.toBe(200);
  });

  test("no other origin and no other site, but the page may be led to", async () => {
    const own = `http://localhost:${server.port}`;
    expect((await get("/api/runs", { Origin: own, "Sec-Fetch-Site": "same-origin" })).status).toBe(200);
    for (const origin of ["http://evil.example", "null", "https://localhost:1", `http://localhost:${server.port}.evil`])
      expect((await get("/api/runs", { Origin: origin })).status).toBe(403);
    for (const site of ["cross-site", "same-site"]) {
      expect((await get("/api/runs", { "Sec-Fetch-Site": site })).status).toBe(403);
      expect((await get("/api/runs", { "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate" })).status).toBe(403);
      expect((await get("/main.js", { "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors" })).status).toBe(403);
      expect((await get("/", { "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate" })).status).toBe(200);
    }
  });
});

describe("on other hosts", () => {
  const token = () => open.token!;
  test("nothing without the token, everything with its cookie", async () => {
    expect(token()).toMatch(/^[\w-]{32}$/);
    expect(open.url).toEndWith(`/?token=${token()}`);
    for (const path of [
      "/",
      "/main.js",
      "/api/runs",
      "/api/events",
      "/?token=",
      `/?token=${token().slice(1)}`,
      "/?token=x",
    ])
      expect({ path, status: (await get(path, {}, open.port)).status }).toEqual({ path, status: 401 });
    // In the address it opens the page alone.
    expect((await get(`/api/runs?token=${token()}`, {}, open.port)).status).toBe(401);
    const { status, head } = await get(`/?token=${token()}`, {}, open.port);
    expect(status).toBe(200);
    const cookie = /set-cookie: (grpo-\d+=[^;]+); httponly; samesite=strict; path=\//.exec(head);
    expect(cookie).not.toBeNull();
    const own = { Cookie: `a=b; grpo-${open.port}=${token()}` };
    expect((await get("/api/runs", own, open.port)).status).toBe(200);
    expect((await get("/api/runs", { Cookie: `grpo-${open.port}=${token()}x` }, open.port)).status).toBe(401);
    expect((await get("/api/runs", { ...own, Origin: "http://evil.example" }, open.port)).status).toBe(403);
  });

  test("this machine alone has none, and its answers set no cookie", async () => {
    expect(server.token).toBeNull();
    expect((await get("/?token=x")).head).not.toContain("set-cookie");
  });

  test("addresses are answered, strange names are not", () => {
    const policy: Policy = { names: ["box"], anyAddress: true, token: "t" };
    const refused = (host: string) =>
      refusalOf({ method: "GET", headers: new Headers({ host }) }, "/", policy)?.status ?? 200;
    for (const host of ["10.0.0.8:7007", "[fe80::1]:7007", "box", "BOX:80", "localhost"])
      expect(refused(host)).toBe(200);
    for (const host of ["evil.example", "box.evil.example", "10.0.0.8.evil.example"]) expect(refused(host)).toBe(421);
  });
});

describe("events", () => {
  const reading = async (from: PageServer) => {
    const response = await fetch(`http://localhost:${from.port}/api/events`);
    const reader = response.body!.getReader();
    let text = "";
    return {
      async until(pattern: RegExp): Promise<string> {
        const deadline = performance.now() + 10_000;
        while (!pattern.test(text) && performance.now() < deadline) {
          const { value, done } = await reader.read();
          if (done) break;
          text += new TextDecoder().decode(value);
        }
        expect(text).toMatch(pattern);
        return text;
      },
      leave: () => reader.cancel(),
    };
  };

  test("the state at once, new rows as they come, phases, remarks and the end", async () => {
    const own = join(work, "live");
    mkdirSync(own);
    makeRun(own, { steps: 3 });
    const live = serve("localhost", 0, [viewRun(own, 0)]);
    live.note("before");
    const events = await reading(live);
    await events.until(/"rows":\{"steps":3/);
    await events.until(/event: note\ndata: \{"at":\d+,"text":"before"\}/);
    writeFileSync(join(own, "metrics.jsonl"), `${metricsLine(4, 9)}\n`, { flag: "a" });
    const told = await events.until(/"rows":\{"steps":4[^\n]*\n/);
    // The new row comes with it, so that a page need not ask.
    const { fresh } = JSON.parse(/^data: (.*"rows":\{"steps":4.*)$/m.exec(told)![1]!);
    const answer = await fetch(`http://localhost:${live.port}/api/names?run=0&table=steps`);
    const { names } = (await answer.json()) as { names: string[] };
    const row = JSON.parse(metricsLine(4, 9));
    expect(fresh[0].steps).toMatchObject({ from: 3, steps: [4] });
    expect(fresh[0].steps.values).toHaveLength(names.length);
    for (const [i, name] of names.entries())
      expect(Math.fround(fresh[0].steps.values[i][0])).toBe(Math.fround(row[name]));
    live.progress({ step: 5, steps: 9, phase: "rollout", done: 1, total: 2 });
    await events.until(/event: progress\ndata: \{"step":5/);
    writeFileSync(join(own, "metrics.jsonl"), `${metricsLine(5, 9)}\n`, { flag: "a" });
    await live.end();
    await events.until(/"status":"ended","runs":\[\{[^\n]*"steps":5/);
    await events.leave();
  });

  test("more pages than can be served are refused, and the others go on", async () => {
    const crowded = serve("localhost");
    const pages: Response[] = [];
    for (let i = 0; i < 64; i++) pages.push(await fetch(`http://localhost:${crowded.port}/api/events`));
    expect(pages.every(({ status }) => status === 200)).toBe(true);
    const late = await fetch(`http://localhost:${crowded.port}/api/events`);
    expect(late.status).toBe(503);
    expect((await fetch(`http://localhost:${crowded.port}/api/runs`)).status).toBe(200);
    for (const page of pages) await page.body!.cancel();
  });
});

test("a taken port is refused with a cure if it was asked for, and a stranger's host always", async () => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  const { port } = other.address() as AddressInfo;
  expect(() => serve("localhost", port)).toThrow(InputError);
  expect(() => serve("localhost", port)).toThrow(`port ${port} is taken`);
  other.close();
  expect(() => serve("no-such-host.invalid")).toThrow(/host no-such-host\.invalid: not an address of this machine/);
});
