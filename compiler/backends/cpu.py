"""XLA:CPU, which comes with jax: its buffer assignment is a packing of offsets to compare with."""

import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

_NAME = re.compile(r"cpu(?::([1-9][0-9]*))?")


class CpuBackend:
    """Topologies are `cpu`, and `cpu:8` for eight devices."""

    name = "cpu"
    platform = "cpu"
    dumps: Mapping[str, str] = MappingProxyType(
        {
            "before_optimizations.hlo.pb": "before_optimizations.hlo.pb",
            "cpu_after_optimizations.hlo.pb": "compiled.hlo.pb",
        }
    )
    required = ("before_optimizations.hlo.pb", "compiled.hlo.pb")

    def owns(self, topology: str) -> bool:
        return _NAME.fullmatch(topology) is not None

    def version(self) -> str:
        return f"jaxlib {version('jaxlib')} cpu"

    def environment(self, topology: str) -> dict[str, str]:
        match = _NAME.fullmatch(topology)
        if not match or not match[1]:
            return {"JAX_PLATFORMS": "cpu"}
        count = f"--xla_force_host_platform_device_count={match[1]}"
        flags = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
        return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}

    def request(self, topology: str) -> dict[str, Any]:
        return {}
