"""The production compilers, run in child processes without an accelerator.

source = backends.from_dump("dump/")              # or from_function(fn, *args, topology="v5e:1x1")
compiled = backends.compile_source(source, "v5e:1x1", {"xla_tpu_msa_tensor_overrides": text})
sum(compiled.cycles.values())

mesh = backends.mesh("v5e:2x4", (2, 4), ("x", "y"))  # Arguments with shardings on it: a program for all eight.
"""

from compiler.backends.base import Backend, Compiled, MemoryStats, Source
from compiler.backends.cache import Cache
from compiler.backends.compile import (
    BACKENDS,
    backend_of,
    close,
    compile_source,
    dump,
    from_dump,
    from_function,
    without_locations,
)
from compiler.backends.errors import CompilerError, Reason, Shortage
from compiler.backends.meshes import mesh
from compiler.backends.readback import Copy
from compiler.backends.repair import Applied, apply

__all__ = [
    "BACKENDS",
    "Applied",
    "Backend",
    "Cache",
    "Compiled",
    "CompilerError",
    "Copy",
    "MemoryStats",
    "Reason",
    "Shortage",
    "Source",
    "apply",
    "backend_of",
    "close",
    "compile_source",
    "dump",
    "from_dump",
    "from_function",
    "mesh",
    "without_locations",
]
