/**
 * The page's own files, ready for a browser. From the sources they are bundled when the server starts, a tenth of a second;
 * the executable carries them bundled.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { assetPath } from "../assets.ts";
import { RunError } from "../errors.ts";
import { compiled } from "../program.ts";

export interface PageFile {
  readonly type: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** By name, `index.html` among them. */
export type PageFiles = ReadonlyMap<string, PageFile>;

const types: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  svg: "image/svg+xml",
};

const pageFile = (name: string, bytes: Uint8Array): PageFile => ({
  type: types[name.slice(name.lastIndexOf(".") + 1)] ?? "application/octet-stream",
  bytes: new Uint8Array(bytes),
});

/** @throws RunError if a source cannot be bundled */
export async function bundlePage(): Promise<PageFiles> {
  const folder = assetPath("src/dashboard/page");
  const built = await Bun.build({
    entrypoints: [join(folder, "main.ts"), join(folder, "style.css")],
    target: "browser",
    minify: true,
    splitting: true,
    naming: { entry: "[name].[ext]", chunk: "[name]-[hash].[ext]" },
    throw: false,
  });
  if (!built.success) throw new RunError(`the page cannot be bundled: ${built.logs.map(String).join("\n")}`);
  const files = new Map<string, PageFile>();
  for (const name of ["index.html", "icon.svg"]) files.set(name, pageFile(name, readFileSync(join(folder, name))));
  for (const output of built.outputs) {
    const name = output.path.replace(/^.*\//, "");
    files.set(name, pageFile(name, new Uint8Array(await output.arrayBuffer())));
  }
  return files;
}

/** @throws RunError if the page cannot be bundled, or is missing from the executable */
export async function pageFiles(): Promise<PageFiles> {
  if (!compiled) return bundlePage();
  const folder = assetPath("page");
  return new Map(readdirSync(folder).map((name) => [name, pageFile(name, readFileSync(join(folder, name)))]));
}
