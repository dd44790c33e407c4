"""What `python -m mallocgame.search` does with a GPU or CPU dump.

GPU: decides what goes to the host so that the program fits the HBM asked for, packs what stays, and
packs XLA's own heap anew. CPU: packs XLA's own heap anew.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.hlo import Program, build, load
from compiler.hlo.buffers import BufferAssignment, load_buffers
from compiler.hlo.frames import load_places
from compiler.targets import TARGETS, Target
from mallocgame.offload import heap as heaps
from mallocgame.offload import naming
from mallocgame.offload import plan as plans
from mallocgame.offload.bound import lower_bound
from mallocgame.offload.check import check, check_packing
from mallocgame.offload.inputs import Located
from mallocgame.offload.problem import Problem
from mallocgame.offload.problem import build as build_problem
from solvers.command import (
    Exit,
    Failure,
    Report,
    Session,
    format_bytes,
    format_quantity,
    one_of,
    read_json,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from mallocgame.search import SearchFlags

_DEFAULT_TARGET = "gpu-h100"
_PLAN_SHARE = 0.6  # Of the budget: until then decisions, then offsets.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What the search came to, for the report and the JSON object.

    Attributes:
        located: the input.
        target: the chip; None for a CPU.
        assignment: XLA's.
        heaps: XLA's heaps with our packing.
        simple: peak of the program by order of packing.
        peaks: bytes that the program needs: `xla`, `ours`, `bound`.
        plan: decisions on what goes to the host, None for a CPU.
        notes: what a person should know.
        history: (evaluations, lowest cost so far).
    """

    located: Located
    target: Target | None
    assignment: BufferAssignment
    heaps: tuple[heaps.Heap, ...]
    simple: Mapping[str, int]
    peaks: Mapping[str, int]
    plan: plans.Outcome | None = None
    notes: Sequence[str] = ()
    history: Sequence[tuple[int, float]] = ()


def search(flags: "SearchFlags", session: Session, located: Located) -> Report:
    """Runs the whole command; see docs/gpu.md."""
    one_of("strategy", flags.strategy, ("auto", "greedy"))
    target = _target(flags, located)
    if flags.measure:
        raise Failure(
            "cannot_measure",
            "--measure is for TPU dumps: what was found for this one is no compile option",
            Exit.USAGE,
        )
    assignment = load_buffers(located.path)
    beside = located.path.parent / naming.FILE
    digest = hashlib.sha256(located.path.read_bytes())
    if beside.is_file():
        digest.update(beside.read_bytes())
    resumed = session.begin(
        {
            "input_sha256": digest.hexdigest(),
            "fast_bytes": flags.fast_bytes,
            "slow_bandwidth": flags.slow_bandwidth,
        }
    )
    if located.path != flags.input:
        others = f" (of {located.others + 1} modules)" if located.others else ""
        session.note(f"read {located.path.name}{others}")
    before = _before(session) if resumed and not session.repeats else {}
    if target is None:
        return _pack_only(flags, session, located, assignment, before)
    return _offload(flags, session, located, assignment, target, before)


def _pack_only(
    flags: "SearchFlags",
    session: Session,
    located: Located,
    assignment: BufferAssignment,
    before: Mapping[str, Any],
) -> Report:
    if flags.verify == "always":
        raise Failure(
            "cannot_verify", "XLA:CPU takes no offsets: nothing to verify", Exit.USAGE
        )
    history: list[tuple[int, float]] = []
    with session.progress("packing") as bar:
        result = _repack(
            session, located, assignment, session.meter.done, before, history
        )
        bar.update(format_bytes(result.peaks["ours"]))
    budget = flags.fast_bytes
    if budget is not None and result.peaks["ours"] > budget:
        raise Failure(
            "does_not_fit",
            f"the program needs {format_bytes(result.peaks['ours'])} "
            f"(at least {format_bytes(result.peaks['bound'])}), more than --fast-bytes "
            f"{format_bytes(budget)}",
            Exit.INFEASIBLE,
        )
    document = {
        "schema_version": 1,
        "kind": "packing",
        "target": "cpu",
        "peak_bytes": result.peaks["ours"],
        "xla_peak_bytes": result.peaks["xla"],
        "bound_bytes": result.peaks["bound"],
        "alignment": heaps.ALIGNMENT["cpu"],
        "heaps": [heaps.to_json(heap) for heap in result.heaps],
    }
    best = dataclasses.replace(result, history=history)
    _tell_peaks(session, best)
    return session.report(
        input=flags.input,
        unit="bytes",
        baselines={"xla": best.peaks["xla"], **best.simple},
        default="xla",
        best=best.peaks["ours"],
        bound=best.peaks["bound"],
        artifacts=_write(session, best, document),
        target="cpu",
        extra={"peak": dict(best.peaks)},
    )


