/**
 * Which parts may import which, checked for every TypeScript file of the program: the table of the layout, as tight as the
 * code; no circles, types included; `bun:ffi` only in ffi/bindings; packages only from package.json.
 */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, normalize, resolve } from "node:path";
import packageJson from "../../package.json" with { type: "json" };

const root = resolve(import.meta.dir, "../..");

/**
 * Part of the tree → the parts it imports, besides itself. Every part is listed after those that it imports. All but the ground
 * floor may import the ground floor.
 */
const ground: Readonly<Record<string, readonly string[]>> = {
  "src/errors.ts": [],
  "src/closing.ts": [],
  "src/message.ts": [],
  "src/program.ts": [],
  "src/answers": [],
  "src/files": ["src/errors.ts"],
  "src/config": ["src/errors.ts", "src/files"],
  "src/cache.ts": ["src/errors.ts"],
  "src/carried.ts": ["src/cache.ts"],
  "src/assets.ts": ["src/program.ts", "src/carried.ts"],
};
const above: Readonly<Record<string, readonly string[]>> = {
  "ffi/compiler.ts": [],
  "ffi/cpu": ["ffi/compiler.ts"],
  "ffi/bindings": ["ffi/compiler.ts", "ffi/cpu"],
  "src/tensor": [],
  "src/tokenizer": [],
  "src/metrics": [],
  "src/rewards": [],
  "src/hub": ["ffi/bindings"],
  "src/data": ["ffi/bindings", "src/hub"],
  "src/device": ["ffi/bindings", "src/tensor"],
  "src/families": ["src/device"],
  "src/ranks": ["ffi/bindings", "src/tensor", "src/device"],
  "src/checkpoint": ["ffi/bindings", "src/tensor", "src/families", "src/hub"],
  "src/optim": ["src/tensor", "src/device"],
  "src/model": ["src/tensor", "src/families", "src/device"],
  "src/rollout": ["src/tensor", "src/families", "src/tokenizer", "src/device", "src/model"],
  "src/session": words("ranks tensor families tokenizer checkpoint device optim model rollout"),
  "src/run": words("ranks tensor families tokenizer metrics data checkpoint device optim rollout session"),
  "src/dashboard": words("checkpoint run"),
  "src/eval": words("ranks tokenizer metrics rewards device rollout run"),
  "src/sft": words("ranks tokenizer metrics data optim model session run"),
  "src/grpo": words(
    "ranks tensor families tokenizer metrics rewards data checkpoint device optim model rollout session run",
  ),
  "src/api": words(
    "ranks tensor optim tokenizer metrics rewards hub data checkpoint model rollout session run dashboard eval sft grpo",
  ),
  "src/index.ts": words("tokenizer rewards data grpo api"),
  bench: [
    "ffi/bindings",
    ...words(
      "ranks tensor families tokenizer metrics rewards data checkpoint device optim model rollout session run api",
    ),
  ],
  check: ["ffi/bindings", ...words("tensor device"), "bench"],
  "src/cli": [
    "ffi/bindings",
    ...words("ranks tensor metrics rewards data checkpoint device session run dashboard eval grpo api index.ts"),
    "bench",
    "check",
  ],
  data: words("data checkpoint cli"),
  release: ["ffi/compiler.ts", "ffi/cpu", "src/dashboard"],
};
const rules = { ...ground, ...above };

function words(names: string): string[] {
  return names.split(" ").map((name) => `src/${name}`);
}

/** Files of the program other than TypeScript, and who may embed them. */
const embeds = (from: string, target: string) =>
  (from === "src/assets.ts" && !target.endsWith(".ts")) ||
  (target === "package.json" &&
    [
      "src/cli/main.ts",
      "src/api/model-card.ts",
      "src/api/ranks.ts",
      "src/run/wandb-sink.ts",
      "release/build.ts",
    ].includes(from));

/** The part of the tree that a file belongs to: the longest entry of the table that its path begins with. */
function partOf(path: string): string | undefined {
  return Object.keys(rules)
    .filter((part) => path === part || path.startsWith(`${part}/`))
    .sort((a, b) => b.length - a.length)[0];
}

