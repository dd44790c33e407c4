"""The child process in which programs run: `python -m compiler.backends.measure_worker`.

It speaks as `compiler.backends.worker` does. Request: `{"folder", "kind", "ways", "repeats", "enough", "seed"}`, where `folder`
holds `module.bin` and each of `ways` is a set of compile options. The answer: `{"ok": true, "platform", "device",
"version", "ways": [{"seconds", "left_out", "difference", "is_bitwise"}]}`.
"""

import math
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compiler.backends import jaxlib_adapter as adapter
from compiler.backends.errors import CompilerError, classify
from compiler.backends.process import PARENT_ENVIRONMENT
from compiler.backends.timing import FEWEST_RUNS
from compiler.backends.worker import main, parse
from compiler.hlo import Shape, load

_UNKNOWN = re.compile(r"No such compile option: '([^']+)'")
_INTEGERS = (
    4  # Integer arguments lie below: indices and counts of a real program are in range.
)
_SCALE = 0.1  # Standard deviation of the others: sums of products stay finite in short types.
# Seconds of one sample; a shorter program is run so often for each, but no more than that.
_SAMPLE = 5e-3
_MOST_RUNS = 200
_WATCH = 1.0  # Seconds between two looks at whether the parent lives.
_NUMPY = {"pred": "bool", "c64": "complex64", "c128": "complex128"}
_PREFIXES = (
    (r"s(\d+)", r"int\1"),
    (r"u(\d+)", r"uint\1"),
    (r"bf16", "bfloat16"),
    (r"f(8|4)(e\w+)", r"float\1_\2"),
    (r"f(\d+)", r"float\1"),
)


class _Way(NamedTuple):
    """An executable; its arguments on the device, and which of them a run uses up; its results."""

    executable: Any
    left_out: list[str]
    arrays: list[Any]
    used_up: list[int]
    results: list[np.ndarray]
    runs: int


def dtype(element_type: str) -> np.dtype[Any]:
    """Returns NumPy's type for XLA's name of one.

    Raises:
        CompilerError: "failed": a token or an opaque handle, say.
    """
    import jax.numpy as jnp

    name = _NUMPY.get(element_type)
    for pattern, replacement in _PREFIXES:
        match = re.fullmatch(pattern, element_type)
        if match and name is None:
            name = match.expand(replacement)
    try:
        return jnp.dtype(name or element_type)
    except TypeError:
        raise CompilerError(
            "failed", f"no argument of type {element_type} can be made up"
        ) from None


def arguments(shapes: Sequence[Shape], seed: int) -> list[np.ndarray]:
    """Returns random arrays of these shapes; each depends on the seed and its place alone.

    Raises:
        CompilerError: "failed": one is no array.
    """
    made = []
    for place, shape in enumerate(shapes):
        kind = dtype(shape.element_type)
        rng = np.random.default_rng((seed, place))
        drawn: np.ndarray
        if shape.element_type == "pred":
            drawn = rng.random(shape.dimensions) < 0.5
        elif shape.element_type[0] in "su":
            # Of two bits, a signed one holds no 2.
            limit = _INTEGERS if shape.element_bits > 2 else 2
            drawn = rng.integers(0, limit, shape.dimensions)
        else:
            drawn = rng.standard_normal(shape.dimensions, np.float32) * _SCALE
            if shape.element_type == "f8e8m0fnu":  # Holds powers of two alone.
                drawn = np.abs(drawn)
        made.append(np.asarray(drawn).astype(kind))
    return made