def _offload(
    flags: "SearchFlags",
    session: Session,
    located: Located,
    assignment: BufferAssignment,
    target: Target,
    before: Mapping[str, Any],
) -> Report:
    if flags.verify == "always":
        raise Failure(
            "cannot_verify",
            "what goes to the host is decided in the JAX function, which a dump does not hold: "
            "apply the names and recompile (docs/gpu.md)",
            Exit.USAGE,
        )
    budget = target.fast_bytes if flags.fast_bytes is None else flags.fast_bytes
    program = build(load(located.path))
    problem, labels, notes = _problem(program, located, assignment, target, budget)
    for note in notes:
        session.note(note)
    bound = lower_bound(problem)
    if bound is None:
        raise _does_not_fit(problem, proven=True)
    history: list[tuple[int, float]] = []
    with session.progress("deciding what goes to the host") as bar:

        def tell(seconds: float) -> None:
            history.append((session.meter.simulations, seconds))
            bar.update(format_quantity(seconds, "seconds"))

        outcome = plans.find(
            problem,
            session.flags.seed,
            _until(session, _PLAN_SHARE),
            bound,
            only_greedy=flags.strategy == "greedy",
            before=plans.chosen_before(problem, before),
            out_of_time=session.meter.done,
            spend=lambda count: session.meter.spend(simulations=count),
            tell=tell,
        )
        if outcome is None:
            raise _does_not_fit(problem, proven=False)
        result = _repack(session, located, assignment, session.meter.done, before, [])
    document = plans.to_json(problem, outcome, labels)
    document |= {
        "schema_version": 1,
        "xla_peak_bytes": assignment.peak(),
        "xla_host_bytes": assignment.peak(5),
        "heaps": [heaps.to_json(heap) for heap in result.heaps],
    }
    wrong = check(document, program, assignment, target, problem.elapsed)
    if wrong:
        raise Failure("plan_is_wrong", wrong[0], Exit.CHECK_FAILED)
    best = dataclasses.replace(
        result, target=target, plan=outcome, notes=notes, history=history
    )
    _tell_plan(session, problem, best, document)
    _tell_peaks(session, best)
    return session.report(
        input=flags.input,
        unit="seconds",
        baselines=outcome.baselines,
        default=outcome.default,
        best=outcome.plan.total,
        bound=bound,
        artifacts=_write(session, best, document, problem),
        target=target.name,
        extra={
            "budget_bytes": budget,
            "decisions": len(document["decisions"]),
            "moved_bytes": outcome.plan.moved,
            "names": document["names"],
            "peak": dict(best.peaks),
            "plan_peak_bytes": outcome.peak,
            "live_peak_bytes": problem.peak,
        },
    )


def _problem(
    program: Program,
    located: Located,
    assignment: BufferAssignment,
    target: Target,
    budget: int,
) -> tuple[Problem, plans.Labels, list[str]]:
    """Returns the problem of what a user can apply."""
    problem = build_problem(program, target, budget, assignment)
    places = load_places(located.path)
    origins = naming.Origins(program, places)
    named = naming.load(located.path)
    candidates, missed = naming.label(program, problem.candidates, named or (), places)
    notes = []
    if named is None:
        notes.append(
            "no checkpoint names recorded beside the dump: mallocgame.offload.record does that; "
            "until then the plan names source lines"
        )
        kept = tuple(
            c
            for c in candidates
            if c.kind == "argument" or naming.is_residual(origins, c)
        )
    else:
        kept = tuple(c for c in candidates if c.name is not None)
        if missed:
            notes.append(f"no large tensor found for the names {', '.join(missed)}")
    labels = plans.Labels(
        named=tuple(dict.fromkeys(n.name for n in named or ())),
        site=lambda candidate: naming.site(origins, candidate),
    )
    return dataclasses.replace(problem, candidates=kept), labels, notes


