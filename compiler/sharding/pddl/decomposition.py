"""The search: Lagrangian decomposition for bounds and directions, exact conditional moves for assignments.

The memory limit is priced, time by time. The cut's nodes are copied to each of their neighbours, and the copies' costs
are moved until they agree (Komodakis et al. 2007); what is left is minimised exactly by elimination. So every iteration
gives a lower bound. From what the copies vote for, or from the best so far, moves re-optimise all nodes but a random
cut at today's prices, now and then on disturbed costs; what fits the memory and costs least is kept.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from compiler.sharding.pddl import elimination
from compiler.sharding.pddl.elimination import Plan, eliminate, traced
from compiler.sharding.pddl.instance import Instance, judge, least_memory
from compiler.sharding.pddl.model import FORBIDDEN, Model, build
from compiler.sharding.pddl.step import Step
from solvers.command.units import Meter
from solvers.compiled import compiled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes and rates.

    Attributes:
        largest: numbers of a table.
        total: numbers of all tables that a plan may need; `largest` is lowered until it does.
        plans: of moves, kept and used by turns.
        first_rate, last_rate: of the multipliers, as shares of the median cost of an edge; falling by a constant factor.
        price_rate: of the prices of memory, in units of the above.
        settled: share of the budget after which the rate stays.
        moves_every: iterations between two rounds of moves.
        moves: of a round.
        warm: iterations before the first round.
    """

    largest: float = 1e5
    total: float = 2e7
    plans: int = 12
    first_rate: float = 0.05
    last_rate: float = 5e-4
    price_rate: float = 0.5
    settled: float = 0.9
    moves_every: int = 4
    moves: int = 4
    warm: int = 20


DEFAULT = Settings()


def search(
    instance: Instance, meter: Meter, seed: int, settings: Settings = DEFAULT
) -> Iterator[Step]:
    """Yields a step per iteration until the meter's budget ends; the meter's simulations are eliminations.

    Args:
        instance: the problem; `least_memory` must be feasible.
        meter: polled between iterations, and told what was spent.
        seed: root of all randomness.
        settings: sizes and rates.
    """
    best = least_memory(instance)
    cost = judge(instance, best).cost
    model = build(instance)
    state = _State(model, np.random.default_rng(seed), settings)
    yield Step(best, cost, -np.inf, 0)
    while not meter.done():
        before = state.eliminations
        for chosen in state.iterate(meter.fraction()):
            candidate = model.assignment(chosen)
            judged = judge(instance, candidate)
            if judged.peak <= instance.limit and judged.cost < cost:
                best, cost = candidate, judged.cost
        spent = state.eliminations - before
        meter.spend(simulations=spent)
        yield Step(best, cost, state.bound, spent)
        if state.bound > cost - 1:  # Costs are integers.
            return


class _Adam:
    """Steps of one size in every coordinate, whatever the unit (Kingma and Ba 2015)."""

    def __init__(self, size: int, floor: float) -> None:
        self._mean, self._square = np.zeros(size), np.zeros(size)
        self._count, self._floor = 0, floor

    def step(self, gradient: np.ndarray) -> np.ndarray:
        self._count += 1
        self._mean += 0.2 * (gradient - self._mean)
        self._square += 0.02 * (gradient**2 - self._square)
        mean = self._mean / (1 - 0.8**self._count)
        square = self._square / (1 - 0.98**self._count)
        result: np.ndarray = mean / (np.sqrt(square) + self._floor)
        return result


