/**
 * The package as `npm pack` makes it, in an empty project: it runs, its command runs, and a strict compiler accepts what uses
 * it, with and without skipLibCheck. Its dependencies are linked from here, so that no registry is asked.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { schemaDeclarations, writeTypes } from "../../release/types.ts";
import { root, workFolder } from "./runs.ts";

// The kernels may have to be compiled first.
setDefaultTimeout(240_000);

const work = workFolder();
afterAll(work.remove);
const archive = work.at(`bun-grpo-${packageJson.version}.tgz`);
const project = work.at("project");
const installed = join(project, "node_modules/bun-grpo");

async function run(command: readonly string[], cwd = project) {
  const child = Bun.spawn([...command], { cwd, stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out, err, code };
}

beforeAll(async () => {
  // What its prepack script does, without the installation.
  writeTypes();
  const pack = [process.execPath, "pm", "pack", "--ignore-scripts", "--destination", work.path];
  expect((await run(pack, root)).code).toBe(0);
  mkdirSync(installed, { recursive: true });
  expect((await run(["tar", "xzf", archive, "--strip-components=1", "-C", installed])).code).toBe(0);
  for (const name of Object.keys(packageJson.dependencies)) {
    const link = join(project, "node_modules", name);
    mkdirSync(join(link, ".."), { recursive: true });
    symlinkSync(join(root, "node_modules", name), link);
  }
  writeFileSync(join(project, "package.json"), '{ "type": "module" }\n');
});

test("it holds what runs, and nothing of the development", () => {
  expect(readdirSync(installed).sort()).toEqual([
    ...["LICENSE", "README.md", "bench", "check", "data", "docs", "examples", "ffi", "package.json", "src", "types"],
  ]);
  expect(readdirSync(join(installed, "data")).sort()).toEqual(["model", "problems"]);
  expect(readdirSync(join(installed, "ffi/cpu"))).toContain("matmul.cpp");
  // docs/typescript.md says how large it is.
  expect(statSync(archive).size / 1e6).toBeLessThan(4);
});

test("a program trains with it, and calls its own reward", async () => {
  writeFileSync(
    join(project, "run.ts"),
    `import { train } from "bun-grpo";
const run = train({
  device: "cpu", maxSteps: 2, perDeviceTrainBatchSize: 16, evalSamples: 8, outputDir: "out",
  rewardFuncs: [function digits({ completions }) { return completions.map((text) => text.length); }],
});
for await (const event of run) if (event.type === "step") console.log(event.step, event.metrics["rewards/digits/mean"]);
`,
  );
  const { out, err, code } = await run([process.execPath, "run.ts"]);
  expect({ err, code }).toEqual({ err: "", code: 0 });
  expect(out).toMatch(/^1 [\d.]+\n2 [\d.]+\n$/);
});

test("its command runs, and names itself as it is called there", async () => {
  const cli = join(installed, packageJson.bin.grpo);
  const version = await run([process.execPath, cli, "--version"]);
  expect(version.out).toStartWith(`grpo ${packageJson.version} (bun `);
  const { out, code } = await run([process.execPath, cli, "init", "--device", "cpu"]);
  expect(code).toBe(0);
  expect(out).toContain("next: bunx grpo train grpo.toml");
  expect((await run([process.execPath, cli, "bench", "--help"])).out).toStartWith("Usage: grpo bench");
});

test("its page is bundled from the sources that it ships", async () => {
  writeFileSync(
    join(project, "page.ts"),
    `import { bundlePage } from "./node_modules/bun-grpo/src/dashboard/bundle.ts";
console.log([...(await bundlePage()).keys()].map((name) => name.replace(/-\\w+/, "")).sort().join());
`,
  );
  expect(await run([process.execPath, "page.ts"])).toMatchObject({
    ...{ err: "", out: "icon.svg,index.html,main.js,style.css,temml.js\n" },
  });
});

test("a strict compiler accepts a program that uses it, and refuses a misspelled setting", async () => {
  const use = readFileSync(join(root, "test/quick/public-api.ts"), "utf8");
  writeFileSync(join(project, "use.ts"), use);
  const options = {
    ...{ strict: true, noUncheckedIndexedAccess: true, exactOptionalPropertyTypes: true, noEmit: true },
    ...{ module: "nodenext", target: "esnext", lib: ["esnext", "dom"], types: [] },
  };
  for (const skipLibCheck of [true, false]) {
    writeFileSync(
      join(project, "tsconfig.json"),
      JSON.stringify({ compilerOptions: { ...options, skipLibCheck }, files: ["use.ts"] }),
    );
    const tsc = [process.execPath, "--bun", join(root, "node_modules/.bin/tsc"), "-p", "tsconfig.json"];
    const { out } = await run(tsc);
    // What other packages' declarations lack (bun-types, apache-arrow) is not ours to mend.
    const ours = out.split("\n").filter((line) => /^(use\.ts|node_modules\/bun-grpo\/)/.test(line));
    expect({ skipLibCheck, ours }).toEqual({ skipLibCheck, ours: [] });
  }
});

test("settings have their texts in the declarations", () => {
  const text = schemaDeclarations();
  expect(text).toContain(
    "  /** Peak learning rate. (a number ≥ 0. Default: 0.000001.) */\n  readonly learningRate?: number | undefined;",
  );
  expect(text).toContain('readonly lossType?: "grpo" | "dr_grpo"');
});
