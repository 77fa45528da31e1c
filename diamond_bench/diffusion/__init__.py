"""Objectives, schedules, samplers and the denoiser."""
