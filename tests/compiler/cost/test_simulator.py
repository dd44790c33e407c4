"""The simulator: XLA's unit tests where they apply, and queues served copy by copy."""

import random
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compiler.cost.simulator import Copies, Timeline, copying, simulate

_simulate = jax.jit(simulate)
_copying = jax.jit(copying)
_SLOTS = 16


class Copy(NamedTuple):
    """One copy as in `Copies`."""

    point: int
    due: int
    seconds: float
    is_write: bool = False
    from_last_run: bool = False
    outside: bool = False


def _run(
    elapsed: list[float],
    copies: list[Copy],
    *,
    busy: list[float] | None = None,
    trip: list[float] | None = None,
) -> Timeline:
    return _simulate(
        jnp.array(elapsed, jnp.float32),
        jnp.array(busy or [0.0] * len(elapsed), jnp.float32),
        jnp.array(trip or [1.0] * len(elapsed), jnp.float32),
        _packed(copies),
    )


def _packed(copies: list[Copy]) -> Copies:
    padded = copies + [Copy(0, 0, 0.0)] * (_SLOTS - len(copies))
    point, due, seconds, is_write, from_last_run, outside = zip(*padded, strict=True)
    return Copies(
        jnp.array(point),
        jnp.array(due),
        jnp.array(seconds, jnp.float32),
        jnp.array(is_write),
        jnp.array(from_last_run),
        jnp.array(outside),
    )


def test_instructions_count_as_often_as_they_run() -> None:
    # Initial tuple; then condition, increment and root tuple of 42 trips.
    timeline = _run([8, 9, 12, 8], [], trip=[1, 42, 42, 42])
    assert float(timeline.total) == 1226
    outer = 27.0
    nested = _run(
        [8, 9, 12, 8, 9, 12, 8, 8],
        [],
        trip=[outer, 42 * outer, 42 * outer, 42 * outer, outer, outer, outer, 1],
    )
    assert float(nested.total) == 33_893


@pytest.mark.parametrize("size", [8_388_608, 6_291_456])
def test_a_copy_that_nothing_hides_is_waited_for(size: int) -> None:
    assert float(_run([0, 0], [Copy(0, 1, size)]).total) == size


def test_a_loop_waits_once_for_what_it_is_called_with() -> None:
    # 100 s of copying behind 30 s of hiding, in front of a body that runs seven times.
    elapsed, trip = [30, 0, 5, 0], [1.0, 1.0, 7.0, 1.0]
    once = _run(elapsed, [Copy(0, 2, 100, outside=True)], trip=trip)
    assert float(once.total) == 30 + 70 + 35
    assert float(once.late[1]) == 70
    each = _run(elapsed, [Copy(0, 2, 100)], trip=trip)
    assert float(each.total) == 30 + 7 * 70 + 35


def test_a_result_is_waited_for_behind_the_last_instruction() -> None:
    # 100 s of writing, of which the last instruction hides 30.
    for padding in ([], [0.0]):
        copies = [Copy(1, 2, 100, is_write=True, outside=True)]
        timeline = _run([5, 30, *padding], copies)
        assert float(timeline.total) == float(timeline.cold_total) == 35 + 70
        assert float(timeline.late[1]) == 70


def test_an_instruction_bound_by_memory_hides_nothing() -> None:
    timeline = _run([0, 16, 0], [Copy(1, 2, 32)], busy=[0, 16, 0])
    assert float(timeline.total) == 48


def test_an_instruction_in_fast_memory_hides_its_time() -> None:
    copies = [Copy(1, 2, 256), Copy(2, 3, 512)]
    timeline = _run([256, 0, 384, 0], copies, busy=[256, 0, 0, 0])
    np.testing.assert_array_equal(timeline.wait, [0, 0, 256, 128])
    assert float(timeline.total) == 1024


@pytest.mark.parametrize(
    ("elapsed", "busy", "waits"),
    [
        # Both share the bandwidth until the write is done: reads 512 - 128 are left.
        (0, 0, [256, 384]),
        # negate f32[32], all in slow memory: no time to spare.
        (256, 256, [256, 384]),
        # Its operand in fast memory: 64 to spare, 480 and 96 are left.
        (192, 128, [192, 384]),
    ],
)
def test_queues_share_the_bandwidth(
    elapsed: float, busy: float, waits: list[float]
) -> None:
    copies = [Copy(0, 2, 512), Copy(0, 1, 128, is_write=True)]
    timeline = _run([elapsed, 0, 0], copies, busy=[busy, 0, 0])
    np.testing.assert_array_equal(timeline.wait, [0, *waits])


def test_one_queue_alone_has_all_the_bandwidth() -> None:
    timeline = _run([192, 0], [Copy(0, 1, 512)], busy=[128, 0])
    np.testing.assert_array_equal(timeline.wait, [0, 448])


@pytest.mark.parametrize(("size", "left"), [(10, 0), (12, 2)])
def test_bandwidth_is_halved_once_however_many_copies_end(size: int, left: int) -> None:
    # XLA halves it again for every copy that ends, and drains 15 of each.
    copies = [Copy(0, 1, 10), Copy(0, 1, size), Copy(0, 2, 20, is_write=True)]
    timeline = _run([40, 0, 0], copies)
    np.testing.assert_array_equal(timeline.wait, [0, left, 0])


