"""Every private name of jax and jaxlib that this package needs, in one place.

All were seen to work with jax 0.10.2. A release that moves one makes `check` raise an error that names it; nothing else
in the package imports a private name.
"""

import importlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from compiler.backends.errors import CompilerError

OLDEST = (0, 10, 2)
_NAMES = {
    "jaxlib._jax": (
        "CompileOptions",
        "DeviceAssignment",
        "DeviceList",
        "mlir.xla_computation_to_mlir_module",
    ),
    "jax._src.lib": ("xla_client.XlaComputation",),
    "jax._src.interpreters.mlir": ("make_ir_context",),
    "jaxlib.mlir.ir": ("Module.parse",),
}


def check() -> None:
    """Raises `CompilerError` ("unsupported-version") if a name that is needed is not there."""
    found = version("jaxlib")
    if tuple(map(int, re.findall(r"\d+", found)[:3])) < OLDEST:
        raise CompilerError(
            "unsupported-version", f"jaxlib {found} is older than {OLDEST}"
        )
    for module in _NAMES:
        for name in _NAMES[module]:
            _private(module, name)


def _private(module: str, name: str) -> Any:
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        found = version("jaxlib")
        raise CompilerError(
            "unsupported-version",
            f"jaxlib {found} has no {module}.{name}; this version of the toolkit was made for 0.10.2",
        ) from error
    return value


def lower(
    fn: Callable[..., Any],
    args: Sequence[Any],
    jit_kwargs: Mapping[str, Any],
    platform: str,
) -> bytes:
    """Returns the StableHLO bytecode of a function for a platform that need not be there.

    Debug locations are kept: XLA names parameters after them, so the names equal those of the user's own `jit`.
    """
    import jax

    jitted = (
        fn if hasattr(fn, "trace") and not jit_kwargs else jax.jit(fn, **jit_kwargs)
    )
    traced: Any = jitted.trace(*args)
    module = traced.lower(lowering_platforms=(platform,)).compiler_ir("stablehlo")
    out = io.BytesIO()
    module.operation.write_bytecode(out)
    return out.getvalue()


def parse_stablehlo(data: bytes) -> Any:
    """Returns an MLIR module in a context of its own."""
    with _private("jax._src.interpreters.mlir", "make_ir_context")():
        return _private("jaxlib.mlir.ir", "Module.parse")(data)


def parse_hlo(module: bytes) -> Any:
    """Returns the MLIR module of a serialized `HloModuleProto` (not the `HloProto` around it)."""
    computation = _private("jax._src.lib", "xla_client.XlaComputation")(module)
    text = _private("jaxlib._jax", "mlir.xla_computation_to_mlir_module")(computation)
    return parse_stablehlo(text)


def hlo_text(module: bytes) -> str:
    """Returns the text of a serialized `HloModuleProto`, memory spaces included."""
    computation = _private("jax._src.lib", "xla_client.XlaComputation")(module)
    text: str = computation.get_hlo_module().to_string()
    return text


def compile_module(
    module: Any, devices: Sequence[Any], options: Mapping[str, Any], partitions: int
) -> Any:
    """Compiles an MLIR module for the first `partitions` devices; returns the executable.

    A client of devices that are not there compiles only; that of real ones (the CPU) has no compile without a load.
    """
    settings = _compile_options(partitions)
    settings.env_option_overrides = list(options.items())
    chosen = _private("jaxlib._jax", "DeviceList")(tuple(devices[:partitions]))
    client = devices[0].client
    if getattr(devices[0], "platform", "") == "cpu":
        return client.compile_and_load(module, chosen, settings)
    return client.compile(module, chosen, settings)


def _compile_options(partitions: int) -> Any:
    import numpy as np

    settings = _private("jaxlib._jax", "CompileOptions")()
    build = settings.executable_build_options
    build.num_replicas = 1
    build.num_partitions = partitions
    build.use_spmd_partitioning = partitions > 1
    ids = np.arange(partitions, dtype=np.int32).reshape(1, partitions)
    assignment = _private("jaxlib._jax", "DeviceAssignment").create(ids)
    settings.device_assignment = assignment
    build.device_assignment = assignment
    return settings


def load_module(module: Any, device: Any, options: Mapping[str, Any]) -> Any:
    """Compiles an MLIR module for one device that is there; returns what `execute` takes."""
    settings = _compile_options(1)
    settings.env_option_overrides = list(options.items())
    chosen = _private("jaxlib._jax", "DeviceList")((device,))
    return device.client.compile_and_load(module, chosen, settings)


def execute(executable: Any, arrays: Sequence[Any]) -> list[Any]:
    """Starts one run on arrays of its device; returns the results, which may not be there yet."""
    results = executable.execute_sharded(list(arrays))
    return [shards[0] for shards in results.disassemble_into_single_device_arrays()]


def final_module(executable: Any) -> bytes:
    """Returns the serialized `HloModuleProto` of an executable."""
    data: bytes = executable.hlo_modules()[0].as_serialized_hlo_module_proto()
    return data


def memory_stats(executable: Any) -> dict[str, int]:
    """Returns the compiler's memory statistics in bytes, by name without `_in_bytes`."""
    stats = executable.get_compiled_memory_stats()
    found: dict[str, int] = {}
    for name in dir(stats):
        value = getattr(stats, name)
        if not name.startswith("_") and isinstance(value, int):
            found[name.removesuffix("_in_bytes").removesuffix("_size")] = value
    return found
