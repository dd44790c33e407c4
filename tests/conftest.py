"""What all tests share."""

import sys

import pytest


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled():
    """Drops what a module compiled: a process that keeps the code of all tests runs out of memory maps, and dies."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
