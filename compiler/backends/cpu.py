"""XLA:CPU, which comes with jax: its buffer assignment is a packing of offsets to compare with."""

from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Any


class CpuBackend:
    """The one topology is `cpu`."""

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
        return topology == "cpu"

    def version(self) -> str:
        return f"jaxlib {version('jaxlib')} cpu"

    def environment(self, topology: str) -> dict[str, str]:
        return {"JAX_PLATFORMS": "cpu"}

    def request(self, topology: str) -> dict[str, Any]:
        return {}
