"""A whole plan: decisions, offsets in HBM, baselines, and how it is written down."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mallocgame.offload import packing
from mallocgame.offload.packing import Packing
from mallocgame.offload.problem import Candidate, Problem
from mallocgame.offload.residency import Residency, residency
from mallocgame.offload.search import (
    Chosen,
    Planner,
    by_seconds,
    by_size,
    search,
    together,
    usage,
)
from mallocgame.offload.timeline import Cover, Plan, clock, moved_bytes

_ATTEMPTS = 6  # Budgets tried because the packing of a plan did not fit.
_LEAST_MARGIN = 1 << 20


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a user calls things.

    Attributes:
        named: all `checkpoint_name`s of the function, in order.
        site: returns where in the source a candidate is made.
    """

    named: tuple[str, ...]
    site: Callable[[Candidate], str]


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What the search decided. Bytes, seconds.

    Attributes:
        plan: decisions with times, and their cost.
        residency: what is in HBM when.
        packing: offsets of the residents.
        baselines: seconds by name, None where it does not fit.
        default: the baseline to compare with.
        by: what found the plan.
    """

    plan: Plan
    residency: Residency
    packing: Packing
    baselines: Mapping[str, float | None]
    default: str
    by: str

    @property
    def peak(self) -> int:
        """Bytes of HBM, gaps between tensors included."""
        return self.residency.fixed + self.packing.height


def find(
    problem: Problem,
    seed: int,
    done: Callable[[], bool],
    bound: float,
    *,
    only_greedy: bool,
    before: Chosen | None,
    out_of_time: Callable[[], bool],
    spend: Callable[[int], None],
    tell: Callable[[float], Any],
) -> Outcome | None:
    """Returns the best plan that can be packed within the budget, or None.

    A plan is made for what is alive; where its packing needs more than the budget, the next one is
    made for as much less.

    Args:
        problem: the problem.
        seed: of the search.
        done: whether to stop; a first plan is made in any case.
        bound: seconds below which no plan can be.
        only_greedy: whether to leave out local search.
        before: choice of an earlier run to start from.
        out_of_time: whether to stop even if no plan has been packed yet, but for two attempts.
        spend: takes numbers of evaluations.
        tell: takes the seconds of a better plan.
    """
    margin = 0
    for attempt in range(_ATTEMPTS):
        if attempt > 1 and out_of_time():
            return None
        tight = dataclasses.replace(problem, budget=problem.budget - margin)
        best: Plan | None = None
        by = ""
        stop = (lambda: True) if only_greedy or (margin and done()) else done
        for found in search(tight, seed, stop, bound, before):
            spend(found.evaluations)
            if best is None or found.plan.total < best.total:
                tell(found.plan.total)
            best, by = found.plan, found.by
        if best is None:
            return None
        resident = residency(problem, best.decisions)
        packed = _pack(problem, resident, seed, out_of_time, spend)
        over = resident.fixed + packed.height - problem.budget
        if over <= 0:
            baselines = _baselines(problem, tight, spend)
            if all(cost is None for cost in baselines.values()):
                baselines["an_earlier_run"] = best.total
            default = next(name for name, cost in baselines.items() if cost is not None)
            return Outcome(best, resident, packed, baselines, default, by)
        margin += max(over * (2 + attempt) // 2, _LEAST_MARGIN)
    return None


def chosen_before(problem: Problem, document: Mapping[str, Any]) -> Chosen | None:
    """Returns the choice that an earlier run wrote down, or None."""
    numbers = {(c.kind, c.buffer): n for n, c in enumerate(problem.candidates)}
    chosen: Chosen = {}
    for entry in document.get("decisions", []):
        number = numbers.get((entry.get("kind"), entry.get("buffer")))
        if number is None:
            return None
        stays = entry["kind"] == "stack"
        chosen[number] = Cover() if stays else Cover(entry["gone"], entry["back"] - 1)
    return chosen or None


def to_json(problem: Problem, outcome: Outcome, labels: Labels) -> dict[str, Any]:
    """Returns the plan as `mapping.json` holds it; docs/gpu.md says what the keys mean."""
    program = problem.program
    decisions = []
    for decision in outcome.plan.decisions:
        candidate = problem.candidates[decision.candidate]
        decisions.append(
            {
                "kind": candidate.kind,
                "name": candidate.name,
                "site": labels.site(candidate),
                "buffer": candidate.buffer,
                "tensor": program.buffers[candidate.buffer].name,
                "bytes": candidate.size,
                "moved_bytes": moved_bytes(problem, candidate),
                "gone": decision.gone,
                "back": decision.back,
            }
        )
    moved = {d["name"] for d in decisions if d["kind"] != "argument"}
    return {
        "kind": "offload",
        "target": problem.target.name,
        "budget_bytes": problem.budget,
        "peak_bytes": outcome.peak,
        "seconds": outcome.plan.total,
        "names": {
            "offload": [name for name in labels.named if name in moved],
            "save": [name for name in labels.named if name not in moved],
            "pinned_host": sorted(
                d["name"] or d["tensor"] for d in decisions if d["kind"] == "argument"
            ),
            "unnamed": sorted(
                {
                    d["site"]
                    for d in decisions
                    if d["name"] is None and d["kind"] != "argument"
                }
            ),
        },
        "decisions": decisions,
        "heap": {
            "fixed_bytes": outcome.residency.fixed,
            "height_bytes": outcome.packing.height,
            "alignment": problem.target.alignment,
            "by": outcome.packing.by,
            "rectangles": list(_rectangles(problem, outcome)),
        },
    }


def summary(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one row per name (per tensor where it has none), by size."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in document["decisions"]:
        key = (entry["kind"], entry["name"] or entry["tensor"])
        row = rows.setdefault(key, {**entry, "bytes": 0, "moved_bytes": 0})
        row["bytes"] += entry["bytes"]
        row["moved_bytes"] += entry["moved_bytes"]
    return sorted(rows.values(), key=lambda row: (-row["bytes"], row["tensor"]))


def _rectangles(problem: Problem, outcome: Outcome) -> Iterator[dict[str, Any]]:
    buffers = problem.program.buffers
    for resident, offset in zip(outcome.residency.residents, outcome.packing.offsets):
        staging = None
        if resident.staging is not None:
            staging = problem.candidates[resident.staging].buffer
        label = resident.buffers[0] if staging is None else staging
        yield {
            "buffers": list(resident.buffers),
            "staging": staging,
            "tensor": buffers[label].name,
            "offset": int(offset),
            "parts": [list(part) for part in resident.item],
        }


def _pack(
    problem: Problem,
    resident: Residency,
    seed: int,
    out_of_time: Callable[[], bool],
    spend: Callable[[int], None],
) -> Packing:
    """Packs until it fits; the search ends by itself."""
    room = problem.budget - resident.fixed
    items = [r.item for r in resident.residents]
    packed: Packing | None = None
    for tried in packing.search(
        items, problem.target.alignment, seed, out_of_time, room=room
    ):
        spend(tried.evaluations)
        packed = tried.packing
    assert packed is not None
    return packed


def _baselines(
    problem: Problem, tight: Problem, spend: Callable[[int], None]
) -> dict[str, float | None]:
    """What others would do, in the order in which they serve to compare with."""
    planner = Planner(tight)
    found: dict[str, float | None] = {}
    stays = clock(problem, []).total
    found["all_in_hbm"] = stays if problem.peak <= tight.budget else None
    for name, rank in (("largest_first", by_size), ("greedy", by_seconds)):
        repaired = planner.repair({}, rank)
        found[name] = repaired[1].total if repaired else None
    everything = planner.plan(_everything(tight))
    fits = int(usage(tight, everything).max(initial=0)) <= tight.budget
    found["all_on_host"] = everything.total if fits else None
    spend(planner.evaluations)
    return found


def _everything(problem: Problem) -> Chosen:
    """All candidates, of each tensor the first; those of one name together."""
    chosen: Chosen = {}
    taken: set[int] = set()
    for numbers in together(problem):
        buffers: Sequence[int] = [problem.candidates[n].buffer for n in numbers]
        if not taken & set(buffers):
            taken |= set(buffers)
            chosen |= {n: Cover() for n in numbers}
    return chosen
