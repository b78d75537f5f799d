// What a training run shows: a live line in a real terminal (a pseudo-terminal of Bun's), plain lines in a pipe, warnings alone
// with --quiet.
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { argvOf, fingerprint, grpo, metricsOf, root, tinyTraining, workFolder } from "./runs.ts";

const work = workFolder();
afterAll(work.remove);

const argv = (name: string, flags = {}) => [
  "train",
  ...argvOf({ ...tinyTraining, max_steps: 3, log_completions: false, output_dir: work.at(name), ...flags }),
];

/** What a command writes to a terminal that is `cols` wide. */
async function inTerminal(args: readonly string[], cols: number, env: Record<string, string>): Promise<string> {
  let text = "";
  const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), ...args], {
    cwd: root,
    env: { ...process.env, TERM: "xterm", ...env },
    terminal: {
      ...{ cols, rows: 30 },
      data: (_, bytes) => {
        text += Buffer.from(bytes).toString();
      },
    },
  });
  expect(await child.exited).toBe(0);
  child.terminal!.close();
  return text;
}

const erased = "\r\x1b[2K";
const lives = (text: string) => text.split(erased).filter((part) => /^step \d\/3 · [^\r\n]*$/.test(part));

test("a terminal has a live line within its width, which the end takes away", async () => {
  const text = await inTerminal(argv("terminal"), 60, { NO_COLOR: "1" });
  const shown = lives(text);
  expect(shown.length).toBeGreaterThan(2);
  expect(shown[0]).toMatch(/^step 1\/3 · rollout 0\/8$/);
  expect(shown.some((line) => / · \d+s left · reward /.test(line))).toBe(true);
  for (const line of shown) expect(Bun.stringWidth(line)).toBeLessThan(60);
  expect(text).not.toContain("\x1b[2m");
  // The live line is taken away before the next, and none is left at the end.
  const rest = text.slice(text.lastIndexOf(erased) + erased.length);
  expect(rest).toStartWith("     3  ");
  expect(rest).toEndWith(`saved the model in ${work.at("terminal")}\r\n`);
}, 30_000);

test("TERM=dumb has none, and colour is there unless NO_COLOR is set", async () => {
  const [dumb, colour] = await Promise.all([
    inTerminal(argv("dumb"), 100, { TERM: "dumb", NO_COLOR: "" }),
    inTerminal(argv("colour"), 100, { NO_COLOR: "" }),
  ]);
  expect(dumb).not.toContain("\x1b");
  expect(dumb).toContain("\r\n     3  ");
  expect(colour).toContain("\x1b[2m  step");
}, 30_000);

test("--quiet prints warnings alone, and writes the same", async () => {
  const [plain, quiet, warned] = await Promise.all([
    grpo(argv("plain")),
    grpo(argv("quiet", { quiet: true })),
    grpo(argv("warned", { quiet: true, max_completion_length: 1 })),
  ]);
  expect([plain.code, quiet.code, warned.code]).toEqual([0, 0, 0]);
  expect(plain.out).toContain("\n     3  ");
  expect(plain.out).not.toContain("\x1b");
  const warnings = plain.out.split("\n").filter((line) => line.startsWith("note: "));
  expect([quiet.out, quiet.err]).toEqual([warnings.map((line) => `${line}\n`).join(""), ""]);
  expect(fingerprint(work.at("quiet"), "model.safetensors")).toBe(fingerprint(work.at("plain"), "model.safetensors"));
  expect(metricsOf(work.at("quiet"))).toHaveLength(3);
  // It lasts for all steps, and is told once.
  const cut = [...warned.out.matchAll(/^note: step (\d): every completion was cut at max_completion_length/gm)];
  expect(cut.map((match) => match[1])).toEqual(["1"]);
  expect(metricsOf(work.at("warned")).map((each) => each["completions/clipped_ratio"])).toEqual([1, 1, 1]);
}, 30_000);
