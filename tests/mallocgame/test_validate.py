"""The validator finds every kind of fault, and accepts nothing that would read old data."""

import dataclasses
import random
from collections.abc import Callable

import pytest

from mallocgame import mapping, validate
from mallocgame.instance import Problem
from mallocgame.mapping import Decision, Mapping
from mallocgame.validate import Reason
from tests.mallocgame import executor, play, programs

_SIZE, _PLACE = 5000, 8192  # Takes two granules.
P, X, Y, Z, W = range(5)
_LONG = 1e9  # Flops of an instruction that hides several copies.


def _problem() -> Problem:
    """P comes in; X, Y and Z are made of it; Z, updated, goes out; W takes time."""
    return programs.straight(
        [
            ([P], [X], _LONG),
            ([P], [Y], _LONG),
            ([X, Y], [Z], _LONG),
            ([X, Z], [Z], _LONG),
            ([X], [W], _LONG),
        ],
        [_SIZE] * 5,
        parameters=[P],
        live_out=[Z],
        capacity=4 * _PLACE,
    )


def _mapping() -> Mapping:
    """A valid mapping of it, by hand."""

    def stay(access: int, start: int, end: int, place: int) -> Decision:
        return Decision(
            access=access, action="NoCopy", start=start, end=end, offset=place * _PLACE
        )

    def drop(access: int) -> Decision:
        return Decision(access=access, action="Drop")

    fetched = dataclasses.replace(stay(2, 1, 2, 0), action="Copy", copy_point=1)
    written = dataclasses.replace(stay(8, 4, 5, 3), evict_point=5, evict_due=6)
    return Mapping(
        decisions=(
            drop(0),  # P read by 1.
            stay(1, 1, 1, 1),  # X made by 1.
            fetched,  # P read by 2.
            stay(3, 2, 2, 2),  # Y made by 2.
            stay(4, 2, 3, 1),  # X read by 3.
            stay(5, 3, 3, 2),  # Y read by 3.
            stay(6, 3, 3, 3),  # Z made by 3.
            stay(7, 4, 4, 1),  # X read by 4.
            written,  # Z updated by 4.
            stay(9, 5, 5, 1),  # X read by 5.
            drop(10),  # W made by 5.
            drop(11),  # Z goes out at 6.
        )
    )


def _with(**changes: object) -> Mapping:
    """The valid mapping with one decision changed, given by its access."""
    decisions = list(_mapping().decisions)
    number = changes.pop("access")
    assert isinstance(number, int)
    decisions[number] = dataclasses.replace(decisions[number], **changes)  # type: ignore[arg-type]
    return Mapping(decisions=tuple(decisions))


def _dropped(*accesses: int) -> Mapping:
    decisions = list(_mapping().decisions)
    for access in accesses:
        decisions[access] = Decision(access=access, action="Drop")
    return Mapping(decisions=tuple(decisions))


def _reasons(problem: Problem, answer: Mapping) -> set[Reason]:
    return {violation.reason for violation in validate.check(problem, answer)}


def test_the_access_list_is_as_assumed() -> None:
    found = [(a.buffer, a.time, a.must_drop) for a in _problem().accesses]
    made = [(P, 1), (X, 1), (P, 2), (Y, 2), (X, 3), (Y, 3), (Z, 3), (X, 4), (Z, 4)]
    expected = [*made, (X, 5), (W, 5)]
    assert found == [*((b, t, False) for b, t in expected), (Z, 6, True)]


def test_valid_mappings_pass() -> None:
    problem = _problem()
    validate.require_valid(problem, _mapping())
    executor.execute(problem, _mapping())
    assert validate.check(problem, mapping.all_slow(problem)) == []


