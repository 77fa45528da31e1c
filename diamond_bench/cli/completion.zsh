#compdef diamond-bench
_diamond_bench() {
    local -a spaced open
    local value about
    while IFS=$'\t' read -r value about; do
        if [[ $value == *[=.,] ]]; then open+=("$value"); else spaced+=("${value//:/\\:}${about:+:$about}"); fi
    done < <("${(Q)words[1]}" __complete zsh "${(j: :)words[1,CURRENT]}" 2>/dev/null)
    if (( ! $#open && ! $#spaced )); then _files; return; fi
    (( $#open )) && compadd -S '' -a open
    (( $#spaced )) && _describe diamond-bench spaced
}
if ! whence compdef >/dev/null; then autoload -Uz compinit; compinit; fi
compdef _diamond_bench diamond-bench