def test_a_prefetch_by_the_run_before_starts_there() -> None:
    # Ten seconds behind its last use hide half of it; the first run has no run before.
    copies = [Copy(2, 0, 20, from_last_run=True)]
    timeline = _run([5, 5, 10], copies)
    assert float(timeline.total) == 20 + 10
    assert float(timeline.cold_total) == 20 + 20


def test_what_nobody_waits_for_is_served_on() -> None:
    # A write-back due behind the end goes on in the next run, in front of its own.
    copies = [Copy(1, 2, 30, is_write=True), Copy(0, 1, 10)]
    timeline = _run([10, 10], copies)
    assert float(timeline.cold_total) == 20
    assert float(timeline.wait[1]) > 0


class _Served:
    """Two queues of copies, served bit by bit."""

    def __init__(self) -> None:
        self.queues: tuple[list[list], list[list]] = ([], [])  # [copy, seconds left]
        self.served = np.zeros(2)

    def rate(self) -> float:
        return 0.5 if all(self.queues) else 1.0

    def spend(self, seconds: float) -> None:
        while seconds > 0 and any(self.queues):
            rate = self.rate()
            step = min(seconds, *(queue[0][1] / rate for queue in self.queues if queue))
            self._progress(step, rate)
            seconds -= step

    def wait(self, copy: object) -> float:
        waited = 0.0
        while any(entry[0] == copy for queue in self.queues for entry in queue):
            rate = self.rate()
            step = min(queue[0][1] / rate for queue in self.queues if queue)
            self._progress(step, rate)
            waited += step
        return waited

    def _progress(self, step: float, rate: float) -> None:
        for lane, queue in enumerate(self.queues):
            if queue:
                self.served[lane] += step * rate
                queue[0][1] -= step * rate
                if queue[0][1] <= 1e-9:
                    queue.pop(0)


def _reference(
    elapsed: list[float], idle: list[float], copies: list[Copy]
) -> tuple[list[list[float]], np.ndarray]:
    """Waits of two runs in a row, with the third run's prefetches in the second; and what the second serves."""
    times = len(elapsed)
    starts: dict[int, list] = {}
    dues: dict[int, list] = {}
    listed = []
    for run in range(3):
        for number, copy in enumerate(copies):
            point = run * times + copy.point
            if copy.from_last_run:
                point = 0 if run == 0 else point - times
            # Those that nobody waits for come last.
            awaited = copy.due < times and run < 2
            due = run * times + copy.due if awaited else 2 * times
            listed.append((point, due, run, number, copy))
    for point, due, run, number, copy in sorted(listed, key=lambda entry: entry[:4]):
        starts.setdefault(point, []).append(((run, number), copy))
        if due < 2 * times:
            dues.setdefault(due, []).append((run, number, copy.is_write))
    machine, waits, served = _Served(), [], [np.zeros(2)]
    for now in range(2 * times):
        starting = starts.get(now, [])
        # What is due where it starts does not wait for what starts there too.
        for name, copy in [entry for entry in starting if entry[1].due == now]:
            machine.queues[copy.is_write].append([name, copy.seconds])
            starting.remove((name, copy))
        waiting = sorted(dues.get(now, []), key=lambda due: due[2])
        waits.append(sum(machine.wait((run, number)) for run, number, _ in waiting))
        for name, copy in starting:
            machine.queues[copy.is_write].append([name, copy.seconds])
        machine.spend(idle[now % times])
        served.append(machine.served.copy())
    return [waits[:times], waits[times:]], np.diff(served, axis=0)[times:]


@pytest.mark.parametrize("seed", range(40))
def test_is_serving_the_queues_bit_by_bit(seed: int) -> None:
    rng = random.Random(seed)
    times = 8
    elapsed = [rng.choice([0.0, 1.0, 2.0, 5.0, 9.0]) for _ in range(times)]
    busy = [seconds * rng.choice([0.0, 0.5, 1.0]) for seconds in elapsed]
    trip = [float(rng.randint(1, 4)) for _ in range(times)]
    copies = []
    for _ in range(rng.randint(1, 8)):
        point = rng.randrange(times)
        due = rng.randint(point + 1, times)
        copies.append(Copy(point, due, float(rng.randint(1, 8)), rng.random() < 0.5))
    if rng.random() < 0.5:
        copies.append(Copy(rng.randint(1, times - 1), 0, 6.0, from_last_run=True))
    timeline = _run(elapsed, copies, busy=busy, trip=trip)
    idle = [e - b for e, b in zip(elapsed, busy, strict=True)]
    (cold, warm), served = _reference(elapsed, idle, copies)
    np.testing.assert_allclose(timeline.wait, warm, atol=1e-3)
    found = _copying(jnp.array(elapsed), jnp.array(busy), _packed(copies))
    np.testing.assert_allclose(found, served, atol=1e-3)
    totals = [
        sum(t * (e + w) for t, e, w in zip(trip, elapsed, waits, strict=True))
        for waits in (cold, warm)
    ]
    np.testing.assert_allclose(
        [timeline.cold_total, timeline.total], totals, rtol=1e-5, atol=1e-3
    )
