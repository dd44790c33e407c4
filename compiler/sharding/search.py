"""`python -m compiler.sharding.search MODULE:FUNCTION --topology v5e:2x4`: finds how a program is cut over a mesh."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from compiler.flags import When, compiles, mesh_axes
from solvers.command import (
    Budget,
    BudgetFlag,
    ByteSize,
    Exit,
    Failure,
    Flags,
    Report,
    Session,
    Verified,
    keep_compiled,
    one_of,
    run,
    write_json,
)

if TYPE_CHECKING:  # JAX takes seconds to import; `--help` shall not.
    from compiler.sharding.cost import Choice
    from compiler.sharding.equal import Checked
    from compiler.sharding.explore import Candidate, Found, Limits
    from compiler.sharding.mesh import MeshShape
    from compiler.sharding.model import Model
    from compiler.sharding.oracle import Judge
    from compiler.sharding.plan import Plan
    from compiler.sharding.subject import Subject

_NAME = "compiler.sharding.search"
STRATEGIES = (
    "auto",
    "evolution",
    "mcts",
    "beam",
    "random",
    "local",
    "annealing",
    "brkga",
    "predicted",
)
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchFlags(Flags):
    """Finds how a JAX function is cut over the chips of a slice.

    The function is traced, its dimensions are named, and which of them each mesh axis cuts is searched on an analytic
    model; the best plans are compiled by the TPU compiler (no TPU is needed), and the one with the fewest predicted
    cycles that fits the memory is handed over.
    """

    input: Annotated[Positional[str], arg(metavar="MODULE:FUNCTION")]
    """A function without arguments that returns (fn, args): what jax.jit takes, and a tuple of arrays or
    jax.ShapeDtypeStructs. Or an object with .fn and .args, and maybe .plans, .donate_argnums and .small."""
    topology: str = "v5e:2x4"
    """The slice, as the TPU compiler names it."""
    mesh: str = ""
    """Axes and sizes, such as x=2,y=4; by default all factorisations of the devices are searched."""
    axes: int = 2
    """Of the meshes that are searched, at most."""
    memory: ByteSize | None = None
    """Bytes that the program may take on a device; by default what the chip has."""
    argument_memory: ByteSize | None = None
    """Bytes that the arguments alone may take on a device."""
    strategy: str = "auto"
    """auto, evolution, mcts, beam, random, local, annealing, brkga or predicted: what searches the model."""
    budget: BudgetFlag = Budget(seconds=1200.0, measurements=16)
    """What compiling may take, plans by hand included."""
    evaluations: int = 6000
    """Plans that the model is asked about."""
    latency: float = 0.0
    """Seconds that each collective takes besides its bytes."""
    check: Annotated[Path | None, arg(metavar="PLAN")] = None
    """Search nothing: judge this plan of the program."""
    verify: When = "auto"
    """Compile for the slice; by default if libtpu is installed."""
    equality: When = "auto"
    """Run the program cut and uncut on virtual CPU devices; by default if it is small, or has a small version."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluations < 1:
            raise ValueError("--evaluations must be at least 1")
        if self.latency < 0:
            raise ValueError("--latency is not negative")
        if not 1 <= self.axes <= 3:
            raise ValueError("--axes must be 1, 2 or 3")


def search(flags: SearchFlags, session: Session) -> Report:
    """Runs the whole command; see docs/sharding.md."""
    one_of("strategy", flags.strategy, STRATEGIES)
    keep_compiled(on_host=True)
    from compiler.sharding import subject

    shapes = _meshes(flags)
    given = subject.load(flags.input)
    if flags.check is not None:
        plan = _read(flags.check)
        shapes = (_shape_of(plan, shapes),)
    built = _model(flags, given, shapes)
    digest = built.names.program.digest
    session.begin(
        {"program": digest, "topology": flags.topology, "mesh": flags.mesh}
        | {"memory": flags.memory, "argument_memory": flags.argument_memory}
    )
    judge = _judge(flags, given) if compiles(flags.verify) else None
    if flags.check is not None:
        return _check(flags, session, given, built, plan, judge)
    return _search(flags, session, given, built, judge)


