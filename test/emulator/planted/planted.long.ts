/**
 * The emulator finds what it promises to find. Each planted bug is reported with kernel, block, thread and the source line
 * marked `// BUG: kind`, in every thread order in which it can show; its correct twin gives no report and the right values in
 * all orders.
 */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { buildEmulator } from "../build.ts";
import { threadOrders } from "../control.ts";
import { bugs } from "./bugs.ts";
import { hostBugs } from "./host-bugs.ts";
import type { PlantedOutcome } from "./run.ts";
import { kernelFolder } from "./session.ts";

const minutes = 60_000;
let outcomes: Promise<PlantedOutcome[]> | undefined;

async function runAll(): Promise<PlantedOutcome[]> {
  const { folder } = await buildEmulator();
  const command = [process.execPath, join(import.meta.dir, "run.ts"), folder];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "ignore" });
  const [text] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  return text
    .trim()
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as PlantedOutcome);
}

async function outcomesOf(name: string, fixed: boolean): Promise<PlantedOutcome[]> {
  outcomes ??= runAll();
  return (await outcomes).filter((outcome) => outcome.name === name && outcome.fixed === fixed);
}

/** The marked lines of the kernel, with their kinds. */
function marks(name: string): { readonly kind: string; readonly place: string }[] {
  return readFileSync(join(kernelFolder, `${name}.cu`), "utf8")
    .split("\n")
    .flatMap((line, i) => {
      const kind = line.match(/\/\/ BUG: (\S+)/)?.[1];
      return kind === undefined ? [] : [{ kind, place: `${name}.cu:${i + 1}` }];
    });
}

describe("bugs in kernels", () => {
  test("every source in kernels/ is launched", () => {
    const sources = readdirSync(kernelFolder).map((name) => name.replace(/\.cu$/, ""));
    expect(sources.filter((name) => name !== "scale").sort()).toEqual(bugs.map(({ name }) => name).sort());
  });

  for (const { name, byValue, says = "" } of bugs) {
    test(
      `${name} is found`,
      async () => {
        const marked = marks(name);
        expect(marked.length).toBeGreaterThan(0);
        const runs = await outcomesOf(name, false);
        expect(runs.map(({ order }) => order)).toEqual([...threadOrders]);
        for (const run of runs) {
          if (byValue) {
            expect(run.wrongValues).toBeGreaterThan(0);
            continue;
          }
          const texts = run.reports.map(({ kind, text }) => `${kind}: ${text}`);
          const named = marked.some(({ kind, place }) =>
            run.reports.some(
              (report) =>
                report.kind === kind &&
                report.kernel === "bad" &&
                report.text.includes(says) &&
                // The place ends with its number: line 1 is not line 17.
                new RegExp(`${place.replaceAll(".", "\\.")}(?!\\d)`).test(report.text),
            ),
          );
          expect({ order: run.order, named, texts: named ? [] : texts }).toEqual({
            order: run.order,
            named: true,
            texts: [],
          });
          // Advice on bank conflicts and sectors concerns a launch, not one thread.
          if (marked[0]!.kind !== "bank-conflict" && marked[0]!.kind !== "uncoalesced")
            expect(texts.join("\n")).toMatch(/kernel bad, block \(\d+, \d+, \d+\), thread \(\d+, \d+, \d+\)/);
        }
      },
      10 * minutes,
    );

    test(`${name}: its twin gives no report`, async () => {
      const runs = await outcomesOf(name, true);
      expect(runs.map(({ order }) => order)).toEqual([...threadOrders]);
      for (const { error, reports, wrongValues, order } of runs)
        expect({ order, error, reports, wrongValues }).toEqual({
          order,
          error: undefined,
          reports: [],
          wrongValues: 0,
        });
    });
  }
});

describe("bugs in calls of the driver", () => {
  for (const { name, kind, byValue } of hostBugs) {
    test(
      `${name} is found`,
      async () => {
        const runs = await outcomesOf(name, false);
        expect(runs.length).toBeGreaterThan(0);
        for (const { error, reports, wrongValues } of runs) {
          if (byValue) expect(wrongValues).toBeGreaterThan(0);
          else expect([error, ...reports.map((report) => report.kind)]).toContain(kind);
        }
      },
      10 * minutes,
    );

    test(`${name}: its twin gives no report`, async () => {
      const runs = await outcomesOf(name, true);
      expect(runs.length).toBeGreaterThan(0);
      for (const { error, reports, wrongValues } of runs)
        expect({ error, reports, wrongValues }).toEqual({ error: undefined, reports: [], wrongValues: 0 });
    });
  }
});
