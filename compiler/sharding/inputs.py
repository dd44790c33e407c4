"""Finds what the flags mean: the program on its machine, the limits, the plan to judge, the plans by hand."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.backends import CompilerError, backend_of
from compiler.backends.meshes import num_devices
from compiler.cost.links import of_topology
from compiler.flags import mesh_axes
from compiler.sharding import mesh, subject
from compiler.sharding import model as models
from compiler.sharding import plan as plans
from compiler.sharding.candidates import Limits
from compiler.sharding.cost import Choice
from compiler.sharding.machine import HBM_GIB
from compiler.sharding.mesh import MeshShape
from compiler.sharding.model import Model
from compiler.sharding.oracle import Judge
from compiler.sharding.plan import Plan
from compiler.sharding.subject import Subject
from solvers.command import Exit, Failure

if TYPE_CHECKING:
    from compiler.sharding.search import SearchFlags

_MIB = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """A program to be cut, and on what.

    Attributes:
        subject: the function, and what came with it.
        model: of it, on the meshes to choose from.
        limits: of memory.
        plan: to be judged, on the only mesh then; None to search one.
    """

    subject: Subject
    model: Model
    limits: Limits
    plan: Plan | None

    @property
    def digest(self) -> str:
        """Of the program."""
        return self.model.names.program.digest

    @property
    def devices(self) -> int:
        """How many there are."""
        return math.prod(self.model.meshes[0].sizes)


def read(flags: "SearchFlags") -> Input:
    """Reads all that the flags name.

    Raises:
        Failure: status 2, 3 or 4: what is not known, not there, or does not go together.
    """
    shapes = _meshes(flags)
    found = subject.load(flags.input)
    plan = None
    if flags.check is not None:
        plan = _plan(flags.check)
        shapes = (_shape_of(plan, shapes),)
    built = _model(flags, found, shapes)
    return Input(subject=found, model=built, limits=_limits(flags), plan=plan)


def by_hand(given: Input) -> tuple[dict[str, Choice], dict[str, str]]:
    """Returns the plans that came with the function, and why others do not fit it.

    Each is on the mesh with fewest axes that has its own, of these on the one nearest a square.
    """
    found: dict[str, Choice] = {}
    refused: dict[str, str] = {}
    meshes = given.model.meshes
    order = sorted(range(len(meshes)), key=lambda i: (len(meshes[i].axes), -i))
    for name, plan in given.subject.plans.items():
        for number in order:
            try:
                found[name] = subject.choice(given.model, plan, number)
                refused.pop(name, None)
                break
            except ValueError as error:
                refused[name] = str(error)
    return found, refused


def judge(flags: "SearchFlags", given: Input) -> Judge:
    """Returns the compiler of the flags' slice."""
    return Judge(
        fn=given.subject.fn,
        args=given.subject.args,
        topology=flags.topology,
        donate_argnums=given.subject.donate_argnums,
        latency=flags.latency,
    )


def _meshes(flags: "SearchFlags") -> tuple[MeshShape, ...]:
    """Returns the meshes to choose from.

    Raises:
        Failure: status 2 or 4, the topology is not known, or the mesh does not take its devices.
    """
    try:
        of_topology(flags.topology)
        devices = num_devices(flags.topology)
        backend_of(flags.topology).environment(flags.topology)
    except (ValueError, CompilerError) as error:
        raise Failure(
            "unknown_topology", f"--topology {flags.topology}: {error}", Exit.USAGE
        ) from None
    try:
        if not flags.mesh:
            return mesh.factorisations(devices, flags.axes)
        names, sizes = zip(*mesh_axes(flags.mesh))
        shape = mesh.shape(sizes, names)
        if math.prod(sizes) != devices:
            raise ValueError(f"{flags.topology} has {devices} devices")
    except ValueError as error:
        raise Failure(
            "invalid_mesh", f"--mesh {flags.mesh}: {error}", Exit.USAGE
        ) from None
    return (shape,)


def _plan(path: Path) -> Plan:
    """Returns the plan in a file.

    Raises:
        Failure: status 3 or 4, it is not there, or no plan.
    """
    try:
        return plans.read(path)
    except OSError as error:
        raise Failure(
            "input_not_found", f"--check {path}: {error.strerror}", Exit.NOT_FOUND
        ) from None
    except ValueError as error:
        raise Failure("invalid_plan", f"--check {error}") from None


def _shape_of(plan: Plan, shapes: Sequence[MeshShape]) -> MeshShape:
    """Returns the plan's mesh.

    Raises:
        Failure: status 4, it is for another number of devices.
    """
    devices = math.prod(shapes[0].sizes)
    if plan.devices != devices:
        raise Failure(
            "other_mesh",
            f"the plan is for {plan.devices} devices; the topology has {devices}",
        )
    names, sizes = zip(*plan.mesh)
    return mesh.shape(sizes, names)


def _model(flags: "SearchFlags", found: Subject, shapes: Sequence[MeshShape]) -> Model:
    """Returns the function on its machine.

    Raises:
        Failure: status 4, it can't be traced, or none of the meshes divides it.
    """
    try:
        return models.model(
            found.fn,
            *found.args,
            topology=flags.topology,
            meshes=shapes,
            donate_argnums=found.donate_argnums,
        )
    except ValueError as error:
        raise Failure("invalid_function", f"{flags.input}: {error}") from None


def _limits(flags: "SearchFlags") -> Limits:
    chip = HBM_GIB[flags.topology.partition(":")[0]] << 30
    memory = chip if flags.memory is None else flags.memory
    arguments = math.inf if flags.argument_memory is None else flags.argument_memory
    return Limits(arguments / _MIB, memory / _MIB)
