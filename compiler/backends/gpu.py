"""XLA:GPU through JAX's CUDA plugin, which compiles for chips that are not there."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compiler.backends.errors import CompilerError

_CONFIGS = Path(__file__).parent / "gpu_targets"


class GpuBackend:
    """Topology names are those of the target configurations in `gpu_targets/`: `h100`."""

    name = "gpu"
    platform = "cuda"
    dumps: Mapping[str, str] = MappingProxyType(
        {
            "before_optimizations.hlo.pb": "before_optimizations.hlo.pb",
            "gpu_after_optimizations.hlo.pb": "compiled.hlo.pb",
        }
    )
    required = ("before_optimizations.hlo.pb", "compiled.hlo.pb")

    def owns(self, topology: str) -> bool:
        return (_CONFIGS / f"{topology}.txtpb").is_file()

    def version(self) -> str:
        try:
            return f"jax-cuda12-pjrt {version('jax-cuda12-pjrt')}"
        except PackageNotFoundError:
            raise CompilerError(
                "not-installed",
                "the CUDA plugin is not installed: pip install 'schedule-zero[gpu]'",
            ) from None

    def environment(self, topology: str) -> dict[str, str]:
        return {"JAX_PLATFORMS": "cpu"}

    def request(self, topology: str) -> dict[str, Any]:
        return {"target_config": (_CONFIGS / f"{topology}.txtpb").read_text()}
