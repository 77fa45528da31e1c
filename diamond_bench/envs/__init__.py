"""Atari preprocessing and scripted experts."""