def _search(
    flags: SearchFlags,
    session: Session,
    given: "Subject",
    built: "Model",
    judge: "Judge | None",
) -> Report:
    from compiler.cost.links import of_topology
    from compiler.sharding import explore

    limits = _limits(flags)
    by_hand, refused = _by_hand(given, built)
    with session.progress("searching the model") as bar:
        try:
            found = explore.search(
                built,
                limits,
                flags.strategy,
                flags.evaluations,
                flags.seed,
                latency=of_topology(flags.topology).cycles(flags.latency),
                by_hand=by_hand,
                interrupted=session.interrupt.is_set,
                say=bar.update,
            )
        except ValueError as error:
            raise Failure("infeasible", str(error), Exit.INFEASIBLE) from None
    for name, reason in (refused | dict(found.refused)).items():
        session.note(f"{name}: left out, {reason}")
    session.meter.spend(simulations=found.evaluations)
    compiled = list[explore.Candidate]()
    if judge is not None:
        with session.progress("compiling") as bar:
            for one in explore.measure(judge, found, session.meter, bar.update):
                compiled.append(one)
                best = min(compiled, key=explore.worth)
                if math.isfinite(best.cycles):
                    _save(session.out / "plan.json", best)
    return _finish(flags, session, given, found, compiled)


def _meshes(flags: SearchFlags) -> tuple["MeshShape", ...]:
    """Returns the meshes to choose from.

    Raises:
        Failure: status 2 or 4, the topology is not known, or the mesh does not take its devices.
    """
    from compiler.backends import CompilerError, backend_of
    from compiler.backends.meshes import num_devices
    from compiler.cost.links import of_topology
    from compiler.sharding import mesh

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


def _read(path: Path) -> "Plan":
    from compiler.sharding import plan

    try:
        return plan.read(path)
    except OSError as error:
        raise Failure(
            "input_not_found", f"--check {path}: {error.strerror}", Exit.NOT_FOUND
        ) from None
    except ValueError as error:
        raise Failure("invalid_plan", f"--check {error}") from None


def _shape_of(plan: "Plan", shapes: Sequence["MeshShape"]) -> "MeshShape":
    """Returns the plan's mesh."""
    from compiler.sharding import mesh

    devices = math.prod(shapes[0].sizes)
    if plan.devices != devices:
        raise Failure(
            "other_mesh",
            f"the plan is for {plan.devices} devices; the topology has {devices}",
        )
    names, sizes = zip(*plan.mesh)
    return mesh.shape(sizes, names)


def _model(
    flags: SearchFlags, given: "Subject", shapes: Sequence["MeshShape"]
) -> "Model":
    from compiler.sharding import model

    try:
        return model.model(
            given.fn,
            *given.args,
            topology=flags.topology,
            meshes=shapes,
            donate_argnums=given.donate_argnums,
        )
    except ValueError as error:
        raise Failure("invalid_function", f"{flags.input}: {error}") from None


def _limits(flags: SearchFlags) -> "Limits":
    from compiler.sharding.explore import Limits
    from compiler.sharding.machine import HBM_GIB

    chip = HBM_GIB[flags.topology.partition(":")[0]] << 30
    memory = chip if flags.memory is None else flags.memory
    arguments = math.inf if flags.argument_memory is None else flags.argument_memory
    return Limits(arguments / _MIB, memory / _MIB)


def _by_hand(
    given: "Subject", built: "Model"
) -> tuple[dict[str, "Choice"], dict[str, str]]:
    """Returns the plans that came with the function, and why others do not fit it.

    Each is on the mesh with fewest axes that has its own, of these on the one nearest a square.
    """
    from compiler.sharding import subject

    found: dict[str, Choice] = {}
    refused: dict[str, str] = {}
    meshes = built.meshes
    order = sorted(range(len(meshes)), key=lambda i: (len(meshes[i].axes), -i))
    for name, plan in given.plans.items():
        for number in order:
            try:
                found[name] = subject.choice(built, plan, number)
                refused.pop(name, None)
                break
            except ValueError as error:
                refused[name] = str(error)
    return found, refused


def _judge(flags: SearchFlags, given: "Subject") -> "Judge":
    from compiler.sharding.oracle import Judge

    return Judge(
        fn=given.fn,
        args=given.args,
        topology=flags.topology,
        donate_argnums=given.donate_argnums,
        latency=flags.latency,
    )


