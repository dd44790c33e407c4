"""Properties of the game, on compiled programs and on random ones with loops and branches."""

import dataclasses
import itertools
import math
import random
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compiler.cost.model import Placement
from compiler.cost.simulator import Copies, pack, simulate
from mallocgame import game, mapping, priority, rollout, validate
from mallocgame.instance import Problem, build
from mallocgame.mapping import Mapping
from mallocgame.types import COPY, DROP, NO_COPY, Instance, State
from tests.mallocgame import executor, play, programs
from tests.mallocgame.play import Episode

# Compiled programs, with a share of the fast memory that makes room scarce; games to play.
_GOLDEN = [
    ("mlp", 0.2, 1000),
    ("lstm_scan", 0.05, 1000),
    ("deblur_while", 0.5, 1000),
    ("moe_block", 0.3, 1000),
    ("early_exit_cond", 0.1, 200),
]
_SYNTHETIC, _ROUNDS = 240, 25

_step = jax.jit(game.step)
_init = jax.jit(game.init)
_replay = jax.jit(play.replay)
_timeline = jax.jit(rollout.timeline)


def _golden(name: str, share: float) -> Problem:
    problem = programs.golden(name, share)
    crossing = priority.cross_program_candidates(problem.program, problem.capacity, 3)
    return programs.golden(name, share, crossing)


def _check(problem: Problem, episode: Episode, seed: int) -> None:
    """All that is true of any game that was played to its end."""
    count = len(problem.accesses)
    assert bool(episode.ended[count - 1])
    assert not episode.ended[: count - 1].any()
    answer = mapping.from_state(problem, episode.state)
    validate.require_valid(problem, answer)
    rng = random.Random(seed)
    executor.execute(problem, answer, lambda: rng.randint(0, 2), rng.randrange)
    all_slow = float((problem.costs.all_slow * problem.costs.counts.trip_count).sum())
    saved = 1 - _seconds(problem, answer) / all_slow
    assert math.isclose(episode.rewards.sum(), saved, abs_tol=1e-5)
    assert not episode.rewards[count:].any()


def _seconds(problem: Problem, answer: Mapping) -> float:
    """The analytic time of a mapping, from the cost model."""
    operands: dict[int, set] = {}
    outputs: dict[int, set] = {}
    for access, decision in zip(problem.accesses, answer.decisions, strict=True):
        if decision.action != "Drop" and not access.is_region:
            slots = {(use.operand, use.index) for use in access.uses}
            operands.setdefault(access.time, set()).update(slots)
            outputs.setdefault(access.time, set()).update(
                v.index for v in access.values
            )
    return sum(
        instruction.trip_count
        * problem.costs.elapsed(
            instruction.time,
            Placement(
                frozenset(operands.get(instruction.time, ())),
                frozenset(outputs.get(instruction.time, ())),
            ),
        )
        for instruction in problem.program.instructions
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share", "games"), _GOLDEN)
def test_random_play_of_compiled_programs(name: str, share: float, games: int) -> None:
    problem = _golden(name, share)
    backups = 0
    for seed, episode in enumerate(play.episodes(problem, 0, games)):
        _check(problem, episode, seed)
        backups += int(episode.state.num_backups)
    assert backups > 0


def _play_synthetic(first: int, rounds: Iterable[int]) -> None:
    problems = [programs.synthetic(first + k) for k in range(_SYNTHETIC)]
    kinds = ["backup", "write-back", "late write-back", "late copy", "at the end"]
    seen: dict[str, int] = dict.fromkeys([*kinds, "crossing", "region"], 0)
    for turn in rounds:
        batch = play.one_each(problems, turn)
        for problem, episode in zip(problems, batch, strict=True):
            _check(problem, episode, turn)
            state = episode.state
            seen["backup"] += int(state.num_backups)
            seen["write-back"] += int((state.evict_point >= 0).sum())
            seen["late write-back"] += int(state.evict_late.sum())
            seen["late copy"] += int(state.copy_late.sum())
            end = len(problem.program.instructions)
            seen["at the end"] += int((state.evict_end == end).sum())
            seen["crossing"] += int(state.num_cross_program)
            seen["region"] += any(
                access.is_region and state.action[access.number] != DROP
                for access in problem.accesses
            )
    assert min(seen.values()) > 0


def test_random_play_of_random_programs() -> None:
    _play_synthetic(0, range(2))


@pytest.mark.slow
def test_more_random_play_of_random_programs() -> None:
    _play_synthetic(0, range(2, _ROUNDS))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, 13))
