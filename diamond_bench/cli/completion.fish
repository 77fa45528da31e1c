function __diamond_bench_complete
    set -l command (commandline -opc)[1]
    set -l offers ($command __complete fish (commandline -pc | string collect) 2>/dev/null)
    if set -q offers[1]
        printf '%s\n' $offers
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c diamond-bench -e
complete -c diamond-bench -f -a '(__diamond_bench_complete)'
