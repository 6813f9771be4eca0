// lodge completion: the script that a shell reads to complete command lines of lodge.
import { Command } from 'commander';
import { offline, verb } from '../command.ts';
import { usageError } from '../usage-error.ts';

// bash splits words at "=" and ":" (COMP_WORDBREAKS) and replaces only what is behind; candidates are for whole words.
const bash = `# Completion of lodge for bash. Add to ~/.bashrc:  source <(lodge completion bash)
_lodge() {
  local line=\${COMP_LINE:0:COMP_POINT} word candidate files=
  local -a words
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=('')
  word=\${words[\${#words[@]}-1]}
  local prefix=\${word%"\${word##*[=:]}"}
  COMPREPLY=()
  while IFS=$'\\t' read -r candidate _; do
    if [[ $candidate == :files ]]; then files=yes; continue; fi
    COMPREPLY+=("\${candidate#"$prefix"}")
  done < <("\${words[0]}" __complete "\${words[@]:1}" 2>/dev/null)
  if [[ -n $files ]]; then
    while IFS= read -r candidate; do COMPREPLY+=("$candidate"); done < <(compgen -f -- "\${word#"$prefix"}")
    compopt -o filenames 2>/dev/null
  fi
  if [[ \${#COMPREPLY[@]} -eq 1 && \${COMPREPLY[0]} == *[=:./] ]]; then compopt -o nospace 2>/dev/null; fi
  return 0
}
complete -F _lodge lodge
`;

const zsh = `#compdef lodge
# Completion of lodge for zsh. Add to ~/.zshrc, behind compinit:  source <(lodge completion zsh)
_lodge() {
  local line candidate
  local -a spaced open
  local files=
  while IFS= read -r line; do
    if [[ $line == :files ]]; then files=yes; continue; fi
    candidate=\${line%%$'\\t'*}
    # A colon parts word and description for _describe.
    local entry=\${candidate//:/\\\\:}
    [[ $line == *$'\\t'* ]] && entry+=:\${line#*$'\\t'}
    if [[ $candidate == *[=.] || $candidate == *:/ ]]; then open+=("$entry"); else spaced+=("$entry"); fi
  done < <("\${words[1]}" __complete "\${(@)words[2,CURRENT]}" 2>/dev/null)
  (( \${#spaced} )) && _describe -V lodge spaced
  (( \${#open} )) && _describe -V lodge open -S ''
  [[ -n $files ]] && _files
}
compdef _lodge lodge
`;

const fish = `# Completion of lodge for fish:  lodge completion fish > ~/.config/fish/completions/lodge.fish
function __lodge_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (lodge __complete $words[2..-1] 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c lodge -f -a '(__lodge_complete)'
`;

const scripts: Readonly<Record<string, string>> = { bash, zsh, fish };

/** `lodge completion`. */
export function completionCommand(): Command {
  return verb(new Command('lodge'), 'completion <shell>', 'Print the completion script for bash, zsh or fish', {
    isOffline: true,
    description:
      'Print the completion script for a shell. It completes nouns, verbs, options, and the names of VMs and other objects, which it asks the daemon for.',
    examples: [
      ['source <(lodge completion bash)', 'in ~/.bashrc'],
      ['source <(lodge completion zsh)', 'in ~/.zshrc, behind compinit'],
      ['lodge completion fish > ~/.config/fish/completions/lodge.fish', 'once'],
    ],
  }).action(
    offline<[shell: string], object>((_options, shell) => {
      const script = Object.hasOwn(scripts, shell) ? scripts[shell] : undefined;
      if (script === undefined) {
        throw usageError(`there is no completion for ${JSON.stringify(shell.slice(0, 40))}`, {
          hint: 'There is one for bash, zsh and fish.',
        });
      }
      process.stdout.write(script);
    }),
  );
}
