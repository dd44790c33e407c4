"""`python -m compiler.sharding.search MODULE:FUNCTION --topology v5e:2x4`: finds how a program is cut over a mesh."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from compiler.flags import When, compiles
from solvers.command import (
    Budget,
    BudgetFlag,
    ByteSize,
    Exit,
    Failure,
    Flags,
    Report,
    Session,
    keep_compiled,
    one_of,
    run,
)

if TYPE_CHECKING:  # JAX takes seconds to import; `--help` shall not.
    from compiler.sharding.inputs import Input
    from compiler.sharding.oracle import Judge

_NAME = "compiler.sharding.search"
STRATEGIES = (
    "auto",
    "evolution",
    "mcts",
    "uct",
    "beam",
    "random",
    "local",
    "annealing",
    "brkga",
    "predicted",
)


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
    """auto, evolution, mcts, uct, beam, random, local, annealing, brkga or predicted: what searches the model."""
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
    from compiler.sharding import inputs
    from compiler.sharding.check import check

    given = inputs.read(flags)
    session.begin(
        {"program": given.digest, "topology": flags.topology, "mesh": flags.mesh}
        | {"memory": flags.memory, "argument_memory": flags.argument_memory}
    )
    judge = inputs.judge(flags, given) if compiles(flags.verify) else None
    if given.plan is not None:
        return check(flags, session, given, given.plan, judge)
    return _search(flags, session, given, judge)


def _search(
    flags: SearchFlags, session: Session, given: "Input", judge: "Judge | None"
) -> Report:
    from compiler.cost.links import of_topology
    from compiler.sharding import explore, handover, inputs
    from compiler.sharding.candidates import Candidate, worth

    by_hand, refused = inputs.by_hand(given)
    with session.progress("searching the model") as bar:
        try:
            found = explore.search(
                given.model,
                given.limits,
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
    compiled = list[Candidate]()
    if judge is not None:
        with session.progress("compiling") as bar:
            for one in explore.measure(judge, found, session.meter, bar.update):
                compiled.append(one)
                best = min(compiled, key=worth)
                if math.isfinite(best.cycles):
                    handover.save(session.out / "plan.json", best)
    return handover.hand_over(flags, session, given, found, compiled)


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(search, SearchFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
