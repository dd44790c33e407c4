"""`python -m compiler.moe.search --config PRESET --topology v5e:2x4`: finds how an expert layer communicates."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

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
    from compiler.moe.explore import Candidate, Simulated
    from compiler.moe.machine import Setting

_NAME = "compiler.moe.search"
STRATEGIES = ("evolution", "random", "local", "annealing", "brkga", "mcts", "predicted")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchFlags(Flags):
    """Finds the communication schedule of a stack of mixture-of-experts layers.

    The schedule says over which axes of the mesh experts are spread and cut, how tokens are exchanged, and into how many
    chunks of what sizes each direction is cut. It is searched in an event simulation; the best are compiled by the TPU
    compiler (no TPU is needed), and the one with the fewest predicted cycles is handed over.
    """

    config: Annotated[str, arg(metavar="PRESET|FILE.json")]
    """gpt2-xl-moe, mixtral-8x7b, deepseek-v2-lite, qwen1.5-moe or qwen3-30b-a3b; or a file with the fields of
    compiler.moe.configurations.Configuration. Samples are those of one device."""
    topology: str = "v5e:2x4"
    """The slice, as the TPU compiler names it."""
    mesh: str = ""
    """Axes and sizes, such as x=2,y=4; by default those of the topology."""
    layout: str = ""
    """Axes that experts are spread over, and axes that they are cut over, as x/y, x+y/ or x/; by default searched."""
    strategy: str = "evolution"
    """evolution, random, local, annealing, brkga, mcts or predicted: what searches the simulation."""
    budget: BudgetFlag = Budget(seconds=600.0, measurements=12)
    """What compiling may take."""
    evaluations: int = 4000
    """Plans that are simulated."""
    layers: int = 2
    """Of the stack."""
    passes: Literal["step", "forward"] = "step"
    """Both passes, or the forward pass alone."""
    experts_only: bool = False
    """Leave out attention's products, between the experts' layers."""
    memory: ByteSize | None = None
    """Bytes that the experts' weights of all layers may take on a device, at two bytes each."""
    hop_latency: float = 0.0
    """Seconds that a collective takes per link on its way; the simulation's."""
    latency: float = 0.0
    """Seconds that each collective takes besides its bytes; of simulation and judge."""
    verify: When = "auto"
    """Compile; by default if libtpu is installed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1 or self.evaluations < 1:
            raise ValueError("--layers and --evaluations must be at least 1")
        if self.latency < 0 or self.hop_latency < 0:
            raise ValueError("latencies are not negative")
        _axes(self)
        _layout(self)


def search(flags: SearchFlags, session: Session) -> Report:
    """Runs the whole command; see docs/moe.md."""
    one_of("strategy", flags.strategy, STRATEGIES)
    keep_compiled(on_host=True)
    setting = _setting(flags)
    least = _least_memory(setting)
    if flags.memory is not None and least > flags.memory:
        raise Failure(
            "infeasible",
            f"no layout of the experts fits {flags.memory} bytes on a device: the least is {least}",
            Exit.INFEASIBLE,
        )
    session.begin({"setting": repr(setting), "passes": flags.passes})
    from compiler.moe import explore

    with session.progress("simulating") as bar:
        budget = Budget(simulations=flags.evaluations)
        found = explore.simulate(
            setting, flags.passes, flags.strategy, budget, flags.seed, bar.update
        )
    session.meter.spend(simulations=flags.evaluations)
    compiled = list[explore.Candidate]()
    if compiles(flags.verify):
        with session.progress("compiling") as bar:
            for one in explore.measure(
                _judge(flags, setting), found, session.meter, bar.update
            ):
                compiled.append(one)
                _save(session, min(compiled, key=lambda c: c.cycles))
    return _finish(flags, session, setting, found, compiled)


def _axes(flags: SearchFlags) -> tuple[tuple[str, int], ...]:
    """Returns the mesh.

    Raises:
        ValueError: not of the form x=2,y=4, or not of as many devices as the topology.
    """
    generation, _, shape = flags.topology.partition(":")
    try:
        sizes = [int(size) for size in shape.split("x")]
        if not flags.mesh:
            names = "xyz"[: len(sizes)]
            return tuple(zip(names, sizes, strict=True))
        mesh = mesh_axes(flags.mesh)
    except ValueError:
        raise ValueError(
            f"--topology is GENERATION:2x4 and --mesh x=2,y=4, not {flags.topology} and {flags.mesh}"
        ) from None
    from compiler.backends.meshes import devices_per_chip

    devices = math.prod(size for _, size in mesh)
    chips = math.prod(sizes)
    if devices not in (chips, chips * devices_per_chip(generation)):
        raise ValueError(
            f"--mesh {flags.mesh} has {devices} devices, {flags.topology} {chips}"
        )
    return mesh


def _layout(
    flags: SearchFlags,
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Returns the axes of experts and of shards, if they are given.

    Raises:
        ValueError: not of the form x+y/z, or an axis that the mesh has not.
    """
    if not flags.layout:
        return None
    experts, slash, shards = flags.layout.partition("/")
    spread, cut = (tuple(part.split("+")) if part else () for part in (experts, shards))
    known = [name for name, _ in _axes(flags)]
    if not slash or any(name not in known for name in (*spread, *cut)):
        raise ValueError(
            f"--layout is EXPERT_AXES/SHARD_AXES of {'+'.join(known)}, not {flags.layout}"
        )
    return spread, cut


