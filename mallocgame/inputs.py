"""Finds what a dump holds: the scheduled program, the compiler's own result, the source."""

import dataclasses
import gzip
import re
from pathlib import Path

from compiler.backends import readback
from compiler.cost.instruction import instruction_costs
from compiler.cost.model import CostModel, Observation, analytic, calibrated, fit
from compiler.hlo import InputError, Program, build, load
from compiler.targets import TARGETS, Target
from mallocgame.accesses import list_accesses
from solvers.command import Exit, Failure

_SUFFIX = r"\.hlo\.pb(\.gz)?$"
# What the game is played on: scheduled, memory spaces not yet assigned. First match wins.
_SCHEDULED = (
    "after_optimizations_before_buffer_assignment",
    "scheduled",
    "after_optimizations",
)
_COMPILED = ("after_codegen", "compiled")
_SOURCE = ("before_optimizations",)
_VARIANTS = {
    "VIPERFISH": "tpu-v5p",
    "VIPERFISH lite": "tpu-v5e",
    "GHOSTLITE": "tpu-v6e",
}
_VARIANTS |= {"PUFFERFISH": "tpu-v4"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """A program to be mapped, with what else the dump has of it.

    Attributes:
        path: the file that was read.
        program: scheduled.
        compiled: the compiler's final module of the same program, costs and memory spaces in
            place, or None.
        source: dump of the program as the user wrote it, for recompiling, or None.
        target_name: the chip that the dump was made for, or None.
        notes: what a person should know of the choice.
    """

    path: Path
    program: Program
    compiled: Program | None
    source: Path | None
    target_name: str | None
    notes: tuple[str, ...]


def read(path: Path) -> Input:
    """Reads a dump file, or chooses the right one in a dump folder.

    Raises:
        Failure: status 3 or 4: nothing there that could be read, or nothing to be placed.
        InputError: the file is not a scheduled HLO module.
    """
    notes = []
    if path.is_dir():
        chosen, others = _choose(path)
        notes.append(
            f"read {chosen.name}" + (f" (of {others + 1} modules)" if others else "")
        )
        path = chosen
    program = build(load(path))
    _check(program, path)
    sibling = _sibling(path, _COMPILED)
    compiled = None
    if sibling is not None and sibling != path:
        try:
            compiled = build(load(sibling))
        except InputError as error:
            notes.append(f"{sibling.name} is of no use ({error}); costs go by counts")
    source = _sibling(path, _SOURCE)
    return Input(
        path=path,
        program=program,
        compiled=compiled,
        source=source,
        target_name=_target_name(path),
        notes=tuple(notes),
    )


def _check(program: Program, path: Path) -> None:
    """Refuses programs that there is no game for.

    An empty array among others needs no place, and that is all; one must be left that does.

    Raises:
        Failure: status 4.
    """
    for buffer in program.buffers:
        sizes = {value.size for value in buffer.values}
        if len(sizes) > 1:
            names = sorted({value.name for value in buffer.values})
            raise Failure(
                "shapes_contradict",
                f"{path}: {', '.join(names[:3])} share one buffer and have "
                f"different sizes: {', '.join(map(str, sorted(sizes)))} bytes",
                Exit.INVALID,
            )
    if not list_accesses(program):
        raise Failure(
            "nothing_to_place",
            f"{path}: no array of module {program.name} could be in fast memory "
            "(scalars, tuples and empty arrays need no place)",
            Exit.INVALID,
        )


def cost_model(given: Input, target: Target) -> CostModel:
    """Returns the program's costs: the compiler's own where the dump has them."""
    counts = instruction_costs(given.program)
    if given.compiled is None:
        return calibrated(counts, target)
    observations = observe(given.program, given.compiled, target)
    return fit(analytic(counts, target), observations)


def observe(program: Program, compiled: Program, target: Target) -> list[Observation]:
    """Returns the compiler's estimates in a compiled module of the same program."""
    from compiler.cost.judge import placements  # Reading alone does without JAX.

    cycles = readback.cycles(compiled.module)
    placed = placements(compiled)
    times = program.times
    return [
        Observation(times[i.name], placed[i.time], cycles[i.name] / target.clock_hz)
        for i in compiled.instructions
        if i.name in times and i.name in cycles
    ]


def is_dump(folder: Path) -> bool:
    """Returns whether a folder holds a scheduled module itself."""
    pattern = re.compile(rf"(^|\.)(gpu_|cpu_)?({'|'.join(_SCHEDULED)}){_SUFFIX}")
    return any(pattern.search(e.name) for e in folder.iterdir() if e.is_file())


def module_file(path: Path) -> Path:
    """Returns the file of the module that `read` would read.

    Raises:
        Failure: status 3: a folder without one.
    """
    return _choose(path)[0] if path.is_dir() else path


def _choose(folder: Path) -> tuple[Path, int]:
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    for stem in _SCHEDULED:
        found = [f for f in files if re.search(rf"(^|\.){stem}{_SUFFIX}", f.name)]
        if found:
            # The module with most in it is the one that the user means.
            best = max(found, key=lambda f: (f.stat().st_size, f.name))
            return best, len(found) - 1
    raise Failure(
        "no_dump",
        f"{folder} holds no scheduled module "
        "(*.after_optimizations_before_buffer_assignment.hlo.pb); make one with "
        "XLA_FLAGS='--xla_dump_to=DIR --xla_dump_hlo_as_proto'",
        Exit.NOT_FOUND,
    )


def _sibling(path: Path, stems: tuple[str, ...]) -> Path | None:
    """The file of the same module at another stage."""
    for own in _SCHEDULED:
        match = re.search(rf"(^|\.)({own}){_SUFFIX}", path.name)
        if match:
            for stem in stems:
                for suffix in (".hlo.pb", ".hlo.pb.gz"):
                    other = path.with_name(path.name[: match.start(2)] + stem + suffix)
                    if other.is_file():
                        return other
            return None
    return None


def _target_name(path: Path) -> str | None:
    """The chip by the dump's target_arguments.txt."""
    match = re.search(rf"({'|'.join(_SCHEDULED)}){_SUFFIX}", path.name)
    if match is None:
        return None
    for suffix in ("", ".gz"):
        file = path.with_name(
            path.name[: match.start()] + "target_arguments.txt" + suffix
        )
        if file.is_file():
            data = file.read_bytes()
            text = (gzip.decompress(data) if suffix else data).decode(
                "utf-8", "replace"
            )
            version = re.search(r"TPU_VERSION_(\w+)", text)
            lite = " lite" if re.search(r'variant: "lite"', text) else ""
            name = _VARIANTS.get((version.group(1) if version else "") + lite)
            return name if name in TARGETS else None
    return None
