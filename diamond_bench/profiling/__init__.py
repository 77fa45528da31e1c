"""Where the time of a training goes, and how many trainings one device holds."""
