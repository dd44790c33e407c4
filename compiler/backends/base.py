"""What all backends have in common: the program to compile, what a backend is, and what comes back."""

import functools
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from compiler import hlo
from compiler.backends import jaxlib_adapter, readback
from compiler.backends.wire import module_bytes, unzip

Kind = Literal["stablehlo", "hlo"]


class Source(NamedTuple):
    """A program to compile.

    Attributes:
        kind: what `data` is: StableHLO bytecode, or a serialized `HloModuleProto`.
        data: the bytes; the cache goes by them.
        partitions: devices that it runs on.
        mesh: axis sizes of the mesh of these devices, in the mesh's order; empty for one device.
        torus: for each mesh axis the axis of the chips' torus that it runs along; empty: the order of JAX's
            `create_device_mesh`, which makes rings of neighbours and may bend an axis.
    """

    kind: Kind
    data: bytes
    partitions: int = 1
    mesh: tuple[int, ...] = ()
    torus: tuple[int, ...] = ()


class Backend(Protocol):
    """One production compiler.

    Attributes:
        name: `"tpu"`, `"gpu"` or `"cpu"`.
        platform: JAX's name of it for lowering.
        dumps: ending of a file that the compiler dumps -> its name in a result's folder, without `.gz`.
        required: which of these a compile must have left.
    """

    @property
    def name(self) -> str: ...

    @property
    def platform(self) -> str: ...

    @property
    def dumps(self) -> Mapping[str, str]: ...

    @property
    def required(self) -> tuple[str, ...]: ...

    def owns(self, topology: str) -> bool:
        """Returns whether a topology name is of this backend's form."""
        ...

    def version(self) -> str:
        """Returns the compiler and its version.

        Raises:
            CompilerError: "not-installed", naming the extra.
        """
        ...

    def environment(self, topology: str) -> dict[str, str]:
        """Returns the variables that the child process needs."""
        ...

    def request(self, topology: str) -> dict[str, Any]:
        """Returns what to add to the worker's request."""
        ...


class MemoryStats(NamedTuple):
    """The compiler's own figures for the slow memory (HBM; on a CPU, RAM), in bytes."""

    argument: int
    output: int
    alias: int
    temp: int
    generated_code: int
    peak: int | None = None

    @property
    def total(self) -> int:
        """Arguments, results and temporaries, counting shared memory once."""
        return self.argument + self.output - self.alias + self.temp


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """One compiled program, in a folder of the cache (do not write there).

    Attributes:
        key: digest of the module, topology, options and versions.
        backend: name of the backend.
        topology: name of the chips.
        options: compile options, without those of dumping.
        version: compiler and version, such as `"libtpu 0.0.52"`.
        folder: holds the files named below.
        memory: the compiler's memory statistics.
        seconds: what the compile took when it was made.
        is_cached: whether it was found in the cache.
        coordinates: where each partition's device sits: its chip on each axis of the torus, then its core on the
            chip; empty for one partition, and where devices have no coordinates.
    """

    key: str
    backend: str
    topology: str
    options: Mapping[str, str]
    version: str
    folder: Path
    memory: MemoryStats
    seconds: float
    is_cached: bool
    coordinates: tuple[tuple[int, ...], ...] = ()

    @property
    def before(self) -> Path:
        """The program as the user wrote it (`before_optimizations`)."""
        return self.folder / "before_optimizations.hlo.pb.gz"

    @property
    def scheduled(self) -> Path:
        """The module with its schedule, before memory spaces are assigned (TPU; elsewhere the final module)."""
        path = self.folder / "scheduled.hlo.pb.gz"
        return path if path.exists() else self.final

    @property
    def final(self) -> Path:
        """The final module: memory spaces, copies, costs."""
        return self.folder / "compiled.hlo.pb.gz"

    @property
    def tables(self) -> dict[str, Path]:
        """Memory-space assignment's own tables by name: bufferinfo, allocinfo, scheduleinfo (TPU only)."""
        return {
            file.name.partition(".")[0]: file
            for file in sorted(self.folder.glob("*.csv.gz"))
        }

    def settings(self) -> dict[str, str]:
        """Returns every compiler setting that was in force (TPU); nested messages as text."""
        path = self.folder / "settings.txt.gz"
        return (
            readback.settings(unzip(path.read_bytes()).decode())
            if path.exists()
            else {}
        )

    @functools.cached_property
    def module(self) -> hlo.Module:
        """The final module."""
        return hlo.load(self.final)

    @functools.cached_property
    def scheduled_module(self) -> hlo.Module:
        """The module of `scheduled`."""
        return hlo.load(self.scheduled)

    def text(self) -> str:
        """Returns the final module as HLO text."""
        return jaxlib_adapter.hlo_text(module_bytes(self.final.read_bytes()))

    def buffer_assignment(self) -> bytes:
        """Returns the final module's whole `HloProto` with the buffer assignment, where the backend dumps one."""
        path = self.folder / "assigned.hlo.pb.gz"
        return unzip((path if path.exists() else self.final).read_bytes())

    @functools.cached_property
    def schedule(self) -> tuple[str, ...]:
        """Names of the final module's instructions in the order of XLA's logical times, loops once."""
        return readback.schedule(self.module)

    @functools.cached_property
    def cycles(self) -> dict[str, int]:
        """The compiler's estimated cycles by instruction, for one run of each."""
        return readback.cycles(self.module)

    @functools.cached_property
    def copies(self) -> tuple[readback.Copy, ...]:
        """Asynchronous copies between memories in order of their start."""
        return readback.copies(self.module)

    @functools.cached_property
    def memory_spaces(self) -> dict[tuple[str, hlo.ShapeIndex], int]:
        """Memory space by instruction and shape index, where it is not the default memory."""
        return readback.memory_spaces(self.module)


def read_result(folder: Path, *, is_cached: bool) -> Compiled:
    """Returns the result in a folder of the cache."""
    entry = json.loads((folder / "result.json").read_text())
    return Compiled(
        key=folder.name,
        backend=entry["backend"],
        topology=entry["topology"],
        options=entry["options"],
        version=entry["version"],
        folder=folder,
        memory=MemoryStats(**entry["memory"]),
        seconds=entry["seconds"],
        is_cached=is_cached,
        coordinates=tuple(map(tuple, entry.get("coordinates", ()))),
    )


def pack(data: bytes) -> bytes:
    """Returns gzip data that depends on nothing but the content."""
    return data if data.startswith(b"\x1f\x8b") else gzip.compress(data, 6, mtime=0)
