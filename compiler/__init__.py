"""Compiler-side packages: HLO programs, costs and memory mapping."""