/** Every import, export-from, dynamic import and require, type imports included. */
function importsOf(source: string): string[] {
  const statement = /^[ \t]*(?:import|export)\b(?:[^"'`;]*?\bfrom)?\s*["']([^"'\n]+)["']/gm;
  const call = /\b(?:import|require)\s*\(\s*["']([^"'\n]+)["']/g;
  return [statement, call].flatMap((pattern) => [...source.matchAll(pattern)].map((match) => match[1]!));
}

/** A specifier as a path from the root; undefined for packages and built-in modules. */
function target(from: string, specifier: string): string | undefined {
  if (specifier === "bun-grpo") return "src/index.ts";
  return specifier.startsWith(".") ? normalize(join(dirname(from), specifier)) : undefined;
}

function packageName(specifier: string): string {
  return specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
}

type Sources = ReadonlyMap<string, string>;

/** Violations of a rule, and the table entries that imports needed: "src/model src/device". */
function judge(files: Sources): { readonly violations: string[]; readonly needed: ReadonlySet<string> } {
  const violations: string[] = [];
  const needed = new Set<string>();
  for (const [from, source] of files) {
    const part = partOf(from);
    if (part === undefined) {
      violations.push(`${from} is in no part of the layout`);
      continue;
    }
    const { tinybench, ...others } = packageJson.dependencies;
    const packages = part === "bench" ? { ...others, tinybench } : others;
    for (const specifier of importsOf(source)) {
      const path = target(from, specifier);
      const to = path === undefined ? undefined : partOf(path);
      if (specifier === "bun:ffi") {
        if (part !== "ffi/bindings") violations.push(`${from} imports bun:ffi, which only ffi/bindings may`);
      } else if (path === undefined) {
        if (!/^(node|bun):|^bun$/.test(specifier) && !Object.hasOwn(packages, packageName(specifier)))
          violations.push(`${from} imports ${packageName(specifier)}, which is not a dependency`);
      } else if (to !== part && !embeds(from, path)) {
        if (to === undefined) violations.push(`${from} imports ${path}, which is in no part of the layout`);
        else if (rules[part]!.includes(to) || (part in above && to in ground)) needed.add(`${part} ${to}`);
        else violations.push(`${from} imports ${path}: ${part} may not import ${to}`);
      }
    }
  }
  return { violations, needed };
}

/** The first circle of imports, as the files along it. */
function circle(files: Sources): string[] | undefined {
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): string[] | undefined => {
    if (trail.includes(path)) return [...trail.slice(trail.indexOf(path)), path];
    const source = files.get(path);
    if (done.has(path) || source === undefined) return undefined;
    for (const specifier of importsOf(source)) {
      const next = target(path, specifier);
      const found = next === undefined ? undefined : visit(next, [...trail, path]);
      if (found !== undefined) return found;
    }
    done.add(path);
    return undefined;
  };
  for (const path of files.keys()) {
    const found = visit(path, []);
    if (found !== undefined) return found;
  }
  return undefined;
}

const read = (folders: readonly string[]): Sources =>
  new Map(
    folders
      .flatMap((folder) => [...new Bun.Glob(`${folder}/**/*.{ts,tsx}`).scanSync(root)])
      .sort()
      .map((path) => [path, readFileSync(join(root, path), "utf8")]),
  );
const project = read(["src", "ffi", "bench", "check", "data", "release"]);

describe("the project", () => {
  const { violations, needed } = judge(project);
  test("follows the table", () => {
    expect(project.size).toBeGreaterThan(300);
    expect(violations).toEqual([]);
  });
  test("needs every entry of the table", () => {
    const entries = Object.entries(rules).flatMap(([part, others]) => others.map((other) => `${part} ${other}`));
    expect(entries.filter((entry) => !needed.has(entry))).toEqual([]);
    const used = new Set([...needed].map((entry) => entry.split(" ")[1]));
    expect(Object.keys(ground).filter((part) => part !== "src/carried.ts" && !used.has(part))).toEqual([]);
  });
  test("has no circle among its files or tests, types included", () => {
    expect(circle(new Map([...project, ...read(["test"])]))).toBeUndefined();
  });
  test("has no import that this test misses", () => {
    const transpilers = { ts: new Bun.Transpiler({ loader: "ts" }), tsx: new Bun.Transpiler({ loader: "tsx" }) };
    for (const [path, source] of project) {
      const seen = importsOf(source);
      const found = transpilers[path.endsWith("x") ? "tsx" : "ts"].scanImports(source.replace(/^#!.*/, ""));
      expect({ path, missed: found.map((each) => each.path).filter((specifier) => !seen.includes(specifier)) }).toEqual(
        {
          path,
          missed: [],
        },
      );
    }
  });
});

test("every part is listed after those that it imports", () => {
  const order = Object.keys(rules);
  for (const [part, others] of Object.entries(rules))
    for (const other of others) expect(order.slice(0, order.indexOf(part))).toContain(other);
});

test("violations are found", () => {
  const broken: readonly (readonly [path: string, source: string, part: string])[] = [
    ["src/tensor/a.ts", 'import type { B } from "../device/b.ts";', "src/tensor may not import src/device"],
    ["src/model/a.ts", 'export {\n  b,\n  c,\n} from "../rollout/b.ts";', "src/model may not import src/rollout"],
    ["src/grpo/a.ts", 'const b = await import("../eval/b.ts");', "src/grpo may not import src/eval"],
    ["src/sft/a.ts", 'import "../grpo/b.ts";', "src/sft may not import src/grpo"],
    ["src/errors.ts", 'import { b } from "./config/b.ts";', "src/errors.ts may not import src/config"],
    ["src/rewards/a.ts", 'import { train } from "bun-grpo";', "src/rewards may not import src/index.ts"],
    ["src/device/cpu/device.ts", 'import type { Pointer } from "bun:ffi";', "only ffi/bindings may"],
    ["src/device/cpu/device.ts", 'const { dlopen } = require("bun:ffi");', "only ffi/bindings may"],
    ["src/data/a.ts", 'import { Bench } from "tinybench";', "tinybench, which is not a dependency"],
    ["src/data/a.ts", 'import text from "../../data/x.txt" with { type: "text" };', "src/data may not import data"],
    ["src/new/a.ts", "export const a = 1;", "in no part of the layout"],
  ];
  for (const [path, source, part] of broken) {
    const { violations } = judge(new Map([[path, source]]));
    expect(violations).toEqual([expect.stringContaining(part)]);
  }
  const sound: readonly (readonly [path: string, source: string])[] = [
    ["src/cli/train.ts", 'import { a } from "../grpo/a.ts";\nimport { b } from "../../ffi/bindings/b.ts";'],
    ["src/tensor/a.ts", 'import { RunError } from "../errors.ts";\nimport { readFileSync } from "node:fs";'],
    ["src/tensor/a.ts", '/** `import { a } from "../cli/a.ts"` */\nexport const text = "from \\"../cli/x.ts\\"";'],
    ["src/assets.ts", 'import model from "../data/model/model.safetensors" with { type: "file" };'],
    ["bench/ops.ts", 'import { Bench } from "tinybench";\nimport { a } from "../src/device/a.ts";'],
    ["src/data/a.ts", 'import { tableFromIPC } from "apache-arrow/table";\nimport hub from "@huggingface/hub/x";'],
  ];
  expect(sound.flatMap(([path, source]) => judge(new Map([[path, source]])).violations)).toEqual([]);
});

test("a circle is found through several files, through types, and within one file", () => {
  const of = (sources: Record<string, string>) => circle(new Map(Object.entries(sources)));
  const three = { "a.ts": 'import { b } from "./b.ts";', "b.ts": 'export { c } from "./c.ts";' };
  expect(of({ ...three, "c.ts": 'await import("./a.ts");' })).toEqual(["a.ts", "b.ts", "c.ts", "a.ts"]);
  expect(of({ ...three, "c.ts": 'import type { A } from "./a.ts";' })).toEqual(["a.ts", "b.ts", "c.ts", "a.ts"]);
  expect(of({ "a.ts": 'import { a } from "./a.ts";' })).toEqual(["a.ts", "a.ts"]);
  expect(of(three)).toBeUndefined();
});
