"""Games: Atari with the authors' preprocessing, synthetic worlds, and policies that play them."""