def test_much_random_play_of_random_programs(part: int) -> None:
    _play_synthetic(_SYNTHETIC * part, range(34))


def test_replaying_games_one_by_one_rebuilds_the_batch() -> None:
    problems = [programs.synthetic(seed) for seed in range(6)]
    for problem, episode in zip(problems, play.one_each(problems, 3), strict=True):
        again = jax.device_get(_replay(problem.instance, episode.plan, episode.actions))
        # The last reward is that of a terminated position.
        jax.tree.map(np.testing.assert_array_equal, again, episode.state)


def test_programs_of_one_bucket_compile_once() -> None:
    traces = 0

    def step(instance: Instance, state: State, action: int) -> State:
        nonlocal traces
        traces += 1
        return game.step(instance, state, action)

    step = jax.jit(step)
    for seed in (0, 1):
        instance = programs.synthetic(seed).instance
        state = _init(instance)
        for _ in range(3):
            state = step(instance, state, DROP)
    assert traces == 1


def _all(problem: Problem, action: int) -> tuple[State, float]:
    """Plays one action wherever it is legal, else the first legal one."""
    state, total = _init(problem.instance), 0.0
    for _ in problem.accesses:
        legal = np.flatnonzero(state.legal_action_mask)
        chosen = action if action in legal else legal[0]
        state = _step(problem.instance, state, chosen)
        total += float(state.reward)
    assert state.terminated
    return state, total


@pytest.mark.parametrize("seed", range(3))
def test_dropping_everything_saves_nothing(seed: int) -> None:
    problem = programs.synthetic(seed)
    state, total = _all(problem, DROP)
    assert total == 0.0
    answer = mapping.from_state(problem, jax.device_get(state))
    assert answer == mapping.all_slow(problem)
    assert int(state.num_backups) == 0
    slow = float(problem.instance.all_slow_seconds)
    np.testing.assert_allclose(
        _timeline(problem.instance, state).total, slow, rtol=1e-5
    )
    np.testing.assert_allclose(_seconds(problem, answer), slow, rtol=1e-5)


def test_a_terminated_game_stays_as_it_is() -> None:
    problem = programs.synthetic(0)
    state, _ = _all(problem, COPY)
    for action in (NO_COPY, COPY, DROP):
        again = _step(problem.instance, state, action)
        assert float(again.reward) == 0.0
        jax.tree.map(
            np.testing.assert_array_equal, again._replace(reward=state.reward), state
        )


def test_an_illegal_action_is_a_drop() -> None:
    problem = programs.synthetic(0)
    state = _init(problem.instance)
    assert not state.legal_action_mask[NO_COPY] or not state.legal_action_mask[COPY]
    illegal = int(np.flatnonzero(~np.asarray(state.legal_action_mask))[0])
    after = _step(problem.instance, state, illegal)
    dropped = _step(problem.instance, state, DROP)
    jax.tree.map(np.testing.assert_array_equal, after, dropped)


def _limitless(problem: Problem) -> Problem:
    """The problem with copies that take no time and are not limited in any way."""
    instance = problem.instance
    accesses = instance.accesses
    return dataclasses.replace(
        problem,
        instance=instance._replace(
            accesses=accesses._replace(copy_ticks=jnp.zeros_like(accesses.copy_ticks)),
            capacity=jnp.int32(1 << 28),
            max_residency_ticks=jnp.int32((1 << 31) - 1),
            max_outstanding=jnp.int32(1 << 30),
        ),
    )


def _by_buffer(problem: Problem) -> Problem:
    """The problem played buffer after buffer."""
    ranks = np.arange(len(problem.program.buffers))
    order = jnp.asarray(priority.buffer_order(problem, ranks))
    return dataclasses.replace(problem, instance=problem.instance._replace(order=order))


def _all_fast(problem: Problem) -> float:
    """Analytic seconds with every access fast that may be."""
    fast = [
        mapping.Decision(access=a.number, action="Drop" if a.must_drop else "NoCopy")
        for a in problem.accesses
    ]
    return _seconds(problem, Mapping(decisions=tuple(fast)))


def _leaves_time_behind_results(problem: Problem) -> bool:
    last = [access.previous for access in problem.accesses if access.must_drop]
    end = len(problem.program.instructions) - 1
    return all(a is not None and (a.region > 0 or a.end < end - 1) for a in last)


