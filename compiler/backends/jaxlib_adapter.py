"""Every private name of jax and jaxlib that this package needs, in one place.

All were seen to work with jax 0.10.2. A release that moves one makes `check` raise an error that names it; nothing else
in the package imports a private name.
"""

import importlib
import io
import math
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
    "jaxlib.mlir.dialects.sdy": ("MeshAttr", "MeshAxisAttr"),
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


def device_mesh(module: Any) -> tuple[int, ...]:
    """Returns the axis sizes of the mesh that a lowered MLIR module is for, `()` for one device.

    Raises:
        ValueError: it was lowered on several meshes of different shapes.
    """
    attributes = module.operation.attributes
    name = "mhlo.num_partitions"
    partitions = attributes[name].value if name in attributes else 1
    if partitions == 1:
        return ()
    mesh_of = _private("jaxlib.mlir.dialects.sdy", "MeshAttr")
    axis_of = _private("jaxlib.mlir.dialects.sdy", "MeshAxisAttr")
    found = {
        tuple(axis_of(axis).size for axis in mesh_of(op.attributes["mesh"]).axes)
        for op in module.body.operations
        if op.operation.name == "sdy.mesh"
    }
    found = {sizes for sizes in found if math.prod(sizes) == partitions}
    if len(found) > 1:
        raise ValueError(f"the function uses meshes of several shapes: {sorted(found)}")
    return found.pop() if found else (partitions,)


def _may_choose(module: Any, which: str) -> list[bool]:
    """Returns for each argument or result of the program whether the partitioner may choose its sharding.

    Args:
        module: a lowered MLIR module.
        which: `"arg_attrs"` or `"res_attrs"`.
    """
    main = next(
        op
        for op in module.body.operations
        if op.operation.name == "func.func"
        and op.attributes["sym_name"].value == "main"
    )
    names = ("sdy.sharding", "mhlo.sharding")
    if which not in main.attributes:
        kind = main.attributes["function_type"].value
        return [True] * len(kind.inputs if which == "arg_attrs" else kind.results)
    given = [
        [str(marks[name]) for name in names if name in marks]
        for marks in main.attributes[which]
    ]
    return [not texts or "?" in texts[0] for texts in given]


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
    module: Any, devices: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """Compiles an MLIR module for devices, partition by partition; returns the executable.

    A client of devices that are not there compiles only; that of real ones (the CPU) has no compile without a load.
    """
    settings = _compile_options(module, devices)
    settings.env_option_overrides = list(options.items())
    chosen = _private("jaxlib._jax", "DeviceList")(tuple(devices))
    client = devices[0].client
    if getattr(devices[0], "platform", "") == "cpu":
        return client.compile_and_load(module, chosen, settings)
    return client.compile(module, chosen, settings)


def _compile_options(module: Any, devices: Sequence[Any]) -> Any:
    import numpy as np

    partitions = len(devices)
    settings = _private("jaxlib._jax", "CompileOptions")()
    build = settings.executable_build_options
    build.num_replicas = 1
    build.num_partitions = partitions
    build.use_spmd_partitioning = partitions > 1
    ids = np.zeros((1, 1), np.int32)
    if partitions > 1:  # As `jax.jit` sets them.
        build.use_shardy_partitioner = True
        build.allow_spmd_sharding_propagation_to_parameters = _may_choose(
            module, "arg_attrs"
        )
        build.allow_spmd_sharding_propagation_to_output = _may_choose(
            module, "res_attrs"
        )
        ids = np.array([[device.id for device in devices]], np.int32)
    assignment = _private("jaxlib._jax", "DeviceAssignment").create(ids)
    settings.device_assignment = assignment
    build.device_assignment = assignment
    return settings


def load_module(module: Any, device: Any, options: Mapping[str, Any]) -> Any:
    """Compiles an MLIR module for one device that is there; returns what `execute` takes."""
    settings = _compile_options(module, [device])
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
    """Returns the compiler's memory statistics in bytes, by name, such as `argument` or `peak`."""
    stats = executable.get_compiled_memory_stats()
    found: dict[str, int] = {}
    for name in dir(stats):
        value = getattr(stats, name)
        if not name.startswith("_") and isinstance(value, int):
            short = name.removesuffix("_in_bytes").removesuffix("_size")
            found[short.removesuffix("_memory")] = value
    return found
