"""`solvers.search`: known optima, budgets, fronts, resumption."""

import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import solvers
from benchmarks import shops
from solvers import spaces
from solvers.command import Budget
from solvers.pool import LocalPool, TimeLimit, WorkerDied
from solvers.problem import Problem
from solvers.protocols import Genome, Measurement
from solvers.spaces import ChoiceSpace
from solvers.strategies import Beam, Local, Mcts, Predicted, Uct
from tests.solvers import known, slow_oracle
from tests.solvers.slow_oracle import SlowOracle

ROOT = Path(__file__).parents[2]


# By which budget each reaches the optimum of 2 ** 10 schedules, from seed 0.
@pytest.mark.parametrize(
    ("strategy", "budget"),
    [
        ("random", 300),
        ("local", 400),
        ("annealing", 400),
        ("evolution", 400),
        ("brkga", 700),
        (Beam(width=8), 3000),
        (Mcts(batch=2, num_simulations=8), 4000),
        (Uct(num_simulations=512), 4000),
        ("predicted", 120),
    ],
    ids=[
        "random",
        "local",
        "annealing",
        "evolution",
        "brkga",
        "beam",
        "mcts",
        "uct",
        "predicted",
    ],
)
def test_reaches_the_best_of_a_landscape(strategy: Any, budget: int) -> None:
    problem, optimum = known.nk_problem(10, 2, 1)
    # Of 1024 schedules random search sees 300: it gets near.
    slack = 0.05 if strategy == "random" else 1e-6
    found = solvers.search(problem, strategy, Budget(simulations=budget), 0)
    assert found.costs[0] <= optimum + slack
    assert len(found.history) == len(set(spaces.keys(found.genomes)))
    assert found.costs[0] == found.history.min()


def test_annealing_goes_uphill_as_often_as_metropolis_says() -> None:
    settings = Local(lanes=4000, patience=None, heat=0.5, half_life=10)
    problem = solvers.played(ChoiceSpace(sizes=(4,)), _cheapest_first, None)
    state = settings.init(problem, jax.random.key(0))
    genomes = Genome(np.zeros((4000, 1), np.int32), np.zeros((4000, 0), np.float32))
    spread = np.linspace(0.0, 1.0, 4000)[:, None]  # Costs 0 to 1: the unit of heat.
    state = settings.tell(problem, state, genomes, spread)
    state = state._replace(costs=jnp.zeros(4000), rounds=jnp.int32(10))
    _, state = settings.ask(problem, state, jax.random.key(1))
    moved = settings.tell(problem, state, genomes, np.full((4000, 1), 0.3))
    share = float(jnp.mean(moved.costs > 0))
    assert share == pytest.approx(np.exp(-0.3 / 0.25), abs=0.03)


def _cheapest_first(_: Any, genome: Genome) -> Any:
    return genome.choices[0].astype(jnp.float32)


@pytest.mark.parametrize("strategy", ["evolution", "local"])
def test_splits_numbers_evenly(strategy: str) -> None:
    problem, costs = known.partition_problem(12, 0)
    found = solvers.search(problem, strategy, Budget(simulations=600), 0)
    # A smooth way to the best split there is not; one in a thousand is as good.
    assert costs[0] <= found.costs[0] <= costs[4]


@pytest.mark.parametrize(
    "strategy",
    ["brkga", Mcts(batch=4, num_simulations=16), Beam(width=32)],
    ids=["brkga", "mcts", "beam"],
)
def test_schedules_a_shop_in_the_least_time(strategy: Any) -> None:
    shop = shops.random_shop(3, 3, 2)
    problem = solvers.evolved(
        shops.JobShop(3), shop, prior_logits_fn=shops.most_work_remaining
    )
    found = solvers.search(problem, strategy, Budget(simulations=1500), 0)
    assert found.costs[0] == shops.best_makespan(shop)


def _bowl(centre: Any, genome: Genome) -> Any:
    return jnp.sum((genome.values - centre) ** 2)


