/** Completions for bash 4 and later, without the bash-completion package. */
import type { CommandWords, FlagWords } from "./words.ts";

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** What stands in a `case` for a flag: fills COMPREPLY. */
function reply({ value }: FlagWords): string {
  if (value === null || value.kind === "text") return ":";
  if (value.kind !== "words") return value.kind === "folder" ? "_grpo_files -d" : "_grpo_files -f";
  const words = `COMPREPLY=($(compgen -W ${quoted(value.words.join(" "))} -- "$cur"))`;
  return value.files ? `${words}; _grpo_files -f` : words;
}

function branch({ name, flags, words, takesConfig }: CommandWords): string {
  // Flags with the same values share a line.
  const byReply = Map.groupBy(
    flags.filter(({ value }) => value !== null),
    reply,
  );
  const cases = [...byReply].map(
    ([text, same]) => `        ${same.map((flag) => flag.name).join("|")}) ${text}; return ;;`,
  );
  const rest = words.length > 0 ? `COMPREPLY=($(compgen -W ${quoted(words.join(" "))} -- "$cur")); ` : "";
  return `    ${quoted(name)})
      case "$prev" in
${cases.join("\n")}
      esac
      if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W ${quoted(flags.map((flag) => flag.name).join(" "))} -- "$cur"))
      else
        ${rest}${takesConfig ? "_grpo_files -c" : "_grpo_files -f"}
      fi ;;`;
}

export function bashScript(commands: readonly CommandWords[]): string {
  return `# Completions of grpo for bash: add this line to ~/.bashrc
#   source <(grpo completions bash)
_grpo_files() {
  local kind=$1 IFS=$'\\n' path
  compopt -o filenames 2>/dev/null
  for path in $(compgen -d -- "$cur") $([[ $kind == -d ]] || compgen -f -- "$cur"); do
    [[ $kind == -c && ! -d $path && ! $path =~ \\.(toml|yaml|yml|json)$ ]] && continue
    [[ $IFS\${COMPREPLY[*]}$IFS == *$IFS$path$IFS* ]] || COMPREPLY+=("$path")
  done
}
_grpo() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} command=\${COMP_WORDS[1]-}
  COMPREPLY=()
  # --key=value comes as three words.
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=\${COMP_WORDS[COMP_CWORD-2]}; fi
  # Dashes inside names count as underscores.
  [[ $prev == --* ]] && { prev=\${prev#--}; prev=--\${prev//-/_}; }
  if [[ \${COMP_WORDS[2]-} == : ]]; then
    command+=:\${COMP_WORDS[3]-}
    if (( COMP_CWORD <= 3 )); then
      [[ $cur == : ]] && cur=
      [[ \${COMP_WORDS[1]} == check ]] && COMPREPLY=($(compgen -W gpu -- "$cur"))
      return
    fi
  fi
  if (( COMP_CWORD == 1 )); then
    COMPREPLY=($(compgen -W ${quoted([...commands.map(({ name }) => name), "help", "--help", "--version"].join(" "))} -- "$cur"))
    return
  fi
  case "$command" in
${commands.map(branch).join("\n")}
    help) COMPREPLY=($(compgen -W ${quoted(commands.map(({ name }) => name).join(" "))} -- "$cur")) ;;
  esac
}
complete -F _grpo grpo
`;
}
