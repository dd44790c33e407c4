"""Noise schedules and samplers of diffusion models. Nothing here yet."""