@pytest.mark.parametrize(
    ("reason", "broken"),
    [
        (Reason.MALFORMED, Mapping(decisions=_mapping().decisions[:-1])),
        (Reason.MALFORMED, _with(access=3, action="Evict")),
        (Reason.MALFORMED, _with(access=3, offset=None)),
        (Reason.MALFORMED, _with(access=0, offset=0)),
        (Reason.MALFORMED, _with(access=2, copy_point=None)),
        (Reason.MALFORMED, _with(access=8, evict_due=None)),
        (Reason.MALFORMED, _with(access=1, start=-1)),
        (Reason.MALFORMED, _with(access=1, copy_late=True)),
        (Reason.MALFORMED, _with(access=2, evict_late=True)),
        (Reason.MISALIGNED, _with(access=2, offset=1)),
        (Reason.OVER_CAPACITY, _with(access=8, offset=4 * _PLACE - 4096)),
        (Reason.OVERLAP, _with(access=3, offset=_PLACE)),
        (Reason.NOT_ENCLOSED, _with(access=3, enclosed=True, start=None, end=None)),
        (Reason.MUST_DROP, _with(access=11, action="NoCopy", start=6, end=6, offset=0)),
        (Reason.TOO_SHORT, _with(access=9, end=4)),
        (Reason.TOO_SHORT, _with(access=3, start=3)),
        (Reason.TOO_SHORT, _with(access=8, end=4)),  # Gone before it is written back.
        (Reason.MOVED, _with(access=5, offset=0)),
        (Reason.NOT_CONTIGUOUS, _with(access=4, start=3)),
        (Reason.NOT_IN_FAST, _dropped(4)),
        (Reason.NOT_IN_SLOW, _dropped(7)),
        (Reason.NOT_IN_SLOW, _with(access=2, copy_point=0, start=0)),
        (Reason.NOT_IN_SLOW, _with(access=8, evict_point=None, evict_due=None)),
        (Reason.NOT_IN_SLOW, _with(access=1, action="Copy", copy_point=1)),
        (Reason.OTHER_COMPUTATION, _with(access=8, evict_due=8)),
        (Reason.BAD_WRITE_BACK, _with(access=8, evict_point=4)),
        (Reason.BAD_WRITE_BACK, _with(access=8, evict_due=5)),
        (Reason.BAD_WRITE_BACK, _with(access=6, evict_point=4, evict_due=5)),
        (Reason.LATE_READ, _with(access=2, copy_point=3)),
        (Reason.LATE_READ, _with(access=2, copy_point=2)),
    ],
)
def test_a_fault_is_named(reason: Reason, broken: Mapping) -> None:
    violations = validate.check(_problem(), broken)
    assert reason in {violation.reason for violation in violations}
    for violation in violations:
        if violation.access is not None:
            assert "buffer buffer." in violation.message


def test_copies_must_end_in_time() -> None:
    rows = [([], [1], 0.0), ([0], [1], 0.0), ([], [1], 0.0)]
    problem = programs.straight(
        [*rows, ([], [0], 0.0), ([], [1], 0.0)],
        [_SIZE * 100, _SIZE],
        parameters=[0],
        live_out=[0],
        capacity=400 * _PLACE,
    )
    at = {(a.buffer, a.time): a.number for a in problem.accesses}
    decisions = [Decision(access=i, action="Drop") for i in range(len(at))]
    # Only the making of the small one goes on beside either.
    read, written = at[0, 2], at[0, 4]
    decisions[read] = Decision(
        access=read, action="Copy", start=1, end=2, offset=0, copy_point=1
    )
    decisions[written] = Decision(
        access=written,
        action="NoCopy",
        start=4,
        end=5,
        offset=0,
        evict_point=5,
        evict_due=6,
    )
    found = validate.check(problem, Mapping(decisions=tuple(decisions)))
    faults = {(v.reason, v.access) for v in found}
    assert faults == {(Reason.LATE_READ, read), (Reason.LATE_WRITE, written)}
    # Unless the instructions are said to wait for them.
    decisions[read] = dataclasses.replace(decisions[read], copy_late=True)
    decisions[written] = dataclasses.replace(decisions[written], evict_late=True)
    assert validate.check(problem, Mapping(decisions=tuple(decisions))) == []


