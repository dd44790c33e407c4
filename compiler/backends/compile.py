"""Compile a function or a dump for named chips, in a child process, through the cache."""

import atexit
import contextlib
import json
import math
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compiler.backends import cache as caching
from compiler.backends import jaxlib_adapter
from compiler.backends.base import (
    Backend,
    Compiled,
    MemoryStats,
    Source,
    pack,
    read_result,
)
from compiler.backends.cpu import CpuBackend
from compiler.backends.errors import CompilerError
from compiler.backends.gpu import GpuBackend
from compiler.backends.process import Worker
from compiler.backends.tpu import TpuBackend
from compiler.backends.wire import module_bytes, unzip

TIMEOUT = 600.0  # Seconds that one compile may take.

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (CpuBackend(), GpuBackend(), TpuBackend())
}
_BEFORE = "before_optimizations.hlo.pb"
_LOWERED = "stablehlo.mlirbc"
_workers: dict[tuple[tuple[str, str], ...], Worker] = {}
_workers_lock = threading.Lock()


def backend_of(topology: str) -> Backend:
    """Returns the backend that a topology name belongs to.

    Raises:
        CompilerError: "unknown-topology".
    """
    for backend in BACKENDS.values():
        if backend.owns(topology):
            return backend
    raise CompilerError(
        "unknown-topology",
        f"no topology {topology!r}; examples: v5e:1x1, v6e:1x1, v5p:2x2x1 (TPU), h100 (GPU), cpu",
    )


def from_function(
    fn: Callable[..., Any], *args: Any, topology: str, **jit_kwargs: Any
) -> Source:
    """Returns the source of a function, lowered here without the device.

    Args:
        fn: a function, or what `jax.jit` made of one (then without `jit_kwargs`).
        *args: arrays or `jax.ShapeDtypeStruct`s.
        topology: chips to lower for.
        **jit_kwargs: as for `jax.jit`, such as `donate_argnums`.

    For several devices give the arguments shardings on a mesh from `backends.mesh`. Which devices these are is the
    compile's business: see `Source.torus` (`source._replace(torus=(1, 0))` lays the second mesh axis along the first
    axis of the torus).
    """
    jaxlib_adapter.check()
    platform = backend_of(topology).platform
    return _lowered_source(jaxlib_adapter.lower(fn, args, jit_kwargs, platform))


@contextlib.contextmanager
def without_locations() -> Iterator[None]:
    """Keeps the lines of Python that led to a program out of it, so that the cache knows it again whoever asks."""
    import jax

    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _lowered_source(data: bytes) -> Source:
    """Returns the source in StableHLO bytecode, which says itself for how many devices it is."""
    mesh = jaxlib_adapter.device_mesh(jaxlib_adapter.parse_stablehlo(data))
    return Source("stablehlo", data, math.prod(mesh), mesh)


