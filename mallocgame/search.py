"""`python -m mallocgame.search FILE...`: finds a mapping, checks it, has it verified, reports it."""

import dataclasses
import functools
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from compiler.flags import When
from mallocgame import strategies
from solvers.command import (
    ByteSize,
    Exit,
    Failure,
    Flags,
    Outcome,
    Report,
    Session,
    keep_compiled,
    one_of,
    run,
    write_json,
    write_text,
)
from solvers.command.batch import BatchFlags, Single, run_batch

if TYPE_CHECKING:  # JAX takes seconds to import; `--help` shall not.
    from compiler.targets import Target
    from mallocgame.result import Result

_NAME = "mallocgame.search"
_DEFAULT_TARGET = "tpu-v5e"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Flags):
    """What decides a search, besides its input."""

    strategy: str = "auto"
    """auto (climbing and planning by turns), climb, mcts, muzero (the learning agent), msa, greedy; or of
    the engine: random, local, annealing, evolution, brkga, predicted."""
    checkpoint: Annotated[Path | None, arg(metavar="FILE.json")] = None
    """For muzero: the card of the network that it plays with, which muzero.train wrote; by default the one
    that ships with the package."""
    agent: Literal["auto", "zero-shot", "fine-tuned", "from-scratch"] = "auto"
    """For muzero: whether its network stays as it is (auto), learns from this program too, or begins with
    nothing."""
    target: str = ""
    """The chip; by default what the dump was made for, else tpu-v5e."""
    fast_bytes: ByteSize | None = None
    """Capacity of the fast memory for tensors, such as 64MiB; the chip's by default."""
    slow_bandwidth: ByteSize | None = None
    """Bytes per second of the slow memory; the chip's by default."""
    clock: float | None = None
    """Cycles per second; the chip's by default."""
    verify: When = "auto"
    """Recompile with the production compiler; by default if it is installed and can."""
    lanes: int = 8
    """Games side by side."""
    simulations: int = 8
    """Of planning, per decision."""
    compile_timeout: float = 600.0
    """Seconds that one compile may take."""
    knobs: bool = True
    """Search program-level compile options too, such as the scoped-memory limit."""
    measure: bool = False
    """Run the program on this machine's device (JAX's choice), with what was found and without; what is
    slower is not handed over."""
    repeats: int = 21
    """For --measure: runs of each, by turns."""
    compiler_options: str = ""
    """Options that hold for every compile, as NAME=VALUE,NAME=VALUE; they are not searched."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.lanes <= 1024:
            raise ValueError(f"--lanes must lie in 2..1024, not {self.lanes}")
        if not 2 <= self.simulations <= 1024:
            raise ValueError(
                f"--simulations must lie in 2..1024, not {self.simulations}"
            )
        self.fixed_options()
        if not 6 <= self.repeats <= 10_000:
            raise ValueError(f"--repeats must lie in 6..10000, not {self.repeats}")
        if self.strategy != "muzero" and (self.checkpoint or self.agent != "auto"):
            raise ValueError("--checkpoint and --agent are for --strategy muzero")
        if self.checkpoint is not None and self.agent == "from-scratch":
            raise ValueError("--agent from-scratch takes no --checkpoint")
        if self.fast_bytes is not None and self.fast_bytes < 4096:
            raise ValueError("--fast-bytes must be at least 4KiB")

    def agent_mode(self) -> str:
        """Returns how the agent learns, one of `learned.MODES`."""
        return "zero-shot" if self.agent == "auto" else self.agent

    def fixed_options(self) -> dict[str, str]:
        """Returns the compile options that the user fixed.

        Raises:
            ValueError: not of the form NAME=VALUE,NAME=VALUE.
        """
        pairs = [
            part.partition("=") for part in self.compiler_options.split(",") if part
        ]
        if any(not name or not sign for name, sign, _ in pairs):
            raise ValueError(
                f"--compiler-options are NAME=VALUE,..., not {self.compiler_options!r}"
            )
        return {name.strip(): value.strip() for name, _, value in pairs}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchFlags(Settings):
    """The flags of the search of one input."""

    input: Path
    """A dumped module, or the dump's folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandFlags(Settings, BatchFlags):
    """Finds which tensors of a program to keep in fast memory, when, and where."""

    input: Positional[Annotated[tuple[str, ...], arg(metavar="FILE|DIR|GLOB...")]]
    """A dumped module (*.hlo.pb, gzipped or not), scheduled, or the dump's folder. Several, a folder of
    such folders, or a pattern: each is searched, with a budget and a subfolder of --out of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.input:
            raise ValueError(
                "FILE|DIR|GLOB... is required: a dumped module or its folder"
            )


def command(flags: CommandFlags, session: Session) -> Outcome:
    """Searches one input, or all of several; see docs/commands.md."""
    from mallocgame import batch

    paths = batch.inputs(flags.input)
    is_plain = len(paths) == 1 and str(paths[0]) == str(Path(flags.input[0]))
    if is_plain and flags.executor == "local":
        settings = {
            f.name: getattr(flags, f.name) for f in dataclasses.fields(Settings)
        }
        return search(SearchFlags(**settings, input=paths[0]), session)
    one_of("strategy", flags.strategy, strategies.ALL)
    return run_batch(
        session,
        flags,
        paths,
        Single(
            search="mallocgame.search:search",
            flags="mallocgame.search:SearchFlags",
            content=functools.partial(batch.content, target=flags.target),
        ),
    )


def search(flags: SearchFlags, session: Session) -> Report:
    """Searches one input."""
    from mallocgame.offload.inputs import locate

    located = locate(flags.input, flags.target)
    if located is not None:
        from mallocgame.offload import command

        return command.search(flags, session, located)
    one_of("strategy", flags.strategy, strategies.ALL)
    if flags.checkpoint is not None:
        _require_agent(flags.checkpoint)
    from mallocgame import inputs

    given = inputs.read(flags.input)
    for note in given.notes:
        session.note(note)
    target = _target(flags, given.target_name)
    if flags.measure and given.source is None:
        raise Failure(
            "cannot_measure",
            f"--measure: {given.path} has no before_optimizations.hlo.pb beside it to compile",
            Exit.USAGE,
        )
    # Only now, so that a bad input is refused at once.
    keep_compiled(on_host=True)
    from mallocgame import loop

    resumed = session.begin(
        {
            "input_sha256": hashlib.sha256(given.path.read_bytes()).hexdigest(),
            "fast_bytes": flags.fast_bytes,
            "slow_bandwidth": flags.slow_bandwidth,
            "clock": flags.clock,
            "lanes": flags.lanes,
            "simulations": flags.simulations,
            "checkpoint": flags.checkpoint and str(flags.checkpoint),
            "agent": flags.agent_mode(),
            "verify": flags.verify,
            "knobs": flags.knobs,
            "compiler_options": flags.compiler_options,
        }
        | ({"measure": flags.repeats} if flags.measure else {})
    )
    judge = loop.compiler_for(given, target, flags, session)
    # Where the same is asked for again, the same is done.
    goes_on = resumed and not session.repeats
    result = loop.run(given, target, flags, session, judge, goes_on)
    return _finish(flags, session, result)


def _require_agent(card: Path) -> None:
    """Looks at the card of an agent, before any work.

    Raises:
        Failure: it can't be read.
        WeightsError: it is no agent's, or the numbers beside it are damaged.
    """
    from muzero import agentfile
    from solvers import weights

    try:
        weights.read(card, agentfile.KIND)
    except OSError as error:
        raise Failure(
            "unreadable_checkpoint",
            f"--checkpoint {card}: {error.strerror}",
            Exit.NOT_FOUND,
        ) from None


def _finish(flags: SearchFlags, session: Session, result: "Result") -> Report:
    """Writes the artefacts and returns the report."""
    from mallocgame import report

    artifacts = {
        "mapping": write_json(session.out / "mapping.json", result.to_json()),
        "overrides": write_text(
            session.out / "overrides.textproto", result.overrides_text()
        ),
    }
    artifacts |= report.write(result, session)
    columns, rows = result.verified_table()
    if rows:
        session.table("Judged by the compiler's own figures", columns, rows)
    return session.report(
        input=flags.input,
        unit="seconds",
        baselines=result.baselines,
        default=result.default,
        best=result.best,
        bound=result.bound,
        artifacts=artifacts,
        verified=result.verified(),
        target=result.target.name,
        extra=result.extra(),
    )


def _target(flags: SearchFlags, found: str | None) -> "Target":
    from compiler.targets import TARGETS

    name = flags.target or found or _DEFAULT_TARGET
    one_of("target", name, tuple(TARGETS))
    target = TARGETS[name]
    changes: dict[str, Any] = {}
    if flags.slow_bandwidth is not None:
        ratio = target.fast_read_bandwidth / target.slow_bandwidth
        slow = float(flags.slow_bandwidth)
        changes |= {"slow_bandwidth": slow, "fast_read_bandwidth": ratio * slow}
        changes |= {"fast_write_bandwidth": ratio * slow}
    if flags.clock is not None:
        if not flags.clock > 0:
            raise Failure(
                "bad_clock", f"--clock must be positive, not {flags.clock}", Exit.USAGE
            )
        changes["clock_hz"] = flags.clock
    return dataclasses.replace(target, **changes)


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(command, CommandFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
