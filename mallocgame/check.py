"""`python -m mallocgame.check DIR MAPPING`: has the production compiler confirm a mapping.

Recompiles the dump with the compile options that `mapping.json` hands over, judges the result as
the search does, and says what became of each decision. For a mapping from another machine, another
day or another version of the compiler.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from solvers.command import Exit, Failure, Flags, Report, Session, run, write_json

_NAME = "mallocgame.check"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckFlags(Flags):
    """Recompiles a dump with a mapping and compares it with the compiler's own."""

    input: Positional[Annotated[Path, arg(metavar="FILE|DIR")]]
    """The dump that the mapping is for."""
    mapping: Positional[Annotated[Path, arg(metavar="MAPPING")]]
    """A mapping.json."""
    strategy: str = "given"
    """Nothing is searched."""
    target: str = ""
    """The chip; by default what the dump was made for."""
    compile_timeout: float = 600.0
    """Seconds that one compile may take."""


def check(flags: CheckFlags, session: Session) -> Report:
    """Runs the whole command; see docs/commands.md."""
    from compiler.backends import overrides as msa
    from compiler.backends.honour import outcomes
    from compiler.hlo import build
    from compiler.targets import TARGETS
    from mallocgame import compiler_options, inputs
    from mallocgame.verify import Compiler
    from solvers.command import Verified

    try:
        options = compiler_options(flags.mapping)
    except OSError as error:
        why = error.strerror or str(error)
        raise Failure(
            "mapping_not_found", f"{flags.mapping}: {why}", Exit.NOT_FOUND
        ) from None
    except ValueError as error:
        raise Failure("not_a_mapping", str(error)) from None
    given = inputs.read(flags.input)
    target = TARGETS.get(flags.target or given.target_name or "tpu-v5e")
    if target is None:
        raise Failure("unknown_target", f"no target {flags.target!r}", Exit.USAGE)
    if given.source is None:
        raise Failure(
            "no_source", f"{given.path} has no before_optimizations.hlo.pb beside it"
        )
    decisions = msa.from_text(options.get(msa.OPTION, ""))
    known = {i.name for i in given.program.instructions}
    compiler = Compiler.from_dump(given.source, target, flags.compile_timeout)
    session.begin({"mapping": str(flags.mapping)})
    default = compiler.default()
    if options:
        ours = compiler.own(options)
        # Knobs may have changed the schedule.
        known |= {i.name for i in build(ours.compiled.scheduled_module).instructions}
    else:
        ours = default
    session.meter.spend(measurements=2)
    strange = [
        o.where.instruction for o in decisions if o.where.instruction not in known
    ]
    if strange:
        raise Failure(
            "another_program",
            f"{flags.mapping} is for another program: {given.program.name} has no "
            f"instruction {strange[0]} ({len(strange)} of {len(decisions)} are unknown)",
        )
    told = outcomes(decisions, ours.compiled) if decisions else []
    kept = sum(outcome.is_honoured for outcome in told)
    session.table(
        "Judged by the compiler's own figures",
        ("mapping", "judged us", "decisions honoured"),
        [
            ["compiler's own", f"{default.verdict.total * 1e6:.1f}", ""],
            ["this one", f"{ours.verdict.total * 1e6:.1f}", f"{kept}/{len(told)}"],
        ],
    )
    best = min(default.verdict.total, ours.verdict.total)
    failed: list[dict[str, Any]] = [
        {"decision": str(outcome.override), "instead": outcome.instead}
        for outcome in told
        if not outcome.is_honoured
    ]
    document = {
        "default": default.verdict.total,
        "mapping": ours.verdict.total,
        "not_honoured": failed,
    }
    return session.report(
        input=flags.input,
        unit="seconds",
        baselines={"xla": default.verdict.total, "mapping": ours.verdict.total},
        default="xla",
        best=best,
        bound=None,
        artifacts={"check": write_json(session.out / "check.json", document)},
        verified=Verified(
            by=default.compiled.version,
            baseline=default.verdict.total,
            best=best,
            honoured=kept / len(told) if told else 1.0,
        ),
        target=target.name,
        extra={"not_honoured": failed},
    )


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(check, CheckFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
