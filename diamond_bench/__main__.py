"""`python -m diamond_bench` is the console script `diamond-bench`."""

from diamond_bench.cli import main

if __name__ == "__main__":
    main()
