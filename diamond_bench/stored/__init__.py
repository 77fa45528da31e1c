"""What the store's finished jobs left, loaded by a job's id: world models, agents, and the games that they imagine."""
