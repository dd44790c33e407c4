"""The independent check accepts the search's plans and rejects each way to spoil one."""

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compiler.hlo import Program, build, load
from compiler.hlo.buffers import BufferAssignment, load_buffers
from compiler.hlo.frames import load_places
from compiler.targets import TARGETS
from mallocgame.offload import naming
from mallocgame.offload import plan as plans
from mallocgame.offload import problem as problems
from mallocgame.offload.bound import lower_bound
from mallocgame.offload.check import check
from mallocgame.offload.problem import Problem

ROOT = Path(__file__).parents[3]
SCANNED = next((ROOT / "examples/gpu_offload/dump").glob("*gpu_after*"))
UNROLLED = Path(__file__).parent / "golden/unrolled.gpu_after_optimizations.hlo.pb.gz"
TARGET = TARGETS["gpu-h100"]
Document = dict[str, Any]


class Solved:
    def __init__(self, path: Path, share: float) -> None:
        self.program: Program = build(load(path))
        self.assignment: BufferAssignment = load_buffers(path)
        problem = problems.build(self.program, TARGET, 0, self.assignment)
        named = naming.load(path)
        assert named is not None
        candidates, _ = naming.label(
            self.program, problem.candidates, named, load_places(path)
        )
        self.problem: Problem = dataclasses.replace(
            problem,
            budget=int(share * problem.peak),
            candidates=tuple(c for c in candidates if c.name is not None),
        )
        bound = lower_bound(self.problem)
        assert bound is not None
        outcome = plans.find(
            self.problem,
            0,
            lambda: True,
            bound,
            only_greedy=True,
            before=None,
            out_of_time=lambda: False,
            spend=lambda count: None,
            tell=lambda seconds: None,
        )
        assert outcome is not None
        labels = plans.Labels((), lambda candidate: "")
        self.document: Document = plans.to_json(self.problem, outcome, labels)

    def reasons(self, document: Document) -> list[str]:
        return check(
            document, self.program, self.assignment, TARGET, self.problem.elapsed
        )

    def first(self, kind: str) -> int:
        return next(
            n for n, d in enumerate(self.document["decisions"]) if d["kind"] == kind
        )


@pytest.fixture(scope="module")
def scanned() -> Solved:
    return Solved(SCANNED, 0.55)


@pytest.fixture(scope="module")
def unrolled() -> Solved:
    return Solved(UNROLLED, 0.85)


def test_plans_pass(scanned: Solved, unrolled: Solved) -> None:
    for solved in (scanned, unrolled):
        assert solved.reasons(solved.document) == []
    kinds = {d["kind"] for d in scanned.document["decisions"]}
    assert {"stack", "argument"} <= kinds
    assert "gap" in {d["kind"] for d in unrolled.document["decisions"]}


def _less_budget(d: Document) -> None:
    d["budget_bytes"] = d["peak_bytes"] - 1


def _smaller_peak(d: Document) -> None:
    d["peak_bytes"] -= 1


def _less_time(d: Document) -> None:
    d["seconds"] *= 0.9


def _less_fixed(d: Document) -> None:
    d["heap"]["fixed_bytes"] -= 256
    d["peak_bytes"] -= 256


def _lower_rectangle(d: Document) -> None:
    highest = max(d["heap"]["rectangles"], key=lambda r: r["offset"])
    highest["offset"] -= 256


def _crooked_rectangle(d: Document) -> None:
    d["heap"]["rectangles"][0]["offset"] += 1


def _missing_rectangle(d: Document) -> None:
    rectangles = d["heap"]["rectangles"]
    rectangles.remove(max(rectangles, key=lambda r: r["parts"][0][2]))


def _shorter_rectangle(d: Document) -> None:
    part = max(d["heap"]["rectangles"], key=lambda r: r["parts"][0][2])["parts"][0]
    part[1] -= 1


def _two_in_one_place(d: Document) -> None:
    held = [r for r in d["heap"]["rectangles"] if r["buffers"]]
    for a in held[::7]:
        for b in held[::5]:
            if a is not b and _together(a, b):
                a["buffers"] += b["buffers"]
                return


def _together(a: Document, b: Document) -> bool:
    return any(
        p[0] + 1 < q[1] and q[0] + 1 < p[1] for p in a["parts"] for q in b["parts"]
    )


def _forgotten_decision(d: Document) -> None:
    del d["decisions"][0]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_less_budget, "exceed the budget"),
        (_smaller_peak, "the peak is"),
        (_less_time, "it takes"),
        (_less_fixed, "arguments, results and constants"),
        (_lower_rectangle, "overlap"),
        (_crooked_rectangle, "not aligned"),
        (_missing_rectangle, "is not in HBM at time"),
        (_shorter_rectangle, "is not in HBM at time"),
        (_two_in_one_place, "shares a place"),
        (_forgotten_decision, "is not in HBM|arguments, results"),
    ],
)
@pytest.mark.parametrize("name", ["scanned", "unrolled"])
def test_spoiled_plans_are_rejected(
    name: str,
    spoil: Callable[[Document], None],
    said: str,
    request: pytest.FixtureRequest,
) -> None:
    solved: Solved = request.getfixturevalue(name)
    document = copy.deepcopy(solved.document)
    spoil(document)
    reasons = solved.reasons(document)
    assert any(re.search(said, reason) for reason in reasons), reasons


def test_a_tensor_away_when_it_is_read(unrolled: Solved) -> None:
    document = copy.deepcopy(unrolled.document)
    gap = document["decisions"][unrolled.first("gap")]
    gap["gone"] = 0
    assert any("touched" in r or "no room" in r for r in unrolled.reasons(document))
    document = copy.deepcopy(unrolled.document)
    gap = document["decisions"][unrolled.first("gap")]
    gap["back"] = len(unrolled.program.instructions)
    assert any("touched" in r or "no room" in r for r in unrolled.reasons(document))


def test_an_argument_back_too_late(scanned: Solved) -> None:
    document = copy.deepcopy(scanned.document)
    argument = document["decisions"][scanned.first("argument")]
    argument["back"] = argument["gone"] = len(scanned.program.instructions)
    assert any("away when it is needed" in r for r in scanned.reasons(document))


def test_a_stack_without_room_for_its_slices(scanned: Solved) -> None:
    document = copy.deepcopy(scanned.document)
    rectangles = document["heap"]["rectangles"]
    staging = next(r for r in rectangles if r["staging"] is not None)
    rectangles.remove(staging)
    assert any("no room for its slice" in r for r in scanned.reasons(document))


def test_a_link_asked_for_too_much(scanned: Solved) -> None:
    """With the chip's link at a hundredth, the same plan takes longer than it says."""
    slow = dataclasses.replace(TARGET, slow_bandwidth=TARGET.slow_bandwidth / 100)
    reasons = check(
        scanned.document,
        scanned.program,
        scanned.assignment,
        slow,
        scanned.problem.elapsed,
    )
    assert any("of the link is asked for" in reason for reason in reasons)
