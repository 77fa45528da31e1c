"""The artifacts on disk: job kinds, identities, files, locks, claims and states. No torch."""
