/** Completions for zsh, with its own completion system (compinit). */
import type { CommandWords, FlagWords, Value } from "./words.ts";

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
/** In an argument of _arguments, brackets and colons have a meaning. */
const plain = (text: string): string => text.replace(/[[\]\\:]/g, (c) => `\\${c}`);

function action(value: Value): string {
  if (value.kind === "file") return ":file:_files";
  if (value.kind === "folder") return ":folder:_files -/";
  if (value.kind === "text") return ":value: ";
  const words = value.words.map(plain).join(" ");
  // The space keeps _arguments from adding options of its own.
  return value.files ? `:value: _grpo_words_or_files ${words}` : `:value:(${words})`;
}

/** `*`: a list may be given several times. */
const argument = ({ name, value, summary }: FlagWords): string =>
  quoted(`*${name}[${plain(summary)}]${value === null ? "" : action(value)}`);

function branch({ name, flags, words, takesConfig }: CommandWords): string {
  const rest = words.length > 0 ? `*:word:(${words.map(plain).join(" ")})` : null;
  const last = rest ?? (takesConfig ? `*:configuration:_files -g "*.(toml|yaml|yml|json)"` : "*:file:_files");
  const lines = [...flags.map(argument), quoted(last)].map((each) => `        ${each}`);
  return `    ${quoted(name)})\n      _arguments \\\n${lines.join(" \\\n")}\n      ;;`;
}

export function zshScript(commands: readonly CommandWords[]): string {
  const described = commands.map(({ name, summary }) => quoted(`${name.replaceAll(":", "\\:")}:${summary}`));
  return `#compdef grpo
# Completions of grpo for zsh: save this as _grpo in a folder of your $fpath, or add after compinit to ~/.zshrc
#   source <(grpo completions zsh)
_grpo_words_or_files() {
  _alternative "words:word:($*)" 'files:file:_files'
}
_grpo() {
  local -a commands=(
    ${described.join("\n    ")}
    'help:show the help of a command or of a topic'
  )
  if (( CURRENT == 2 )); then
    _describe -t commands command commands
    return
  fi
  local command=\${words[2]//\\\\/}
  shift words
  (( CURRENT-- ))
  case $command in
${commands.map(branch).join("\n")}
    help) _describe -t commands command commands ;;
  esac
}
compdef _grpo grpo
`;
}
