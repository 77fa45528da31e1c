function __diamond_bench_complete
    set -l command (commandline -opc)[1]
    $command __complete fish (commandline -pc | string collect) 2>/dev/null
end
complete -c diamond-bench -e
complete -c diamond-bench -a '(__diamond_bench_complete)'
