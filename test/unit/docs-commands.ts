/** The commands that the pages show: fenced blocks of `sh`, and of `console` the lines after a prompt, as a shell takes them apart. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const root = join(import.meta.dir, "../..");
export const pages: readonly string[] = [
  "README.md",
  "CONTRIBUTING.md",
  ...readdirSync(join(root, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

export interface Shown {
  /** "docs/hub.md:6" */
  readonly place: string;
  readonly text: string;
  /** Without variables before the program, redirections, and what follows a `#`. */
  readonly words: readonly string[];
}

export const pageText = (page: string): string => readFileSync(join(root, page), "utf8");

/** Simple commands of a line: at `&&`, `||`, `;`, `|` and `&` another begins. Quotes and backslashes as in a POSIX shell. */
export function commandsOf(line: string): string[][] {
  const found: string[][] = [[]];
  let word: string | null = null;
  let redirected = false;
  const end = (): void => {
    if (word !== null && !redirected) found.at(-1)!.push(word);
    if (word !== null) redirected = false;
    word = null;
  };
  for (let i = 0; i < line.length; i++) {
    const char = line[i]!;
    if (char === "'") {
      const close = line.indexOf("'", i + 1);
      if (close < 0) throw new Error(`a quote is not closed: ${line}`);
      word = (word ?? "") + line.slice(i + 1, close);
      i = close;
    } else if (char === '"') {
      word ??= "";
      for (i++; line[i] !== '"'; i++) {
        if (i >= line.length) throw new Error(`a quote is not closed: ${line}`);
        if (line[i] === "\\" && '"\\$`'.includes(line[i + 1] ?? " ")) i++;
        word += line[i];
      }
    } else if (char === "\\") word = (word ?? "") + line[++i];
    else if (char === "#" && word === null) break;
    else if (/\s/.test(char)) end();
    else if (/[;&|()]/.test(char)) {
      end();
      found.push([]);
    } else if (/[<>]/.test(char)) {
      // `2>` and `<(` too: a file descriptor is no word, a process substitution another command.
      if (/^\d$/.test(word ?? "")) word = null;
      end();
      redirected = line[i + 1] !== "(";
      while (/[<>]/.test(line[i + 1] ?? "")) i++;
      if (line[i + 1] === "&") i++;
    } else word = (word ?? "") + char;
  }
  end();
  return found
    .map((words) => {
      const program = words.findIndex((each) => !/^[A-Z_]+=/.test(each));
      return program < 0 ? [] : words.slice(program);
    })
    .filter((words) => words.length > 0);
}

/** Every command of a page. */
export function shownIn(page: string): Shown[] {
  const shown: Shown[] = [];
  let language: string | null = null;
  const lines = pageText(page).split("\n");
  for (let i = 0; i < lines.length; i++) {
    const fence = /^\s*```(\w*)/.exec(lines[i]!);
    if (fence !== null) {
      language = language === null ? fence[1]! : null;
      continue;
    }
    let text = lines[i]!.trim();
    const at = i + 1;
    if (language === "console") {
      if (!text.startsWith("$ ")) continue;
      text = text.slice(2);
    } else if (language !== "sh") continue;
    while (text.endsWith("\\")) text = `${text.slice(0, -1)}${lines[++i]!.trim()}`;
    for (const words of commandsOf(text)) shown.push({ place: `${page}:${at}`, text, words });
  }
  return shown;
}