def _setting(flags: SearchFlags) -> "Setting":
    """Returns what is scheduled.

    Raises:
        Failure: there is no such preset or file, or its layer can't be laid out on this mesh.
    """
    from compiler.moe.configurations import PRESETS, Configuration
    from compiler.moe.links import PEAK_FLOPS
    from compiler.moe.machine import Setting

    generation = flags.topology.partition(":")[0]
    one_of("topology", generation, tuple(PEAK_FLOPS))
    try:
        if flags.config.endswith(".json"):
            configuration = Configuration(**_read(Path(flags.config)))
        else:
            one_of("config", flags.config, tuple(PRESETS))
            configuration = PRESETS[flags.config]
        return Setting(
            generation=generation,  # type: ignore[arg-type]
            mesh=_axes(flags),
            configuration=dataclasses.replace(
                configuration, expert_span=1, shard_span=1
            ),
            layout=_layout(flags),
            layers=flags.layers,
            dense=not flags.experts_only,
            memory=flags.memory,
            hop_seconds=flags.hop_latency,
            startup_seconds=flags.latency,
        )
    except (TypeError, ValueError) as error:
        raise Failure(
            "invalid_config", f"--config {flags.config}: {error}", Exit.INVALID
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise Failure(
            "input_not_found", f"--config {path}: {error.strerror}", Exit.NOT_FOUND
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _least_memory(setting: "Setting") -> int:
    from compiler.moe.machine import factorisations, weights

    least = min(weights(setting, axes) for axes in factorisations(setting))
    return math.ceil(least * setting.layers * setting.weight_bytes)


def _judge(flags: SearchFlags, setting: "Setting") -> Any:
    from compiler.moe.oracle import Judge

    return Judge(
        setting=setting,
        topology=flags.topology,
        passes=flags.passes,
        latency=flags.latency,
    )


def _save(session: Session, best: "Candidate") -> Path:
    provenance = {**best.plan.provenance, "found_by": best.name}
    if best.judged:
        provenance["judged_cycles"] = best.judged.timeline.total
        provenance["judge"] = (
            f"{best.judged.compiled.version}, {best.judged.compiled.topology}"
        )
    plan = dataclasses.replace(best.plan, provenance=provenance)
    return write_json(session.out / "plan.json", plan.to_json())


def _finish(
    flags: SearchFlags,
    session: Session,
    setting: "Setting",
    found: "Simulated",
    compiled: list["Candidate"],
) -> Report:
    """Writes the artefacts and returns the report."""
    from compiler.moe import explore, report

    known = {one.name: one for one in compiled}
    default = known.get(explore.DEFAULT)
    judged = [one for one in compiled if one.judged]
    verified = None
    if judged:
        best = min(judged, key=lambda one: one.cycles)
        cycles = {one.name: one.cycles for one in judged}
        if default and default.judged:
            verified = Verified(
                by=best.judged.compiled.version if best.judged else "",
                baseline=default.cycles,
                best=best.cycles,
            )
    else:
        best = min(found.candidates.values(), key=lambda one: one.simulated)
        cycles = {name: one.simulated for name, one in found.candidates.items()}
    artifacts = {"plan": _save(session, best)}
    artifacts |= report.write(session, setting, found, compiled, best, flags.passes)
    baselines = {
        name: cycles.get(name) for name in (explore.DEFAULT, explore.CLOSED_FORM)
    }
    rows = [
        (
            one.name,
            f"{one.simulated:,.0f}",
            f"{one.cycles:,.0f}" if one.judged else one.failure[:60] or "-",
            _words(one),
        )
        for one in [*compiled] or found.candidates.values()
    ]
    session.table(
        "Cycles of one device",
        ("plan", "simulated", "compiled", "decisions"),
        rows,
    )
    return session.report(
        input=flags.config,
        target=flags.topology,
        unit="cycles",
        baselines=baselines,
        default=explore.DEFAULT,
        best=best.cycles if judged else best.simulated,
        bound=None,
        artifacts=artifacts,
        verified=verified,
        extra={
            "found_by": best.name,
            "passes": flags.passes,
            "judge": "compiled" if judged else "simulated",
            "plans": [
                {
                    "name": one.name,
                    "simulated": one.simulated,
                    "compiled": one.cycles if one.judged else None,
                    "failure": one.failure or None,
                }
                for one in compiled
            ],
        },
    )


def _words(one: "Candidate") -> str:
    plan = one.plan

    def cut(chunks: tuple[int, ...]) -> str:
        return str(len(chunks)) + ("" if len(set(chunks)) == 1 else " graded")

    axes = "·".join(plan.expert_axes) or "-"
    shards = "·".join(plan.shard_axes) or "-"
    return (
        f"EP {axes}, ESP {shards}, {plan.exchange}, {plan.reduce}, "
        f"r {cut(plan.forward.chunks)}/{cut(plan.backward.chunks)}"
    )


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(search, SearchFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