def test_first_come_is_first_served() -> None:
    # A long copy in front leaves no time for the short one, though that is due first.
    sizes = [_SIZE * 1000, _SIZE, _SIZE, _SIZE]
    rows = [([], [2], 0.0), ([], [2], 1e7), ([1], [3], 1e12), ([0], [3], 0.0)]
    problem = programs.straight(rows, sizes, parameters=[0, 1], capacity=10**8)
    at = {(a.buffer, a.time): a.number for a in problem.accesses}
    decisions = [Decision(access=i, action="Drop") for i in range(len(at))]
    long, short = at[0, 4], at[1, 3]
    decisions[short] = Decision(
        access=short, action="Copy", start=2, end=3, offset=0, copy_point=2
    )
    assert validate.check(problem, Mapping(decisions=tuple(decisions))) == []
    decisions[long] = Decision(
        access=long, action="Copy", start=1, end=4, offset=_PLACE, copy_point=1
    )
    found = validate.check(problem, Mapping(decisions=tuple(decisions)))
    assert [(v.reason, v.access) for v in found] == [(Reason.LATE_READ, short)]


def test_copies_in_flight_are_counted() -> None:
    problem = _problem()
    target = dataclasses.replace(problem.costs.target, max_outstanding=0)
    costs = dataclasses.replace(problem.costs, target=target)
    problem = dataclasses.replace(problem, costs=costs)
    assert _reasons(problem, _mapping()) == {Reason.TOO_MANY_COPIES}


def test_what_can_never_be_fast_is_refused() -> None:
    problem = _problem()
    buffers = list(problem.program.buffers)
    buffers[X] = dataclasses.replace(buffers[X], never_fast_reason="a scalar")
    program = dataclasses.replace(problem.program, buffers=tuple(buffers))
    problem = dataclasses.replace(problem, program=program)
    assert _reasons(problem, _mapping()) == {Reason.NEVER_FAST}


def test_an_asynchronous_operation_keeps_its_place() -> None:
    problem = _problem()
    listed = list(problem.program.instructions)
    start = dataclasses.replace(listed[1].node, opcode="copy-start")
    done = dataclasses.replace(listed[3].node, opcode="copy-done", operands=(start,))
    listed[1] = dataclasses.replace(listed[1], node=start)
    listed[3] = dataclasses.replace(listed[3], node=done)
    program = dataclasses.replace(problem.program, instructions=tuple(listed))
    problem = dataclasses.replace(problem, program=program)
    assert validate.check(problem, _mapping()) == []
    decisions = list(_dropped(4, 7, 9).decisions)
    decisions[1] = dataclasses.replace(decisions[1], end=2, evict_point=2, evict_due=3)
    broken = Mapping(decisions=tuple(decisions))
    assert _reasons(problem, broken) == {Reason.SPLIT_ASYNC}


def test_cross_program_prefetches_are_of_what_stays_the_same() -> None:
    rows = [([P], [X], _LONG), ([X], [P], _LONG)]
    problem = programs.straight(
        rows,
        [_SIZE] * 2,
        parameters=[P],
        capacity=4 * _PLACE,
        cross_program=[P],
    )
    everywhere = Decision(
        access=0, action="Copy", start=0, end=3, offset=0, copy_point=0
    )
    inside = [
        Decision(access=a.number, action="NoCopy", enclosed=True, offset=0)
        if a.buffer == P
        else Decision(access=a.number, action="Drop")
        for a in problem.accesses[1:]
    ]
    answer = Mapping(decisions=(everywhere, *inside))
    assert _reasons(problem, answer) == {Reason.BAD_CROSS_PROGRAM}
    none = problem.instance._replace(max_cross_program=0)
    problem = dataclasses.replace(problem, instance=none)
    assert Reason.TOO_MANY_CROSS_PROGRAM in _reasons(problem, answer)


def test_the_error_says_what_is_wrong() -> None:
    with pytest.raises(validate.InvalidMapping) as caught:
        validate.require_valid(_problem(), _with(access=3, offset=_PLACE))
    assert caught.value.exit_status == 6
    assert "buffer.2 at instruction fusion.2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {v.reason for v in caught.value.violations} >= {Reason.OVERLAP}


