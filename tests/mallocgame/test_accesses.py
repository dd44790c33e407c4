"""Which decisions there are to make."""

from mallocgame import instance
from mallocgame.types import COPY
from tests.mallocgame import programs
from tests.mallocgame.test_game import _init, _step

P, X, Y, Z = range(4)


def test_every_use_and_value_is_decided_once_or_never() -> None:
    for seed in range(20):
        problem = programs.synthetic(seed)
        decided = [(a.buffer, a.time) for a in problem.accesses if not a.is_region]
        written = [(a.buffer, a.time) for a in problem.accesses if a.must_drop]
        expected = {
            (buffer.id, touch.time)
            for buffer in problem.program.buffers
            for touch in (*buffer.uses, *buffer.values)
            if buffer.never_fast_reason is None and touch.node.opcode == "fusion"
        }
        assert sorted(decided) == sorted([*expected, *written])


def test_what_an_asynchronous_operation_uses_stays_in_slow_memory() -> None:
    problem = programs.straight(
        [([P], [X], 0.0), ([P], [Y], 0.0), ([X], [], 0.0), ([X, Y], [Z], 0.0)],
        [4096] * 4,
        parameters=[P],
        live_out=[Z],
        capacity=1 << 20,
        opcodes=["copy-start", "fusion", "copy-done"],
    )
    assert {access.buffer for access in problem.accesses} == {Y, Z}


def test_a_copy_that_takes_longer_than_the_program_never_fits() -> None:
    base = programs.straight(
        [([], [X], 0.0), ([P], [Z], 0.0)],
        [1 << 26, 4096, 4096, 4096],
        parameters=[P],
        capacity=1 << 30,
    )
    # Nothing but the making of X takes time.
    base.costs.base[2] = 0.0
    problem = instance.build(base.program, base.costs, capacity=base.capacity)
    state = _init(problem.instance)
    seen = 0
    for access in problem.accesses:
        if access.buffer == P:
            seen += 1
            assert not state.legal_action_mask[COPY]
        state = _step(problem.instance, state, 2)
    assert seen == 1
