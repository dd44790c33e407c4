"""Mixture-of-experts layers and the search for their communication schedules (FSMoE, arXiv 2501.10714)."""

from compiler.moe.plan import Pipeline, Plan

__all__ = ["Pipeline", "Plan"]