def test_without_limits_first_legal_play_reaches_the_all_fast_bound() -> None:
    # Buffer after buffer. In the program's order other buffers may take the place that
    # a value will need, however much room there is.
    played = 0
    for base in map(programs.synthetic, range(12)):
        if not _leaves_time_behind_results(base):
            continue
        problem = _by_buffer(
            _limitless(build(base.program, base.costs, capacity=1 << 40))
        )
        state, total = _all(problem, NO_COPY)
        assert int(state.num_backups) == 0
        slow = float(problem.instance.all_slow_seconds)
        assert math.isclose(total, 1 - _all_fast(problem) / slow, abs_tol=1e-5)
        played += 1
    assert played > 3


def test_a_dead_end_is_backed_out_of_once() -> None:
    # One granule of fast memory. X is made there, then Y in its place, before X could be
    # written back: nothing is legal where X is read.
    P, X, Y, Z = range(4)
    problem = programs.straight(
        [([P], [X], 0.0), ([P], [Y], 0.0), ([X, Y], [Z], 0.0)],
        [8192, 4096, 4096, 4096],
        parameters=[P],
        live_out=[Z],
        capacity=4096,
    )
    instance, state = problem.instance, _init(problem.instance)
    backups, total, played = [], 0.0, {}
    for access in problem.accesses:
        assert int(state.cursor) == access.number
        played[access.buffer, access.time] = int(np.argmax(state.legal_action_mask))
        state = _step(instance, state, played[access.buffer, access.time])
        backups.append(int(state.num_backups))
        total += float(state.reward)
    assert played[X, 1] == played[Y, 2] == NO_COPY
    # Seen when the cursor comes to the reading of X, right behind the making of Y.
    made = next(a.number for a in problem.accesses if (a.buffer, a.time) == (Y, 2))
    assert backups[made - 1 : made + 1] == [0, 1]
    assert backups[-1] == 1
    assert played[X, 3] == DROP
    answer = mapping.from_state(problem, jax.device_get(state))
    validate.require_valid(problem, answer)
    actions = {
        (a.buffer, a.time): d.action
        for a, d in zip(problem.accesses, answer.decisions, strict=True)
    }
    assert actions[X, 1] == actions[X, 3] == "Drop"
    assert actions[Y, 2] == actions[Y, 3] == "NoCopy"
    slow = float(instance.all_slow_seconds)
    assert math.isclose(total, 1 - _seconds(problem, answer) / slow, abs_tol=1e-6)


def test_the_best_of_all_games_is_the_known_optimum() -> None:
    # Three values made and read in a nest; any two of the pair at hand fit beside the first.
    # Room for two granules: the answer is a knapsack over the times at which they live.
    P, A, B, C, Z = range(5)
    rows = [([P], [A], 0.0), ([P], [B], 0.0), ([P, B], [C], 0.0), ([A, C], [Z], 0.0)]
    sizes = [1 << 16, 4096, 8192, 4096, 1 << 16]
    problem = programs.straight(
        rows, sizes, parameters=[P], live_out=[Z], capacity=8192
    )
    best = max(_returns(problem))
    lives = {A: (1, 4), B: (2, 3), C: (3, 4)}
    slow = _seconds(problem, mapping.all_slow(problem))
    values = []
    for chosen in itertools.chain.from_iterable(
        itertools.combinations(lives, k) for k in range(4)
    ):
        held = [
            sum(sizes[b] for b in chosen if lives[b][0] <= t <= lives[b][1])
            for t in range(1, 5)
        ]
        if max(held) <= 8192:
            fast = [
                mapping.Decision(
                    access=a.number, action="NoCopy" if a.buffer in chosen else "Drop"
                )
                for a in problem.accesses
            ]
            answer = Mapping(decisions=tuple(fast))
            values.append(1 - _seconds(problem, answer) / slow)
    assert math.isclose(best, max(values), abs_tol=1e-6)


def _returns(problem: Problem) -> list[float]:
    """The returns of all games, without copies and without partial stays."""
    found = []
    whole: dict[int, int] = {}

    def follow(state: State, total: float) -> None:
        if state.terminated:
            found.append(total)
            return
        access = problem.accesses[int(state.cursor)]
        legal = np.flatnonzero(state.legal_action_mask)
        options = [int(a) for a in legal if a != COPY]
        before = whole.get(access.buffer)
        if before in options:
            options = [before]
        for action in options:
            if before is None:
                whole[access.buffer] = action
            after = _step(problem.instance, state, action)
            follow(after, total + float(after.reward))
            if before is None:
                del whole[access.buffer]

    follow(_init(problem.instance), 0.0)
    return found


