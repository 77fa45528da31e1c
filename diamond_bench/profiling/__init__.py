"""Profiles: how long the parts of a training take, and how many trainings one device holds."""
