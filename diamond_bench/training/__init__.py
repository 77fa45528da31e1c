"""Updates, optimisers and checkpoints."""