def _repack(
    session: Session,
    located: Located,
    assignment: BufferAssignment,
    done: Callable[[], bool],
    before: Mapping[str, Any],
    history: list[tuple[int, float]],
) -> Result:
    """Packs XLA's own heaps anew, and checks what comes out."""
    alignment = heaps.ALIGNMENT[located.platform]
    start = heaps.heaps(assignment)
    found = list(start)
    earlier = before.get("heaps", [])

    def peak() -> int:
        return heaps.peak(assignment, [(h, h.ours) for h in found], alignment)

    simple = [heaps.simple(heap, alignment) for heap in start]
    for number, heap in enumerate(start):
        offsets = None
        if number < len(earlier):
            offsets = [b["offset"] for b in earlier[number]["buffers"]]
        for better, evaluations in heaps.search(
            heap, alignment, session.flags.seed, done, offsets
        ):
            session.meter.spend(simulations=evaluations)
            found[number] = better
            if not history or peak() < history[-1][1]:
                history.append((session.meter.simulations, float(peak())))
        ours = found[number].ours
        wrong = check_packing(ours.offsets.tolist(), heap.items, ours.height, alignment)
        if wrong:
            raise Failure("packing_is_wrong", wrong[0], Exit.CHECK_FAILED)
    return Result(
        located=located,
        target=None,
        assignment=assignment,
        heaps=tuple(found),
        simple={
            name: heaps.peak(
                assignment, [(h, s[name]) for h, s in zip(start, simple)], alignment
            )
            for name in (simple[0] if simple else ())
        },
        peaks={
            "xla": assignment.peak(),
            "ours": peak(),
            "bound": heaps.bound(assignment, start),
        },
    )


def _tell_peaks(session: Session, result: Result) -> None:
    xla = result.peaks["xla"]
    rows = [
        [name, format_bytes(size), f"{size / xla:.4f}" if xla else "-"]
        for name, size in (
            ("XLA's buffer assignment", xla),
            ("packed anew", result.peaks["ours"]),
            ("alive at once, at least", result.peaks["bound"]),
        )
    ]
    session.table("The module as XLA compiled it", ("", "peak", "of XLA's"), rows)


def _tell_plan(
    session: Session, problem: Problem, result: Result, document: Mapping[str, Any]
) -> None:
    assert result.plan is not None
    rows = [
        [
            row["name"] or row["site"],
            row["kind"],
            format_bytes(row["bytes"]),
            format_bytes(row["moved_bytes"]),
        ]
        for row in plans.summary(document)
    ]
    if rows:
        session.table(
            "To the host", ("what", "kind", "in HBM", "over the link, a run"), rows
        )
    else:
        session.note(
            f"all fits {format_bytes(problem.budget)} of HBM, nothing goes to the host; "
            "--fast-bytes asks for less"
        )


def _write(
    session: Session,
    result: Result,
    document: Mapping[str, Any],
    problem: Problem | None = None,
) -> dict[str, Path]:
    from mallocgame.offload import report

    return {
        "mapping": write_json(session.out / "mapping.json", document),
        "report": write_text(
            session.out / "report.html",
            report.render(result, problem, document, session),
        ),
    }


def _before(session: Session) -> Mapping[str, Any]:
    """What an earlier run left."""
    path = session.out / "mapping.json"
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _until(session: Session, share: float) -> Callable[[], bool]:
    meter = session.meter
    return lambda: meter.done() or meter.fraction() >= share


def _does_not_fit(problem: Problem, *, proven: bool) -> Failure:
    said = "no choice of" if proven else "the search found no choice of"
    return Failure(
        "does_not_fit",
        f"the program needs {format_bytes(problem.peak)} of HBM, and {said} what may go to "
        f"the host makes it fit {format_bytes(problem.budget)}",
        Exit.INFEASIBLE,
    )


def _target(flags: "SearchFlags", located: Located) -> Target | None:
    if located.platform == "cpu":
        return None
    name = flags.target or _DEFAULT_TARGET
    one_of("target", name, tuple(t for t in TARGETS if t.startswith("gpu-")))
    target = TARGETS[name]
    if flags.slow_bandwidth is not None:
        target = dataclasses.replace(target, slow_bandwidth=float(flags.slow_bandwidth))
    return target