def _copies(problem: Problem, answer: mapping.Mapping) -> Copies:
    """Returns the mapping's copies by its decisions alone, not by the position's arrays."""
    rows = []
    bandwidth = problem.costs.target.slow_bandwidth
    columns = problem.columns
    for decision in answer.fast():
        access = problem.accesses[decision.access]
        seconds = problem.program.buffers[access.buffer].size / bandwidth
        if decision.copy_point is not None:
            start, due = decision.copy_point, access.time
            if access.cross_program:
                start = int(columns["last_use"][access.number]) + 1
                due = int(columns["first_use"][access.number])
            outside = access.is_region and not access.cross_program
            rows.append((start, due, seconds, False, access.cross_program, outside))
        if decision.evict_point is not None and decision.evict_due is not None:
            point, due = decision.evict_point, decision.evict_due
            listed = problem.program.instructions
            inner = due == len(listed) or listed[due].region != access.region
            rows.append((point, due, seconds, True, False, inner))
    return pack(rows)


def test_the_mapping_takes_as_long_as_the_position() -> None:
    problems = [programs.synthetic(seed) for seed in range(8)]
    for problem, episode in zip(problems, play.one_each(problems, 5), strict=True):
        answer = mapping.from_state(problem, episode.state)
        instance = problem.instance
        spared = np.zeros(instance.trip.shape[0], np.float32)
        for decision in answer.fast():
            access = problem.accesses[decision.access]
            spared[access.time] += problem.columns["traffic"][access.number]
        timeline = jax.jit(simulate)(
            game.elapsed(instance, episode.state),
            jnp.maximum(instance.traffic_seconds - spared, 0.0),
            instance.trip,
            _copies(problem, answer),
        )
        expected = _timeline(instance, episode.state)
        np.testing.assert_allclose(timeline.total, expected.total, rtol=1e-4)
        np.testing.assert_allclose(timeline.cold_total, expected.cold_total, rtol=1e-4)


@pytest.mark.parametrize("count", range(3))
def test_tiny_programs_are_played(count: int) -> None:
    rows = [([0], [], 0.0)] * count
    problem = programs.straight(rows, [4096], parameters=[0], capacity=8192)
    assert len(problem.accesses) == count
    state, total = _all(problem, NO_COPY)
    assert math.isfinite(total)
    answer = mapping.from_state(problem, jax.device_get(state))
    validate.require_valid(problem, answer)
    executor.execute(problem, answer)


def test_a_result_is_written_back_behind_the_last_instruction() -> None:
    # Of two results the first is written while the second is made, that one at the end.
    P, Z, W = range(3)
    rows = [([P], [Z], 0.0), ([P], [W], 0.0)]
    problem = programs.straight(
        rows, [4096] * 3, parameters=[P], live_out=[Z, W], capacity=1 << 16
    )
    state, _ = _all(_by_buffer(problem), NO_COPY)
    answer = mapping.from_state(problem, jax.device_get(state))
    validate.require_valid(problem, answer)
    executor.execute(problem, answer)
    end = len(problem.program.instructions)
    made = {
        problem.accesses[d.access].buffer: d
        for d in answer.decisions
        if problem.accesses[d.access].values
    }
    written = {b: (d.evict_point, d.evict_due, d.evict_late) for b, d in made.items()}
    assert written == {Z: (2, 3, False), W: (3, end, True)}
    # The last instruction is free, so all of the second is waited for, behind it.
    late = _timeline(problem.instance, state).late
    seconds = 4096 / problem.costs.target.slow_bandwidth
    assert math.isclose(float(late[end - 1]), seconds, rel_tol=0.2)


def test_a_copy_is_late_only_where_it_may_be() -> None:
    # P takes longer to copy than there is before its first use.
    P, X, Z = range(3)
    rows = [([], [X], 0.0), ([P, X], [Z], 0.0), ([P], [Z], 0.0)]
    problem = programs.straight(
        rows, [1 << 20, 4096, 4096], parameters=[P], live_out=[Z], capacity=1 << 21
    )
    instance = problem.instance
    first = next(a.number for a in problem.accesses if a.buffer == P)
    patient = instance._replace(
        accesses=instance.accesses._replace(eagerness=-instance.accesses.eagerness)
    )
    for played, late in ((instance, False), (patient, True)):
        state, _ = _all(dataclasses.replace(problem, instance=played), COPY)
        assert (int(state.action[first]) == COPY) == late
        assert bool(state.copy_late[first]) == late
        answer = mapping.from_state(problem, jax.device_get(state))
        validate.require_valid(problem, answer)
        executor.execute(problem, answer)
        assert answer.decisions[first].copy_late == late
        waits = float(_timeline(instance, state).wait[problem.accesses[first].time])
        assert (waits > 0) == late