def difference(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Returns the largest difference of two sets of results, as `measure.Timed` has it."""
    largest = 0.0
    for a, b in zip(one, other, strict=True):
        wide = np.complex128 if np.iscomplexobj(a) else np.float64
        x, y = a.astype(wide).ravel(), b.astype(wide).ravel()
        finite = np.isfinite(x)
        # What is not finite must be so on both sides, and the same.
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return math.inf
        gap = np.abs(x[finite] - y[finite])
        if not np.isfinite(gap).all():
            return math.inf
        if gap.size and gap.max() > 0:
            largest = max(largest, float(gap.max() / np.abs(x[finite]).max(initial=0)))
    return largest


def measure(request: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Answers one request."""
    import jax

    folder = Path(request["folder"])
    data = (folder / "module.bin").read_bytes()
    device = jax.local_devices()[0]
    ways: list[_Way] = []
    for options in request["ways"]:
        # Parsed anew: a compiler may work on the module that it is given.
        module = parse(request["kind"], data)
        executable, left_out = _load(module, device, dict(options))
        final = folder / "final.hlo.pb"
        final.write_bytes(adapter.final_module(executable))
        shapes = [node.shape for node in load(final).entry.parameters]
        made = arguments(shapes, request["seed"])
        ways.append(_prepare(executable, left_out, made, device))
    seconds: list[list[float]] = [[] for _ in ways]
    begun = time.monotonic()
    for sweep in range(request["repeats"]):
        if sweep >= FEWEST_RUNS and time.monotonic() - begun > request["enough"]:
            break
        order = range(len(ways))
        # There and back, so that none is always the first.
        for k in order if sweep % 2 == 0 else reversed(order):
            seconds[k].append(_sample(ways[k]))
    first = ways[0].results
    return {
        "ok": True,
        "platform": device.platform,
        "device": device.device_kind,
        "version": f"jaxlib {_version()} {device.platform}",
        "ways": [
            {
                "seconds": times,
                "left_out": way.left_out,
                "difference": difference(first, way.results),
                "is_bitwise": all(
                    a.tobytes() == b.tobytes() for a, b in zip(first, way.results)
                ),
            }
            for way, times in zip(ways, seconds)
        ],
    }


def _prepare(
    executable: Any, left_out: list[str], made: Sequence[np.ndarray], device: Any
) -> _Way:
    """Runs twice: what is used up, what comes out, how long it takes."""
    import jax

    kept = [jax.device_put(array, device) for array in made]
    arrays = _copies(kept)
    try:
        results = _finished(adapter.execute(executable, arrays))
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise CompilerError("failed", f"the program does not run: {first}") from error
    used_up = [k for k, array in enumerate(arrays) if array.is_deleted()]
    held = [np.asarray(array) for array in results]
    way = _Way(executable, left_out, kept, used_up, held, 1)
    took = _sample(way)
    runs = 1 if used_up else min(max(1, math.ceil(_SAMPLE / took)), _MOST_RUNS)
    return way._replace(runs=runs)


def _load(module: Any, device: Any, options: dict[str, str]) -> tuple[Any, list[str]]:
    left_out: list[str] = []
    while True:
        try:
            return adapter.load_module(module, device, options), left_out
        except Exception as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None or unknown[1] not in options:
                first = str(error).strip().partition("\n")[0]
                raise CompilerError(classify(str(error)), first) from error
            left_out.append(unknown[1])
            del options[unknown[1]]


def _sample(way: _Way) -> float:
    """Returns the seconds of a run."""
    arrays = list(way.arrays)
    for k in way.used_up:
        arrays[k] = _copies([arrays[k]])[0]
    begun = time.perf_counter()
    for _ in range(way.runs):
        _finished(adapter.execute(way.executable, arrays))
    return (time.perf_counter() - begun) / way.runs


def _copies(arrays: Sequence[Any]) -> list[Any]:
    """Returns arrays whose memory the program may use for anything."""
    import jax.numpy as jnp

    return _finished([jnp.array(array, copy=True) for array in arrays])


def _finished(arrays: list[Any]) -> list[Any]:
    for array in arrays:
        array.block_until_ready()
    return arrays


def _version() -> str:
    from importlib.metadata import version

    return version("jaxlib")


def _end_with(parent: int) -> None:
    """Ends this process when its parent has: nobody waits for the runs, and they may take long."""
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


if __name__ == "__main__":
    parent = int(os.environ.get(PARENT_ENVIRONMENT, os.getppid()))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    main(measure)
