"""Jobs on a SLURM cluster: submitted as arrays, run in allocations, joined with what the store knows (docs/slurm.md)."""