def _save(path: Path, one: "Candidate") -> Path:
    assert one.plan is not None
    provenance = dict(one.plan.provenance)
    if one.judged:
        provenance["judged"] = {
            "by": one.judged.compiled.version,
            "topology": one.judged.compiled.topology,
            "cycles": one.judged.timeline.total,
            "exposed": one.judged.timeline.exposed,
            "argument_bytes": one.judged.compiled.memory.argument,
            "total_bytes": one.judged.compiled.memory.total,
        }
    plan = dataclasses.replace(one.plan, provenance=provenance)
    return write_json(path, plan.to_json())


def _finish(
    flags: SearchFlags,
    session: Session,
    given: "Subject",
    found: "Found",
    compiled: list["Candidate"],
) -> Report:
    """Checks the answer, writes the artefacts and returns the report."""
    from compiler.sharding import explore, report

    judged = [one for one in compiled if math.isfinite(one.cycles)]
    if compiled and not judged:
        raise Failure(
            "infeasible",
            f"none of {len(compiled)} compiled plans is feasible; the last: {compiled[-1].failure}",
            Exit.INFEASIBLE,
        )
    shown = compiled or explore.uncompiled(found)
    best = min(shown, key=explore.worth)
    front = explore.front(compiled) or explore.uncompiled_front(found)
    if best not in front:
        front = [best, *front]
    artifacts = {"plan": _save(session.out / "plan.json", best)}
    folder = session.out / "front"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    paths = [
        _save(folder / f"{number}.json", one) for number, one in enumerate(front, 1)
    ]
    checked = _equal(flags, session, given, found.model, paths, front)
    artifacts |= report.write(session, found, compiled, shown, best, front, checked)

    def cost(one: "Candidate") -> float:
        return one.cycles if judged else one.predicted

    baselines: dict[str, float | None] = dict.fromkeys(given.plans)
    baselines |= {
        one.name: cost(one) for one in shown if one.by_hand and math.isfinite(cost(one))
    }
    known: dict[str, float] = {k: v for k, v in baselines.items() if v is not None}
    if not known:
        first = next(one for one in shown if math.isfinite(cost(one)))
        known = {first.name: cost(first)}
        baselines |= known
    default = min(known, key=lambda name: known[name])
    unequal = [one for one in checked if one.equal is False]
    if unequal:
        raise Failure(
            "not_equal",
            f"a plan changes the results by {unequal[0].largest:.2g}; nothing is claimed",
            Exit.CHECK_FAILED,
        )
    _table(session, shown, best)
    verified = None
    if best.judged:
        by = best.judged.compiled.version
        verified = Verified(by=by, baseline=known[default], best=best.cycles)
    return session.report(
        input=flags.input,
        target=flags.topology,
        unit="cycles",
        baselines=baselines,
        default=default,
        best=cost(best),
        bound=None,
        artifacts=artifacts,
        verified=verified,
        extra={
            "found_by": best.name,
            "judge": "compiled" if judged else "model",
            "program": found.model.names.program.digest,
            "equal": [one._asdict() for one in checked],
            "front": [
                {"plan": str(path), **_figures(one)}
                for path, one in zip(paths, front, strict=True)
            ],
            "plans": [{"name": one.name, **_figures(one)} for one in shown],
        },
    )


def _figures(one: "Candidate") -> dict[str, float | str | bool | None]:
    return {
        "by_hand": one.by_hand,
        "predicted": one.predicted,
        "expected": one.expected,
        "cycles": one.cycles if math.isfinite(one.cycles) else None,
        "exposed": one.judged.timeline.exposed if one.judged else None,
        "argument_mib": one.judged.arguments if one.judged else one.arguments,
        "memory_mib": one.judged.memory if one.judged else one.peak,
        "failure": one.failure or None,
    }


def _table(session: Session, shown: Sequence["Candidate"], best: "Candidate") -> None:
    from compiler.sharding.report import words

    rows = [
        (
            f"{one.name} *" if one is best else one.name,
            f"{one.predicted:,.0f}",
            f"{one.cycles:,.0f}"
            if math.isfinite(one.cycles)
            else one.failure[:60] or "-",
            f"{one.arguments:,.0f}",
            words(one),
        )
        for one in shown
    ]
    session.table(
        "Cycles of one device, and MiB of its arguments",
        ("plan", "model", "compiled", "MiB", "cuts"),
        rows,
    )


