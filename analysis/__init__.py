"""Pure analysis: arrays, tensors and DataFrames in, DataFrames and figures out. Imports nothing of diamond_bench."""
