"""Measures a machine's lines on the devices at hand: collectives by `shard_map`, and GEMMs.

    model = profile(jax.devices())                      # or: XLA_FLAGS=--xla_force_host_platform_device_count=8

The sizes are the paper's by default: messages of 2^18·{1..24} float32 and GEMMs of 2^19·{1..12} rows × columns, which a
cluster does in a minute. On virtual CPU devices take smaller ones, and read the result as what it is: copies in memory.
Volumes count as in `links`: what one device holds before the collective.
"""

import functools
import importlib.metadata
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from compiler.moe.performance import Kind, Line, PerformanceModel, fit

_AXIS = "ring"
MESSAGES = tuple(2**18 * n for n in range(1, 25))
GEMM_ROWS = tuple(512 * n for n in range(1, 13))
GEMM_WIDTH = 1024
REPEATS = 5

# From one device's flat message to what it holds after.
_COLLECTIVES: dict[Kind, Callable[..., Array]] = {
    "all_to_all": lambda x, n: jax.lax.all_to_all(
        x.reshape(n, -1), _AXIS, split_axis=0, concat_axis=0
    ).reshape(-1),
    "all_gather": lambda x, n: jax.lax.all_gather(x, _AXIS, tiled=True),
    "reduce_scatter": lambda x, n: jax.lax.psum_scatter(x, _AXIS, tiled=True),
    "all_reduce": lambda x, n: jax.lax.psum(x, _AXIS),
    "permute": lambda x, n: jax.lax.ppermute(
        x, _AXIS, [(i, (i + 1) % n) for i in range(n)]
    ),
}


def collective(kind: Kind, devices: Sequence[jax.Device]) -> Callable[[Array], Array]:
    """Returns a compiled collective over devices, of an array whose first axis is spread over them.

    Raises:
        ValueError: not a collective.
    """
    if kind not in _COLLECTIVES:
        raise ValueError(f"{kind!r} is none of {', '.join(_COLLECTIVES)}")
    count = len(devices)
    mesh = Mesh(np.asarray(devices), (_AXIS,))
    body = functools.partial(_COLLECTIVES[kind], n=count)
    return jax.jit(
        jax.shard_map(
            body,
            mesh=mesh,
            in_specs=PartitionSpec(_AXIS),
            # Every device's own result, equal or not.
            out_specs=PartitionSpec(_AXIS),
            check_vma=False,
        )
    )


def seconds(run: Callable[[], Array], repeats: int = REPEATS) -> float:
    """Returns the median time of a call, the first (which compiles) left out."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def _collective_line(
    kind: Kind, devices: Sequence[jax.Device], sizes: Sequence[int], repeats: int
) -> Line:
    run = collective(kind, devices)
    mesh = Mesh(np.asarray(devices), (_AXIS,))
    placement = jax.NamedSharding(mesh, PartitionSpec(_AXIS))
    times = []
    for size in sizes:
        message = jax.device_put(np.zeros(size * len(devices), np.float32), placement)
        times.append(1e3 * seconds(functools.partial(run, message), repeats))
    return fit(sizes, times)


def _gemm_line(
    device: jax.Device, rows: Sequence[int], width: int, repeats: int
) -> Line:
    multiply = jax.jit(jnp.matmul)
    weights = jax.device_put(np.ones((width, width), np.float32), device)
    times = []
    for count in rows:
        tokens = jax.device_put(np.ones((count, width), np.float32), device)
        times.append(
            1e3 * seconds(functools.partial(multiply, tokens, weights), repeats)
        )
    return fit([float(count) * width * width for count in rows], times)


def profile(
    devices: Sequence[jax.Device] | None = None,
    *,
    messages: Sequence[int] = MESSAGES,
    gemm_rows: Sequence[int] = GEMM_ROWS,
    gemm_width: int = GEMM_WIDTH,
    repeats: int = REPEATS,
) -> PerformanceModel:
    """Returns the lines of devices: milliseconds, float32 elements, multiply-adds.

    Args:
        devices: that communicate, as one ring; all by default. The first does the GEMMs.
        messages: elements that a device holds; multiples of the number of devices.
        gemm_rows: of the left factor, times a square of `gemm_width`.
        gemm_width: see there.
        repeats: per size, of which the median is taken.

    Raises:
        ValueError: fewer than two devices, or messages that they can't share.
    """
    found = list(jax.devices() if devices is None else devices)
    if len(found) < 2:
        raise ValueError(f"collectives need two devices, not {len(found)}")
    if odd := [size for size in messages if size % len(found)]:
        raise ValueError(f"{odd[0]} elements can't be shared by {len(found)} devices")
    lines: dict[Kind, Line] = {
        "gemm": _gemm_line(found[0], gemm_rows, gemm_width, repeats)
    }
    for kind in _COLLECTIVES:
        lines[kind] = _collective_line(kind, found, messages, repeats)
    return PerformanceModel(
        name=f"{len(found)} × {found[0].device_kind}",
        time_unit="ms",
        gemm_unit="multiply-adds",
        message_unit="elements",
        lines=lines,
        provenance={
            "source": "measured",
            "platform": found[0].platform,
            "versions": {
                name: importlib.metadata.version(name) for name in ("jax", "jaxlib")
            },
            "messages": list(messages),
            "gemm_rows": list(gemm_rows),
            "gemm_width": gemm_width,
            "repeats": repeats,
        },
    )
