"""libtpu, which compiles for chips that are not there."""

import atexit
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compiler.backends.errors import CompilerError
from compiler.backends.worker import TABLES_ENVIRONMENT

# Any type of the right generation will do: libtpu only asks that there is one.
_ACCELERATORS = {
    "v2": "v2-8",
    "v3": "v3-8",
    "v4": "v4-8",
    "v5e": "v5litepod-4",
    "v5p": "v5p-8",
    "v6e": "v6e-4",
    "tpu7x": "tpu7x-8",
}
_NAME = re.compile(r"([a-z0-9]+):[0-9]+(x[0-9]+)*(_twisted|_untwisted)?")


class TpuBackend:
    """Topology names are libtpu's: `v5e:1x1`, `v5e:2x2`, `v5p:2x2x1`, `v6e:1x1`, `v4:2x2x1`, `tpu7x:2x2x1`, ..."""

    name = "tpu"
    platform = "tpu"
    dumps: Mapping[str, str] = MappingProxyType(
        {
            "before_optimizations.hlo.pb": "before_optimizations.hlo.pb",
            "after_optimizations_before_buffer_assignment.hlo.pb": "scheduled.hlo.pb",
            "after_codegen.hlo.pb": "compiled.hlo.pb",
            "target_arguments.txt": "target_arguments.txt",
            "tpu_comp_env.txt": "settings.txt",
        }
    )
    required = ("before_optimizations.hlo.pb", "scheduled.hlo.pb", "compiled.hlo.pb")

    def __init__(self) -> None:
        self._tables: Path | None = None  # Made when first needed, gone at exit.

    def owns(self, topology: str) -> bool:
        return topology.partition(":")[0] in _ACCELERATORS or ":" in topology

    def version(self) -> str:
        try:
            return f"libtpu {version('libtpu')}"
        except PackageNotFoundError:
            raise CompilerError(
                "not-installed",
                "libtpu is not installed: pip install 'schedule-zero[tpu]'",
            ) from None

    def environment(self, topology: str) -> dict[str, str]:
        match = _NAME.fullmatch(topology)
        if not match or match[1] not in _ACCELERATORS:
            known = ", ".join(f"{name}:..." for name in _ACCELERATORS)
            raise CompilerError(
                "unknown-topology",
                f"no TPU topology {topology!r}; names look like v5e:1x1 or v5p:2x2x1 ({known})",
            )
        if self._tables is None:
            self._tables = Path(tempfile.mkdtemp(prefix="schedule-zero-tables-"))
            atexit.register(shutil.rmtree, self._tables, ignore_errors=True)
        tables = self._tables / match[1]
        tables.mkdir(parents=True, exist_ok=True)
        return {
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "JAX_PLATFORMS": "cpu",
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={tables} "
            "--xla_jf_dump_llo_pass_label_regex=memory-space-assignment.*",
            "TPU_ACCELERATOR_TYPE": _ACCELERATORS[match[1]],
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            TABLES_ENVIRONMENT: str(tables),
        }

    def request(self, topology: str) -> dict[str, Any]:
        return {
            "text": True
        }  # Else the chip and the settings are written as binary protos of unknown schema.
