"""Jobs on a SLURM cluster: submitted as arrays, run in allocations, and joined with the store's states (docs/slurm.md)."""