# Faults that only cost time, or that the executor does not model.
_HARMLESS = {Reason.LATE_WRITE, Reason.TOO_MANY_COPIES, Reason.TOO_MANY_CROSS_PROGRAM}


@pytest.mark.slow
def test_whatever_passes_reads_no_old_data() -> None:
    """Mutates valid mappings of programs with loops and branches, good and bad alike."""
    problems = [programs.synthetic(seed) for seed in range(2000, 2064)]
    accepted = refused = 0
    for number, game in enumerate(play.one_each(problems, seed=7)):
        problem = problems[number]
        valid = mapping.from_state(problem, game.state)
        for turn in range(80):
            rng = random.Random(1000 * number + turn)
            mutant = _mutant(rng, problem, valid)
            reasons = _reasons(problem, mutant)
            if reasons - _HARMLESS:
                refused += 1
                continue
            accepted += mutant != valid
            for trips in range(3):
                executor.execute(problem, mutant, _always(trips), rng.randrange)
    assert accepted > 100
    assert refused > 1000


def _always(trips: int) -> Callable[[], int]:
    return lambda: trips


def _mutant(rng: random.Random, problem: Problem, valid: Mapping) -> Mapping:
    decisions = list(valid.decisions)
    for _ in range(rng.choice([1, 1, 2, 4])):
        number = rng.randrange(len(decisions))
        decisions[number] = _changed(rng, problem, decisions, number)
    return Mapping(decisions=tuple(decisions))


def _changed(
    rng: random.Random, problem: Problem, decisions: list[Decision], number: int
) -> Decision:
    decision, access = decisions[number], problem.accesses[number]
    places = [d.offset for d in decisions if d.offset is not None] or [0]
    alter = dataclasses.replace
    match rng.randrange(8):
        case 0:
            return Decision(access=number, action="Drop")
        case 1 if decision.offset is not None:
            return alter(decision, offset=rng.choice(places))
        case 2 if decision.copy_point is not None:
            point = max(0, decision.copy_point + rng.choice([-3, -2, -1, 1, 2]))
            return alter(
                decision, copy_point=point, start=rng.choice([point, decision.start])
            )
        case 3 if decision.evict_point is not None and decision.evict_due is not None:
            point = max(0, decision.evict_point + rng.choice([-1, 0, 1]))
            due = max(0, decision.evict_due + rng.choice([-2, -1, 0, 1]))
            return alter(decision, evict_point=point, evict_due=due)
        case 4 if decision.evict_point is not None:
            return alter(decision, evict_point=None, evict_due=None)
        case 5 if decision.end is not None:
            return alter(
                decision, end=max(0, decision.end + rng.choice([-2, -1, 1, 2]))
            )
        case 6 if decision.end is not None and decision.evict_point is None:
            due = decision.end + 1 + rng.randint(1, 4)
            end = rng.choice([decision.end, due - 1])
            return alter(decision, evict_point=decision.end + 1, evict_due=due, end=end)
        case 7:
            return _anew(rng, problem, decisions, number, rng.choice(places))
    return alter(decision, access=access.number)


def _anew(
    rng: random.Random,
    problem: Problem,
    decisions: list[Decision],
    number: int,
    place: int,
) -> Decision:
    """A decision for fast memory that may be right."""
    access = problem.accesses[number]
    outer, before = access.enclosing, access.previous
    if outer is not None and decisions[outer.number].action != "Drop":
        offset = decisions[outer.number].offset
        return Decision(access=number, action="NoCopy", enclosed=True, offset=offset)
    stay = Decision(
        access=number, action="NoCopy", start=access.time, end=access.end, offset=place
    )
    if before is not None and rng.random() < 0.4:
        last = decisions[before.number]
        if last.end is not None:
            return dataclasses.replace(stay, start=last.end + 1, offset=last.offset)
    if rng.random() < 0.5:
        return stay
    point = rng.randint(max(0, access.time - 5), access.time)
    return dataclasses.replace(stay, action="Copy", start=point, copy_point=point)
