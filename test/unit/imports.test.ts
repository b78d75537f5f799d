/**
 * Who may import whom, held over every TypeScript file of src, ffi, bench, check, data and release: the table of the layout, no circles,
 * `bun:ffi` in ffi/bindings alone, packages only from package.json. Type imports obey the table too; a circle of types
 * alone is none, as nothing of it is left when the program runs.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, normalize, resolve } from "node:path";
import packageJson from "../../package.json" with { type: "json" };

const root = resolve(import.meta.dir, "../..");

const foundation = [
  "src/device",
  "src/tensor",
  "src/checkpoint",
  "src/data",
  "src/tokenizer",
  "src/families",
  "src/model",
  "src/optim",
];
const below = [...foundation, "src/rollout", "src/session", "src/run", "src/rewards", "src/metrics"];
const everything = [...below, "src/grpo", "src/sft", "src/eval", "ffi/bindings"];

/** Part of the tree → the parts it may import, besides itself and what everyone may. */
const rules: Readonly<Record<string, readonly string[]>> = {
  "src/cli": [...everything, "src/index.ts", "bench", "check"],
  "src/index.ts": everything,
  "src/config": ["src/files.ts"],
  "src/grpo": below,
  "src/sft": below,
  "src/eval": below,
  "src/metrics": [],
  "src/rewards": [],
  "src/run": [...foundation, "src/rollout", "src/session", "src/metrics"],
  "src/session": [...foundation, "src/rollout"],
  "src/rollout": ["src/tokenizer", "src/families", "src/model", "src/device", "src/tensor"],
  "src/optim": ["src/device", "src/tensor"],
  "src/model": ["src/families", "src/device", "src/tensor"],
  "src/families": [],
  "src/tokenizer": [],
  "src/data": ["ffi/bindings"],
  "src/checkpoint": ["src/families", "ffi/bindings"],
  "src/device": ["src/tensor", "ffi/bindings"],
  "src/tensor": [],
  "src/errors.ts": [],
  "src/closing.ts": [],
  "src/files.ts": ["src/errors.ts"],
  "src/program.ts": [],
  "src/cache.ts": [],
  "src/writers.ts": [],
  "src/carried.ts": ["src/cache.ts"],
  "src/assets.ts": ["src/carried.ts", "src/program.ts"],
  "src/answers": [],
  "ffi/bindings": ["ffi/cpu", "ffi/cuda", "ffi/compiler.ts"],
  "ffi/cpu": ["ffi/compiler.ts"],
  "ffi/compiler.ts": [],
  "ffi/cuda": [],
  data: [...everything, "src/index.ts", "src/cli"],
  bench: [...everything, "src/index.ts"],
  check: [...everything, "bench"],
  release: ["ffi/cpu", "ffi/compiler.ts"],
};

/** What every part may import. The configuration is not for these files themselves: they stand below it. */
const foot = [
  "src/errors.ts",
  "src/closing.ts",
  "src/files.ts",
  "src/assets.ts",
  "src/answers",
  "src/cache.ts",
  "src/program.ts",
  "src/writers.ts",
];
const forAll = ["src/config", ...foot];
const bottom = new Set([...foot, "src/carried.ts"]);

/** Files of the program that are no TypeScript, and who may embed them. */
const embeds = (from: string, target: string) =>
  from === "src/assets.ts" || (target === "package.json" && ["src/cli/main.ts", "release/build.ts"].includes(from));

/** The part of the tree a file belongs to: the longest one of the table that its path begins with. */
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

const transpilers = { ts: new Bun.Transpiler({ loader: "ts" }), tsx: new Bun.Transpiler({ loader: "tsx" }) };