class _State:
    """Multipliers, the best assignment, and plans.

    Copies: a cut node has one for each neighbour, which holds a share of its cost.
    """

    def __init__(
        self, model: Model, rng: np.random.Generator, settings: Settings
    ) -> None:
        self.model, self.rng, self.settings = model, rng, settings
        self.near = elimination.neighbours(model)
        self.unit = _typical(model)
        self.rent = _typical_rent(model)
        self.largest = settings.largest
        self.plan = self._plan(noise=0.3)
        self.plans: list[Plan] = []
        self.copies = _copies(model, self.near, self.plan)
        self.share = self.copies.spread(model.cost)
        self.price = np.zeros(model.times)
        self.steps = _Adam(len(self.share), 1e-3)
        self.price_steps = _Adam(model.times, 1e-2)
        self.bound = -np.inf
        self.best: np.ndarray | None = None
        self.best_cost = np.inf
        self.eliminations = self.iterations = 0

    def iterate(self, progress: float) -> list[np.ndarray]:
        """One step of the multipliers, perhaps a round of moves; returns better assignments than any before."""
        s = self.settings
        share = min(1.0, progress / s.settled)
        rate = self.unit * s.first_rate * (s.last_rate / s.first_rate) ** share
        chosen = self._ascend(rate)
        self.iterations += 1
        late = self.iterations > s.warm and self.iterations % s.moves_every == 0
        return self._move(chosen, rate) if late else []

    def _ascend(self, rate: float) -> np.ndarray:
        model, copies, plan = self.model, self.copies, self.plan
        rented = model.cost + model.rent(self.price)
        memory = self._memory(plan, rented)
        cost = self.share + copies.spread(rented - model.cost)
        picked = np.zeros(len(copies.node), np.int64)
        answers = np.zeros((len(plan.links), int(model.sizes.max())), np.int64)
        value = 0.0
        _offer(
            memory,
            cost,
            copies.at,
            copies.of_links,
            plan.link_table,
            model.offset[plan.links[:, 1]],
            model.sizes,
            plan.links,
            answers,
        )
        for e, (one, other) in zip(plan.inner, copies.of_inner):
            first = model.edge_offset[e : e + 2]
            a, b = model.ends[e]
            table = model.edge_cost[first[0] : first[1]].reshape(
                model.sizes[a], model.sizes[b]
            )
            table = table + cost[copies.at[one] : copies.at[one + 1], None]
            table = table + cost[None, copies.at[other] : copies.at[other + 1]]
            flat = int(table.argmin())
            value += float(table.flat[flat])
            picked[one], picked[other] = divmod(flat, table.shape[1])
        chosen = np.zeros(len(model.sizes), np.int64)
        value += self._minimise(plan, memory, chosen)
        alone = model.sizes == 1
        value += float(rented[model.offset[:-1][alone]].sum())
        value -= float(self.price.sum()) * model.limit
        self.bound = max(self.bound, value)
        linked = copies.of_links
        picked[linked] = answers[np.arange(len(linked)), chosen[plan.links[:, 1]]]
        votes = copies.votes(picked)
        for c in plan.cut:
            first, last = model.offset[c : c + 2]
            chosen[c] = int(votes[first:last].argmax())
        weight = np.zeros(len(model.cost))
        weight[model.offset[:-1] + chosen] = 1.0
        for c in plan.cut:
            first, last = model.offset[c : c + 2]
            weight[first:last] = votes[first:last]
        over = model.mean_in_use(weight) / model.limit - 1
        felt = np.where((over > 0) | (self.price > 0), over, 0.0)
        step = self.settings.price_rate * rate / self.rent * self.price_steps.step(felt)
        self.price = np.maximum(0.0, self.price + step)
        self.share += rate * self.steps.step(copies.disagreement(picked, votes))
        self.share -= copies.spread(copies.gathered(self.share) - model.cost)
        return chosen

    def _move(self, voted: np.ndarray, rate: float) -> list[np.ndarray]:
        """Returns what is better than all before, of a round of conditional optima."""
        s, model, rng = self.settings, self.model, self.rng
        found = []
        price = self.price
        chosen = voted.copy()
        if self.best is not None and rng.random() < 0.5:
            chosen = self.best.copy()
        disturbed = (self.iterations // s.moves_every) % 2 == 0
        scale = self.unit * 10 ** rng.uniform(-4.5, -0.5)
        if disturbed:
            price = price * np.exp(0.5 * rng.standard_normal(price.shape))
        for k in range(s.moves):
            base = model.cost
            if disturbed and k < s.moves - 1:  # The last one settles.
                base = base + scale * rng.gumbel(size=base.shape)
            self._condition(chosen, base, price)
            cost = model.total(chosen)
            over = model.in_use(chosen) / model.limit - 1
            if over.max(initial=-1.0) <= 0 and cost < self.best_cost:
                self.best, self.best_cost = chosen.copy(), cost
                found.append(self.best)
            more = np.where(over > 0, over * rate / self.rent, 0.0)
            price = np.maximum(0.0, price * (1 + 2 * np.clip(over, -0.1, 0.5)) + more)
        return found

    def _condition(
        self, chosen: np.ndarray, base: np.ndarray, price: np.ndarray
    ) -> None:
        """Re-optimises all nodes but a random cut, which keeps its strategies."""
        model = self.model
        if len(self.plans) < self.settings.plans:
            self.plans.append(self._plan(noise=1.0))
            plan = self.plans[-1]
        else:
            plan = self.plans[int(self.rng.integers(len(self.plans)))]
        memory = self._memory(plan, base + model.rent(price))
        into = model.offset[plan.links[:, 1]]
        _fix(memory, plan.links, plan.link_table, into, model.sizes, chosen)
        self._minimise(plan, memory, chosen)

    def _plan(self, *, noise: float) -> Plan:
        while True:
            plan = elimination.make(
                self.model, self.near, self.rng, largest=self.largest, noise=noise
            )
            if plan.memory <= self.settings.total + len(self.model.edge_cost):
                return plan
            self.largest /= 3

    def _memory(self, plan: Plan, unary: np.ndarray) -> np.ndarray:
        memory = np.empty(plan.memory)
        edges = self.model.edge_cost
        memory[: len(unary)] = unary
        memory[len(unary) : len(unary) + len(edges)] = edges
        return memory

    def _minimise(self, plan: Plan, memory: np.ndarray, chosen: np.ndarray) -> float:
        argument = np.empty(plan.arguments, np.int16)
        value = float(eliminate(plan.tables, memory, argument))
        traced(plan.tables, argument, chosen)
        self.eliminations += 1
        return value


class _Copies(NamedTuple):
    """The cut's copies, one for each neighbour of each cut node."""

    node: Int64[np.ndarray, " Q"]
    at: Int64[np.ndarray, " Q1"]  # Where each copy's numbers begin.
    strategy: Int64[np.ndarray, " S"]  # Of each number: which strategy of all nodes.
    degree: Float64[np.ndarray, " S"]  # Of each number: copies of its node.
    strategies: int  # Of all nodes.
    of_links: Int64[np.ndarray, " L"]  # Of the plan's links, the copy.
    of_inner: Int64[np.ndarray, "I 2"]  # Of edges inside the cut, both copies.

    def spread(self, unary: np.ndarray) -> np.ndarray:
        """Returns numbers of strategies in equal parts on the copies."""
        result: np.ndarray = unary[self.strategy] / self.degree
        return result

    def gathered(self, share: np.ndarray) -> np.ndarray:
        """Returns sums over copies, by strategy."""
        return np.bincount(self.strategy, share, self.strategies).astype(np.float64)

    def votes(self, picked: np.ndarray) -> np.ndarray:
        """Returns the share of copies that picked each strategy."""
        won = self.at[:-1] + picked
        weights = 1.0 / self.degree[won]
        found = np.bincount(self.strategy[won], weights, self.strategies)
        return found.astype(np.float64)  # Without a cut it counts nothing, as integers.

    def disagreement(self, picked: np.ndarray, votes: np.ndarray) -> np.ndarray:
        """Returns of each copy's number: picked or not, less the copies' mean. The gradient of the bound."""
        result: np.ndarray = -votes[self.strategy]
        result[self.at[:-1] + picked] += 1.0
        return result


def _copies(model: Model, near: list[dict[int, int]], plan: Plan) -> _Copies:
    fixed = set(plan.cut.tolist())
    pairs = [(c, w) for c in plan.cut.tolist() for w in near[c]]
    number = {pair: q for q, pair in enumerate(pairs)}
    sizes = [int(model.sizes[c]) for c, _ in pairs]
    strategy = [np.arange(*model.offset[c : c + 2]) for c, _ in pairs]
    degree = [np.full(size, float(len(near[c]))) for size, (c, _) in zip(sizes, pairs)]
    inner = [model.ends[e].tolist() for e in plan.inner]
    assert all(a in fixed and b in fixed for a, b in inner)
    return _Copies(
        node=np.array([c for c, _ in pairs], np.int64),
        at=np.cumsum([0, *sizes]),
        strategy=np.concatenate([np.zeros(0, np.int64), *strategy]),
        degree=np.concatenate([np.zeros(0), *degree]),
        strategies=len(model.cost),
        of_links=np.array([number[c, w] for c, w in plan.links.tolist()], np.int64),
        of_inner=np.array(
            [(number[a, b], number[b, a]) for a, b in inner], np.int64
        ).reshape(-1, 2),
    )


def _typical(model: Model) -> float:
    """Returns the median of what a pair of strategies costs, where it costs something."""
    costs = model.edge_cost if len(model.edge_cost) else model.cost
    real = costs[(costs > 0) & (costs < FORBIDDEN / 10)]
    return float(np.median(real)) if len(real) else 1.0


def _typical_rent(model: Model) -> float:
    """Returns the mean over parts of what a choice can save, in bytes times times."""
    lasts = np.diff(model.intervals, axis=1)[:, 0]
    most = np.maximum.reduceat(model.part_usage, model.part_offset[:-1])
    least = np.minimum.reduceat(model.part_usage, model.part_offset[:-1])
    saved = (np.minimum(most, model.limit) - least) * lasts
    return max(float(saved[lasts > 0].mean()) if (lasts > 0).any() else 0.0, 1.0)


def _offer_loop(
    memory: np.ndarray,
    cost: np.ndarray,
    at: np.ndarray,
    of_links: np.ndarray,
    table: np.ndarray,
    into: np.ndarray,
    sizes: np.ndarray,
    links: np.ndarray,
    answers: np.ndarray,
) -> None:
    """Adds to each neighbour what its copy costs at best, and says which strategy that is."""
    for k in range(len(links)):
        copy = of_links[k]
        size = at[copy + 1] - at[copy]
        for s in range(sizes[links[k, 1]]):
            best, choice = np.inf, 0
            for c in range(size):
                value = (
                    memory[table[k, 0] + s * table[k, 1] + c * table[k, 2]]
                    + cost[at[copy] + c]
                )
                if value < best:
                    best, choice = value, c
            memory[into[k] + s] += best
            answers[k, s] = choice


def _fix_loop(
    memory: np.ndarray,
    links: np.ndarray,
    table: np.ndarray,
    into: np.ndarray,
    sizes: np.ndarray,
    chosen: np.ndarray,
) -> None:
    """Adds to each neighbour of the cut what it pays for the cut's strategies."""
    for k in range(len(links)):
        for s in range(sizes[links[k, 1]]):
            memory[into[k] + s] += memory[
                table[k, 0] + s * table[k, 1] + chosen[links[k, 0]] * table[k, 2]
            ]


_offer = compiled(_offer_loop)
_fix = compiled(_fix_loop)
