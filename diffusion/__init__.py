"""Diffusion sampling as a schedule: every solver is a table, and tables can be searched.

A `Schedule` says what a sampler decides at each step (`diffusion.schedule`); `lower` turns it into
a `StepTable`, the triangle of numbers that it comes down to; `sample` runs any table with any
denoiser in one `lax.scan`. `presets` and `adams` hold the published solvers.
"""
