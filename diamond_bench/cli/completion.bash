_diamond_bench() {
    COMPREPLY=()
    local word
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <("$1" __complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.,] ]]; then compopt -o nospace; fi
}
complete -o default -F _diamond_bench diamond-bench