def _equal(
    flags: SearchFlags,
    session: Session,
    given: "Subject",
    built: "Model",
    paths: Sequence[Path],
    front: Sequence["Candidate"],
) -> tuple["Checked", ...]:
    """Returns whether the plans change the results."""
    from compiler.sharding import equal

    reason, small = _why_not(flags, given, built, front)
    if reason:
        if flags.equality == "always":
            raise Failure("not_checked", f"--equality always: {reason}", Exit.USAGE)
        session.note(f"results not compared: {reason}")
        return (equal.Checked(None, reason=reason),) * len(paths)
    session.note("comparing results on virtual CPU devices")
    devices = math.prod(built.meshes[0].sizes)
    return equal.check(flags.input, paths, devices, small)


def _why_not(
    flags: SearchFlags,
    given: "Subject",
    built: "Model",
    front: Sequence["Candidate"],
) -> tuple[str, bool]:
    """Returns why results are not compared, and else whether the smaller arrays are used."""
    from compiler.sharding import equal
    from compiler.sharding.names import flops

    if flags.equality == "never":
        return "--equality never", False
    devices = math.prod(built.meshes[0].sizes)
    if devices > equal.MAX_DEVICES:
        return f"{devices} devices are more than {equal.MAX_DEVICES}", False
    if given.small is not None:
        return "", True
    program = built.names.program
    work = sum(op.repeat * flops(op) for op in program.operations) * (1 + len(front))
    size = sum(program.values[v].num_bytes for v in program.inputs) * devices
    if flags.equality == "auto" and work > equal.MAX_FLOPS:
        return (
            f"{work:.2g} operations are too many for CPUs, and it has no .small",
            False,
        )
    if flags.equality == "auto" and size > equal.MAX_BYTES:
        return f"its arguments take up to {size:.2g} bytes, and it has no .small", False
    return "", False


def _check(
    flags: SearchFlags,
    session: Session,
    given: "Subject",
    built: "Model",
    plan: "Plan",
    judge: "Judge | None",
) -> Report:
    """Judges a plan that is there."""
    from compiler.backends import CompilerError

    program = built.names.program.digest
    try:
        plan.require_program(program)
    except ValueError as error:
        raise Failure("other_program", f"--check {flags.check}: {error}") from None
    predicted = plan.provenance.get("predicted", {})
    best = (
        float(predicted["time"])
        if isinstance(predicted, Mapping) and "time" in predicted
        else None
    )
    figures: dict[str, object] = {"predicted": best}
    verified = None
    if judge is not None:
        try:
            judged = judge(plan)
        except CompilerError as error:
            status = (
                Exit.INFEASIBLE
                if error.reason == "out-of-memory"
                else error.exit_status
            )
            raise Failure(error.reason.replace("-", "_"), str(error), status) from None
        best = judged.timeline.total
        verified = Verified(by=judged.compiled.version, baseline=best, best=best)
        figures |= {
            "cycles": best,
            "exposed": judged.timeline.exposed,
            "argument_mib": judged.arguments,
            "memory_mib": judged.memory,
        }
        limits = _limits(flags)
        if judged.memory > limits.memory or judged.arguments > limits.arguments:
            raise Failure(
                "infeasible",
                f"the plan takes {judged.memory:,.0f} MiB, its arguments {judged.arguments:,.0f}",
                Exit.INFEASIBLE,
            )
    if best is None:
        raise Failure(
            "nothing_known",
            "the plan's file does not say its cycles; compile it (--verify)",
        )
    path = write_json(session.out / "plan.json", plan.to_json())
    checked = _equal(flags, session, given, built, [path], [])
    if any(one.equal is False for one in checked):
        raise Failure("not_equal", "the plan changes the results", Exit.CHECK_FAILED)
    return session.report(
        input=flags.input,
        target=flags.topology,
        unit="cycles",
        baselines={"the plan": best},
        default="the plan",
        best=best,
        bound=None,
        artifacts={"plan": path},
        verified=verified,
        extra={
            "program": program,
            "judge": "compiled" if judge else "model",
            "equal": [one._asdict() for one in checked],
            "plans": [figures],
        },
    )


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(search, SearchFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