def from_dump(path: Path | str) -> Source:
    """Returns the source in a dump: a `before_optimizations.hlo.pb` (or `.gz`), or the folder that holds it.

    Where `dump` left what it compiled beside it, that is taken. Without it the program is taken to be for one device;
    give a program for several as `Source("hlo", data, partitions, mesh)`.

    Raises:
        CompilerError: "invalid-module".
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(
            f for f in path.iterdir() if f.name.endswith((_BEFORE, f"{_BEFORE}.gz"))
        )
        if len(found) != 1:
            raise CompilerError(
                "invalid-module",
                f"{path}: {len(found)} files named *{_BEFORE}, expected one",
            )
        path = found[0]
    lowered = _lowered(path)
    if lowered.is_file():
        return _lowered_source(unzip(lowered.read_bytes()))
    try:
        return Source("hlo", module_bytes(path.read_bytes()))
    except CompilerError as error:
        raise CompilerError(error.reason, f"{path}: {error}") from None


def _lowered(before: Path) -> Path:
    """Returns where `dump` puts what it compiled, beside a `before_optimizations` file.

    XLA takes some programs apart a little differently when they come from that file.
    """
    stem, found, ending = before.name.partition(_BEFORE)
    return before.with_name(f"{stem}{_LOWERED}{ending}") if found else before / _LOWERED


def compile_source(
    source: Source,
    topology: str,
    options: Mapping[str, Any] | None = None,
    *,
    timeout: float = TIMEOUT,
    cache: caching.Cache | None = None,
) -> Compiled:
    """Compiles a program, or finds the result of an earlier compile.

    Args:
        source: from `from_function` or `from_dump`.
        topology: `v5e:1x1`, ..., `h100`, `cpu`.
        options: compile options as for `jax.jit(..., compiler_options=...)`.
        timeout: seconds.
        cache: where results are kept; None is the user's cache folder.

    Raises:
        CompilerError: see its `reason`.
    """
    jaxlib_adapter.check()
    backend = backend_of(topology)
    cache = cache or caching.Cache()
    values = {name: _option(value) for name, value in sorted((options or {}).items())}
    entry = {
        "backend": backend.name,
        "topology": topology,
        "options": values,
        "version": backend.version(),
        "jaxlib": version("jaxlib"),
        "kind": source.kind,
        "partitions": source.partitions,
    }
    if source.mesh:
        entry["mesh"] = list(source.mesh)
    if source.torus:
        entry["torus"] = list(source.torus)
    extra = backend.request(topology)
    key = caching.key(source.data, {**entry, **extra})
    if folder := cache.get(key):
        return read_result(folder, is_cached=True)
    environment = backend.environment(topology)
    with tempfile.TemporaryDirectory(prefix="schedule-zero-") as scratch:
        (Path(scratch) / "module.bin").write_bytes(source.data)
        request = {
            **extra,
            "folder": scratch,
            "platform": backend.platform,
            "topology": topology,
            "kind": source.kind,
            "options": values,
            "partitions": source.partitions,
            "mesh": source.mesh,
            "torus": source.torus,
        }
        answer = _worker(environment).ask(request, timeout)
        files = _collect(Path(scratch), backend)
    stats = {k: v for k, v in answer["memory"].items() if k in MemoryStats._fields}
    entry |= {"memory": stats, "seconds": answer["seconds"]}
    if answer["coordinates"]:
        entry["coordinates"] = answer["coordinates"]
    files["result.json"] = json.dumps(entry, indent=1, sort_keys=True).encode()
    return read_result(cache.put(key, files), is_cached=False)


def dump(
    fn: Callable[..., Any],
    *args: Any,
    topology: str = "v5e:1x1",
    out: Path | str,
    compiler_options: Mapping[str, Any] | None = None,
    gz: bool = False,
    cache: caching.Cache | None = None,
    **jit_kwargs: Any,
) -> Compiled:
    """Compiles a function and writes its dump folder, with XLA's own file names.

    `out` gets `NAME.before_optimizations.hlo.pb`, the scheduled and the final module, and (TPU) the tables of
    memory-space assignment: what `python -m mallocgame.search OUT` reads. Existing files of these names are replaced.

    Args:
        fn: a function, or what `jax.jit` made of one.
        *args: arrays or `jax.ShapeDtypeStruct`s.
        topology: the chips.
        out: folder, made if needed.
        compiler_options: as for `jax.jit`.
        gz: whether to gzip the files; the names then end in `.gz`, which every reader here takes.
        cache: as for `compile_source`.
        **jit_kwargs: as for `jax.jit`, such as `donate_argnums`.
    """
    source = from_function(fn, *args, topology=topology, **jit_kwargs)
    compiled = compile_source(source, topology, compiler_options, cache=cache)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"module_0000.{compiled.module.name}"
    files = {
        f"{stem}.{ending}": f"{name}.gz"
        for ending, name in backend_of(topology).dumps.items()
    }
    for table, path in compiled.tables.items():
        files[f"{stem}.memory-space-assignment-{table}.txt"] = path.name
    for target, kept in files.items():
        if (compiled.folder / kept).exists():
            _put(folder / target, (compiled.folder / kept).read_bytes(), gz)
    if source.kind == "stablehlo":
        _put(folder / f"{stem}.{_LOWERED}", source.data, gz)
    return compiled


def _put(path: Path, data: bytes, gz: bool) -> None:
    """Writes a file of a dump; `data` may be gzipped or not."""
    if gz:
        path.with_name(f"{path.name}.gz").write_bytes(pack(data))
    else:
        path.write_bytes(unzip(data))


def close() -> None:
    """Stops all warm workers; the next compile starts new ones."""
    with _workers_lock:
        for worker in _workers.values():
            worker.close()
        _workers.clear()


atexit.register(close)


def _worker(environment: dict[str, str]) -> Worker:
    with _workers_lock:
        key = tuple(sorted(environment.items()))
        return _workers.setdefault(key, Worker(environment))


def _option(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _collect(scratch: Path, backend: Backend) -> dict[str, bytes]:
    """Returns the files to keep of what a compile left, gzipped, by name."""
    files: dict[str, bytes] = {}
    dumped = sorted((scratch / "dump").iterdir()) if (scratch / "dump").is_dir() else []
    for ending, name in backend.dumps.items():
        found = [
            file for file in dumped if file.name.endswith((f".{ending}", f"_{ending}"))
        ]
        if found:  # The program itself is the largest; helpers of a few instructions may be dumped too.
            largest = max(found, key=lambda file: file.stat().st_size)
            files[f"{name}.gz"] = pack(largest.read_bytes())
    missing = [name for name in backend.required if f"{name}.gz" not in files]
    if missing:
        raise CompilerError(
            "failed",
            f"{backend.version()} left no {', '.join(missing)}: its dumps look different",
        )
    for table in ("bufferinfo", "allocinfo", "scheduleinfo"):
        tables = list((scratch / "tables").glob(f"*-{table}.txt"))
        if tables:
            largest = max(tables, key=lambda file: file.stat().st_size)
            files[f"{table}.csv.gz"] = pack(largest.read_bytes())
    return files