def _legacy_state() -> Any:
    """NumPy's global state, which the library would change if it were let."""
    return np.array(np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002


def test_cma_finds_the_bottom_of_a_bowl() -> None:
    centre = jnp.array([0.2, 0.7, 0.4, 0.9])
    problem = solvers.played(ChoiceSpace(num_values=4), _bowl, centre)
    before = _legacy_state()
    found = solvers.search(problem, "cma", Budget(simulations=600), 0)
    assert found.costs[0] < 1e-6
    np.testing.assert_array_equal(before, _legacy_state())


def _two(ideal: Any, genome: Genome) -> Any:
    """Distances of choices to two corners: the front is all that lies between."""
    ones = jnp.sum(genome.choices[:4])
    waste = jnp.sum(genome.choices[4:])
    return jnp.stack([4 - ones + waste, ones + waste]).astype(jnp.float32)


@pytest.mark.parametrize(
    "strategy",
    ["evolution", "local", "brkga", Predicted(size=16, generations=4, batch=32)],
    ids=["evolution", "local", "brkga", "predicted"],
)
def test_finds_the_whole_front(strategy: Any) -> None:
    space = ChoiceSpace(sizes=(2,) * 10)
    problem = solvers.played(space, _two, num_objectives=2)
    found = solvers.search(problem, strategy, Budget(simulations=300), 1)
    expected = [[k, 4 - k] for k in range(5)]
    assert found.front_costs.tolist() == expected
    assert found.costs == (0.0, 4.0)


def test_starts_are_measured_first_and_improved_on() -> None:
    problem, _ = known.nk_problem(10, 2, 1)
    start = Genome(np.ones((1, 10), np.int32), np.zeros((1, 0), np.float32))
    problem = dataclasses.replace(problem, starts=start)
    for strategy in ("local", "evolution", "predicted"):
        found = solvers.search(problem, strategy, Budget(simulations=40), 0)
        np.testing.assert_array_equal(found.genomes.choices[0], start.choices[0])
        assert found.costs[0] <= found.history[0, 0]


def test_same_seed_same_search_and_another_seed_another() -> None:
    problem, _ = known.nk_problem(10, 2, 1)
    one, same, other = (
        solvers.search(problem, "evolution", Budget(simulations=60), seed)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one.genomes.choices, same.genomes.choices)
    assert not np.array_equal(one.genomes.choices, other.genomes.choices)
    assert one.evaluations["simulator"] == 60 and one.ended_by == "simulations"


def test_watching_shows_what_a_search_does() -> None:
    problem, _ = known.nk_problem(10, 2, 1)
    budget = Budget(simulations=100)
    found = solvers.search(problem, "evolution", budget, 3)
    seen = list(solvers.watch(problem, "evolution", budget, 3, keep=5))
    assert sum(progress.spent for progress in seen) == 100
    last = seen[-1]
    np.testing.assert_array_equal(
        last.costs[:, 0], np.sort(found.history[:, 0], kind="stable")[:5]
    )
    assert spaces.keys(last.genomes)[0] == spaces.keys(spaces.take(found.front, [0]))[0]
    lowest = [progress.costs[0, 0] for progress in seen]
    assert lowest == sorted(lowest, reverse=True)


def test_an_exhausted_space_ends_the_search() -> None:
    problem, optimum = known.nk_problem(3, 1, 0)
    found = solvers.search(problem, "predicted", Budget(simulations=100), 0)
    assert found.ended_by == "exhausted"
    assert len(found.history) == 8 and found.costs[0] == pytest.approx(optimum)


def test_predictor_compiles_once_in_a_bucket() -> None:
    problem, _ = known.nk_problem(10, 2, 1)
    strategy = Predicted(initial=10, batch=5, generations=3)  # Compiled by nobody else.
    state = strategy.init(problem, jax.random.key(0))
    compiled: list[str] = []

    def listen(name: str, seconds: float, **_: Any) -> None:
        compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        counts = []
        for turn in range(8):
            proposal, state = strategy.ask(problem, state, jax.random.key(turn))
            genomes = spaces.host(proposal.genomes)
            costs = np.array([m.costs for m in problem.oracle.measure(genomes)])
            state = strategy.tell(problem, state, genomes, costs)
            name = "/jax/core/compile/backend_compile_duration"
            counts.append(compiled.count(name))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    # Samples, then the first training; then nothing, from 10 rows to 45.
    assert counts[1] > counts[0]
    assert counts[2:] == [counts[1]] * 6


@pytest.mark.parametrize(
    ("strategy", "objectives", "message"),
    [
        ("cma", 1, "no choices"),
        ("mcts", 2, "plans in a game"),
        ("beam", 2, "plans in a game"),
        ("anneal", 1, "there are annealing, beam, brkga"),
    ],
)
def test_what_does_not_go_together_is_said(
    strategy: str, objectives: int, message: str
) -> None:
    problem = solvers.played(ChoiceSpace(sizes=(2, 2)), _two, num_objectives=objectives)
    with pytest.raises(ValueError, match=message):
        solvers.search(problem, strategy, Budget(simulations=3), 0)


def test_a_budget_that_never_ends_is_refused() -> None:
    problem, _ = known.nk_problem(3, 1, 0)
    with pytest.raises(ValueError, match="give seconds or simulations"):
        solvers.search(problem, "random", Budget(measurements=3), 0)


class _Moody:
    """An oracle in this process that fails as its first choice says."""

    digest, num_objectives, unit = "moody", 1, "measurements"

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()

    def measure(self, genomes: Genome) -> Sequence[Measurement]:
        found = []
        for choice in map(int, genomes.choices[:, 0]):
            self.calls[choice] += 1
            if choice == 1:
                raise OSError("never works")
            if choice == 2 and self.calls[2] == 1:
                raise OSError("works next time")
            failure = "not for me" if choice == 3 else ""
            found.append(Measurement((float(choice),), failure))
        return found


def test_failures_are_recorded_and_not_asked_again(tmp_path: Path) -> None:
    oracle = _Moody()
    space = ChoiceSpace(sizes=(5,))
    problem = Problem(space=space, oracle=oracle)  # type: ignore[arg-type]
    budget, store = Budget(measurements=5), tmp_path / "m.sqlite"
    found = solvers.search(problem, "random", budget, 0, store=store)
    assert found.failures == {"OSError: never works": 1, "not for me": 1}
    assert found.costs == (0.0,)
    # Raised: two attempts. Worked the second time: two. Said no: one.
    assert [oracle.calls[k] for k in range(5)] == [1, 2, 2, 1, 1]
    again = solvers.search(problem, "random", budget, 0, store=store)
    np.testing.assert_array_equal(found.history, again.history)
    assert oracle.calls.total() == 7
    with sqlite3.connect(store) as db:
        rows = dict(db.execute("SELECT failure, attempts FROM measurements"))
    assert rows["OSError: never works"] == 2 and rows["not for me"] == 1


def test_a_foreign_file_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_text("something else, and long enough to be taken for a database" * 20)
    problem, _ = known.nk_problem(3, 1, 0)
    with pytest.raises(ValueError, match="can't be used for measurements"):
        solvers.search(problem, "random", Budget(simulations=3), 0, store=path)


def test_workers_that_hang_or_die_fail_their_task_alone() -> None:
    oracle = SlowOracle()
    with LocalPool(1, seconds=1.0) as pool:
        assert isinstance(pool.submit(oracle.end, "hang").exception(500), TimeLimit)
    with LocalPool(1) as pool:
        assert isinstance(pool.submit(oracle.end, "die").exception(500), WorkerDied)
        assert pool.submit(oracle.end, "well").result(500) == "well"


def _run(store: Path, log: Path) -> "subprocess.Popen[str]":
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.solvers.slow_oracle", str(store), str(log)]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )


def _stored(store: Path) -> set[str]:
    if not store.exists():
        return set()
    with sqlite3.connect(store, timeout=30) as db:
        try:
            return {row[0] for row in db.execute("SELECT costs FROM measurements")}
        except sqlite3.OperationalError:  # The table is not there yet.
            return set()


def test_killed_and_resumed_it_measures_nothing_twice(tmp_path: Path) -> None:
    """SIGKILL with four workers at work; every genome has a cost of its own, which names it."""
    store, log = tmp_path / "killed.sqlite", tmp_path / "killed.log"
    victim = _run(store, log)
    try:
        deadline = time.monotonic() + 500
        while len(_stored(store)) < 10:
            assert time.monotonic() < deadline and victim.poll() is None
            time.sleep(0.02)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.communicate()  # Until its workers are gone, too: they hold its stdout.
    kept, begun = _stored(store), Counter(log.read_text().split())
    assert 10 <= len(kept) < 40, "killed in the middle"
    resumed = _run(store, log)
    out, _ = resumed.communicate(timeout=500)
    assert resumed.returncode == 0
    after = Counter(log.read_text().split()) - begun
    costs = {json.loads(cost)[0] for cost in kept}
    assert not costs & {float(cost) for cost in after}, "measured twice"
    assert max(after.values()) == 1
    # What was at work when it was killed is all that was lost.
    assert 40 - len(kept) == after.total()
    assert begun.total() - len(kept) <= 4
    # Undisturbed, without workers, without a store: the same.
    whole = slow_oracle.run(SlowOracle(seconds=0.0))
    assert json.loads(out)["history"] == whole.history[:, 0].tolist()
    assert json.loads(out)["best"] == whole.costs[0]
    assert len(whole.history) == 40
