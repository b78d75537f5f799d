/** What each address of the page's server gives. Takes numbers and names of columns only. */
import type { PageFiles } from "./bundle.ts";
import { type TableName, tables } from "./protocol.ts";
import type { RunView } from "./run-view.ts";

const json = (value: unknown): Response =>
  new Response(JSON.stringify(value), { headers: { "content-type": "application/json" } });
export const refused = (status: number, text: string): Response => new Response(`${text}\n`, { status });

/** A whole number from an address; null: it is none. */
function whole(parameters: URLSearchParams, name: string): number | null {
  const text = parameters.get(name);
  return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : null;
}

/** The page's own files and all that is asked once; undefined: there is nothing of this address. */
export async function answerOf(
  runs: readonly RunView[],
  files: PageFiles,
  path: string,
  query: URLSearchParams,
): Promise<Response | undefined> {
  const file = files.get(path === "/" ? "index.html" : path.slice(1));
  if (file !== undefined) return new Response(file.bytes, { headers: { "content-type": file.type } });
  if (path === "/api/runs") return json(runs.map((run) => run.info()));
  const run = runs[whole(query, "run") ?? -1];
  if (run === undefined) return undefined;
  const table = tables.find((name): name is TableName => name === query.get("table"));
  const [from, step, line] = [whole(query, "from") ?? 0, whole(query, "step"), whole(query, "line")];
  switch (path) {
    case "/api/names":
      return table && json({ epoch: run.state().epoch, names: run.table(table).names });
    case "/api/columns":
    case "/api/overview": {
      if (table === undefined) return undefined;
      const own = run.table(table);
      const known = new Set(own.names);
      const names = [...new Set(query.getAll("name"))].filter((name) => known.has(name));
      const { epoch } = run.state();
      const bytes = path === "/api/columns" ? own.encode(epoch, names, from) : own.overview(epoch, names);
      return new Response(bytes, { headers: { "content-type": "application/octet-stream" } });
    }
    case "/api/generations": {
      const { epoch, steps } = run.generations();
      return json({ epoch, from, steps: steps.slice(from) });
    }
    case "/api/completions":
      return step === null ? undefined : json((await run.completions(step)?.answer(from)) ?? null);
    case "/api/completion": {
      if (step === null || line === null) return undefined;
      const index = run.completions(step);
      const bytes = index?.version === query.get("version") ? index.line(line) : null;
      if (bytes === null || bytes === undefined) return refused(409, "the file has changed");
      return new Response(new Uint8Array(bytes), { headers: { "content-type": "application/json" } });
    }
  }
  return undefined;
}
