/** Completions for fish. */
import type { CommandWords, FlagWords, Value } from "./words.ts";

const quoted = (text: string): string => `'${text.replace(/[\\']/g, (c) => `\\${c}`)}'`;

/** Options of `complete` for what follows a flag. */
function follows(value: Value | null): string {
  if (value === null) return "";
  if (value.kind === "file") return " -r -F";
  if (value.kind === "folder") return " -x -a '(__fish_complete_directories)'";
  if (value.kind === "text") return " -x";
  return ` ${value.files ? "-r -F" : "-x"} -a ${quoted(value.words.join(" "))}`;
}

function lines({ name, summary, flags, words, takesConfig }: CommandWords): string[] {
  const seen = `complete -c grpo -n ${quoted(`__fish_seen_subcommand_from ${name}`)}`;
  const flag = ({ name: long, value, summary: text }: FlagWords) =>
    `${seen} -l ${long.slice(2)}${follows(value)} -d ${quoted(text)}`;
  return [
    `complete -c grpo -n __fish_use_subcommand -a ${quoted(name)} -d ${quoted(summary)}`,
    ...flags.map(flag),
    ...(words.length > 0 ? [`${seen} -a ${quoted(words.join(" "))}`] : []),
    takesConfig
      ? `${seen} -a '(string match -r ".*(?:\\\\.(?:toml|yaml|yml|json)|/)(?:\\\\t.*)?\\$" -- (__fish_complete_path (commandline -ct)))'`
      : `${seen} -F`,
  ];
}

export function fishScript(commands: readonly CommandWords[]): string {
  return `# Completions of grpo for fish:
#   grpo completions fish > ~/.config/fish/completions/grpo.fish
complete -c grpo -f
complete -c grpo -n __fish_use_subcommand -a help -d 'show the help of a command or of a topic'
${commands.flatMap(lines).join("\n")}
`;
}
