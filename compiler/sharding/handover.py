"""Hands the answer over: the best plan and the front, checked, written, with the report."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.sharding import candidates, equal, explore, report
from compiler.sharding.candidates import Candidate, worth
from compiler.sharding.explore import Found
from compiler.sharding.inputs import Input
from solvers.command import Exit, Failure, Report, Session, Verified, write_json

if TYPE_CHECKING:
    from compiler.sharding.search import SearchFlags


def hand_over(
    flags: "SearchFlags",
    session: Session,
    given: Input,
    found: Found,
    compiled: list[Candidate],
) -> Report:
    """Checks the answer, writes the artefacts and returns the report.

    Args:
        flags: of the command.
        session: that it runs in.
        given: the program.
        found: by the model.
        compiled: what the compiler was asked for, in order; nothing without a compiler.

    Raises:
        Failure: status 5 if nothing that was compiled is feasible, 6 if a plan changes the results.
    """
    judged = [one for one in compiled if math.isfinite(one.cycles)]
    if compiled and not judged:
        raise Failure(
            "infeasible",
            f"none of {len(compiled)} compiled plans is feasible; the last: {compiled[-1].failure}",
            Exit.INFEASIBLE,
        )
    shown = compiled or explore.uncompiled(found)
    best = min(shown, key=worth)
    front = candidates.front(compiled) or explore.uncompiled_front(found)
    if best not in front:
        front = [best, *front]
    artifacts = {"plan": save(session.out / "plan.json", best)}
    folder = session.out / "front"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    paths = [
        save(folder / f"{number}.json", one) for number, one in enumerate(front, 1)
    ]
    checked = equal.compare(flags, session, given, paths, runs=1 + len(front))
    artifacts |= report.write(session, found, compiled, shown, best, front, checked)

    def cost(one: Candidate) -> float:
        return one.cycles if judged else one.predicted

    baselines: dict[str, float | None] = dict.fromkeys(given.subject.plans)
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
            "program": given.digest,
            "equal": [one._asdict() for one in checked],
            "front": [
                {"plan": str(path), **_figures(one)}
                for path, one in zip(paths, front, strict=True)
            ],
            "plans": [{"name": one.name, **_figures(one)} for one in shown],
        },
    )


def save(path: Path, one: Candidate) -> Path:
    """Writes a candidate's plan, with what was judged of it."""
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


def _figures(one: Candidate) -> dict[str, float | str | bool | None]:
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


def _table(session: Session, shown: Sequence[Candidate], best: Candidate) -> None:
    rows = [
        (
            f"{one.name} *" if one is best else one.name,
            f"{one.predicted:,.0f}",
            f"{one.cycles:,.0f}"
            if math.isfinite(one.cycles)
            else one.failure[:60] or "-",
            f"{one.arguments:,.0f}",
            report.words(one),
        )
        for one in shown
    ]
    session.table(
        "Cycles of one device, and MiB of its arguments",
        ("plan", "model", "compiled", "MiB", "cuts"),
        rows,
    )