/** The imports that are left when the program runs. */
function runtimeImportsOf(path: string, source: string): string[] {
  const transpiler = path.endsWith("x") ? transpilers.tsx : transpilers.ts;
  return transpiler.scanImports(source.replace(/^#!.*/, "")).map((found) => found.path);
}

/** A specifier as a path from the root; packages and built-in modules give undefined. */
function target(from: string, specifier: string): string | undefined {
  if (specifier === "bun-grpo") return "src/index.ts";
  return specifier.startsWith(".") ? normalize(join(dirname(from), specifier)) : undefined;
}

function packageName(specifier: string): string {
  return specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
}

function violation(from: string, specifier: string): string | undefined {
  const part = partOf(from);
  if (part === undefined) return `${from} is in no part of the layout`;
  if (specifier === "bun:ffi") {
    return part === "ffi/bindings" ? undefined : `${from} imports bun:ffi, which only ffi/bindings may`;
  }
  if (/^(node|bun):|^bun$/.test(specifier)) return undefined;
  const path = target(from, specifier);
  if (path === undefined) {
    const known = { ...packageJson.dependencies, ...(part === "bench" ? packageJson.devDependencies : {}) };
    const name = packageName(specifier);
    return Object.hasOwn(known, name) ? undefined : `${from} imports ${name}, which is not a dependency`;
  }
  const to = partOf(path);
  if (to === part || embeds(from, path)) return undefined;
  if (to === undefined) return `${from} imports ${path}, which is in no part of the layout`;
  const allowed = [...rules[part]!, ...(bottom.has(part) || part === "src/config" ? ["src/errors.ts"] : forAll)];
  return allowed.includes(to) ? undefined : `${from} imports ${path}: ${part} may not import ${to}`;
}

type Sources = ReadonlyMap<string, string>;

function violations(files: Sources): string[] {
  return [...files].flatMap(([path, source]) => {
    if (partOf(path) === undefined) return [`${path} is in no part of the layout`];
    return importsOf(source).flatMap((specifier) => violation(path, specifier) ?? []);
  });
}

/** The first circle of runtime imports, as the files it runs through. */
function circle(files: Sources): string[] | undefined {
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): string[] | undefined => {
    if (trail.includes(path)) return [...trail.slice(trail.indexOf(path)), path];
    const source = files.get(path);
    if (done.has(path) || source === undefined) return undefined;
    for (const specifier of runtimeImportsOf(path, source)) {
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

const project: Sources = new Map(
  ["src", "ffi", "bench", "data", "release"]
    .filter((folder) => existsSync(join(root, folder)))
    .flatMap((folder) => [...new Bun.Glob(`${folder}/**/*.{ts,tsx}`).scanSync(root)])
    .sort()
    .map((path) => [path, readFileSync(join(root, path), "utf8")]),
);

describe("the project", () => {
  test("is read", () => expect(project.size).toBeGreaterThan(20));
  test("keeps the table", () => expect(violations(project)).toEqual([]));
  test("has no circle among its files", () => expect(circle(project)).toBeUndefined());

  test("has no import that this test overlooks", () => {
    for (const [path, source] of project) {
      const seen = importsOf(source);
      const missed = runtimeImportsOf(path, source).filter((specifier) => !seen.includes(specifier));
      expect({ path, missed }).toEqual({ path, missed: [] });
    }
  });
});

test("the table itself has no circle", () => {
  const order = (part: string, trail: readonly string[]): void => {
    expect(trail).not.toContain(part);
    for (const next of rules[part] ?? []) order(next, [...trail, part]);
  };
  for (const part of Object.keys(rules)) order(part, []);
});

describe("what breaks a rule is found", () => {
  const broken: readonly (readonly [path: string, source: string, part: string])[] = [
    ["src/tensor/a.ts", 'import { b } from "../device/b.ts";', "src/tensor may not import src/device"],
    ["src/tensor/a.ts", 'import type { B } from "../device/b.ts";', "src/tensor may not import src/device"],
    ["src/model/a.ts", 'export {\n  b,\n  c,\n} from "../rollout/b.ts";', "src/model may not import src/rollout"],
    ["src/grpo/a.ts", 'const b = await import("../eval/b.ts");', "src/grpo may not import src/eval"],
    ["src/sft/a.ts", 'import "../grpo/b.ts";', "src/sft may not import src/grpo"],
    ["src/config/a.ts", 'import { b } from "../metrics/b.ts";', "src/config may not import src/metrics"],
    ["src/errors.ts", 'import { b } from "./config/b.ts";', "src/errors.ts may not import src/config"],
    ["src/grpo/a.ts", 'import { train } from "../index.ts";', "src/grpo may not import src/index.ts"],
    ["src/rewards/a.ts", 'import { train } from "bun-grpo";', "src/rewards may not import src/index.ts"],
    ["src/eval/a.ts", 'import { b } from "../../ffi/bindings/b.ts";', "src/eval may not import ffi/bindings"],
    ["src/device/cpu.ts", 'import { dlopen } from "bun:ffi";', "only ffi/bindings may"],
    ["src/device/cpu.ts", 'import type { Pointer } from "bun:ffi";', "only ffi/bindings may"],
    ["src/device/cpu.ts", 'const { dlopen } = require("bun:ffi");', "only ffi/bindings may"],
    ["src/data/a.ts", 'import { b } from "left-pad";', "left-pad, which is not a dependency"],
    ["src/data/a.ts", 'import { Bench } from "tinybench";', "tinybench, which is not a dependency"],
    ["src/data/a.ts", 'import text from "../../data/x.txt" with { type: "text" };', "src/data may not import data"],
    ["src/new/a.ts", "export const a = 1;", "in no part of the layout"],
    ["src/stray.ts", "", "in no part of the layout"],
  ];
  for (const [path, source, part] of broken) {
    test(`${path}: ${source.replace(/\s+/g, " ")}`, () => {
      const found = violations(new Map([[path, source]]));
      expect(found).toHaveLength(1);
      expect(found[0]).toContain(part);
    });
  }

  const sound: readonly (readonly [path: string, source: string])[] = [
    ["src/cli/train.ts", 'import { a } from "../grpo/a.ts";\nimport { b } from "../../ffi/bindings/b.ts";'],
    ["src/tensor/a.ts", 'import { RunError } from "../errors.ts";\nimport { readFileSync } from "node:fs";'],
    [
      "src/tensor/a.ts",
      '/** Use it as `import { a } from "../device/a.ts"`. */\nexport const text = "from \\"../cli/x.ts\\"";',
    ],
    ["src/assets.ts", 'import model from "../data/model/model.safetensors" with { type: "file" };'],
    ["ffi/bindings/cpu.ts", 'import { dlopen } from "bun:ffi";\nimport { build } from "../cpu/build.ts";'],
    ["bench/ops.ts", 'import { Bench } from "tinybench";\nimport { a } from "../src/device/a.ts";'],
    ["data/make.ts", 'import { train } from "bun-grpo";'],
    ["src/config/settings/a.ts", 'import { z } from "zod";\nimport { b } from "../b.ts";'],
    ["src/data/a.ts", 'import { tableFromIPC } from "apache-arrow/table";\nimport hub from "@huggingface/hub/x";'],
  ];
  for (const [path, source] of sound) {
    test(`${path} is sound`, () => expect(violations(new Map([[path, source]]))).toEqual([]));
  }

  test("circles: direct, over three files, by itself; not of types alone", () => {
    const files = (sources: Record<string, string>) => new Map(Object.entries(sources));
    const two = files({ "a/x.ts": 'import { y } from "./y.ts"; y;', "a/y.ts": 'import { x } from "./x.ts"; x;' });
    expect(circle(two)).toEqual(["a/x.ts", "a/y.ts", "a/x.ts"]);
    const three = files({
      "a.ts": 'import { b } from "./b.ts"; b;',
      "b.ts": 'export { c } from "./c.ts";',
      "c.ts": 'await import("./a.ts");',
    });
    expect(circle(three)).toHaveLength(4);
    expect(circle(files({ "a.ts": 'import { a } from "./a.ts"; a;' }))).toEqual(["a.ts", "a.ts"]);
    const types = files({
      "a.ts": 'import { b } from "./b.ts"; b;',
      "b.ts": 'import type { A } from "./a.ts"; export const b = 1;',
    });
    expect(circle(types)).toBeUndefined();
  });
});
