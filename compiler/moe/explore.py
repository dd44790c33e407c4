"""The loop: search in the event simulation, compile the promising, look around what the compiler likes best.

First a strategy of the engine searches the simulation. Then plans are compiled: no plan, FSMoE's choice and the best
found. From there on, of all plans that differ from the best compiled one in one or two choices, the one is next that the
simulation, corrected by what it got wrong so far, likes best and that has not been compiled. A choice that was once
seen to change nothing is taken to change nothing.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

import solvers
from compiler.backends import CompilerError
from compiler.moe import game, optimum
from compiler.moe.machine import Setting, tables
from compiler.moe.oracle import Judge, Judged
from compiler.moe.plan import Plan
from compiler.moe.program import Passes
from solvers.command.units import Budget, Meter
from solvers.kriging import posterior
from solvers.problem import Problem
from solvers.protocols import Genome

# What the program does not say: when gradients are reduced, and in which order chunks are emitted, since nothing but data ties
# its operations together.
_NOT_COMPILED = (
    game.SHARE,
    game.NUM_PIECES,
    game.LAST,
    game.FORWARD + 2,
    game.BACKWARD + 2,
)
# Degree and shape of the chunks, there and back.
_CUTS = [game.FORWARD, game.FORWARD + 1, game.BACKWARD, game.BACKWARD + 1]
_NO_VALUES = np.zeros(0, np.float32)
_KEPT = 64  # Of the simulation.
# Of those, compiled before looking around.
_FINALISTS: dict[Passes, int] = {"forward": 4, "step": 1}
_ALIKE = 3  # With chunks cut alike in both directions.
# Variance of what choices do not explain of the correction's logarithm, where that of each choice's part is 1.
_NOISE = 1.0

_NEAR = "near "
DEFAULT, CLOSED_FORM = "no plan", "FSMoE's choice"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan with what is known of it.

    Attributes:
        name: where it is from.
        genes: in the game.
        plan: what they mean.
        simulated: cycles by the event simulation.
        judged: what the compiler made of it; None if it was not asked, or refused.
        failure: why it refused.
    """

    name: str
    genes: tuple[int, ...]
    plan: Plan
    simulated: float
    judged: Judged | None = None
    failure: str = ""

    @property
    def cycles(self) -> float:
        """The compiler's word, infinite without."""
        return self.judged.timeline.total if self.judged else np.inf


class Simulated(NamedTuple):
    """What the first phase found: plans by name, and the evaluations that it took."""

    candidates: dict[str, Candidate]
    history: list[tuple[int, float]]  # Evaluations, and the best cycles so far.


def problem_of(setting: Setting, passes: Passes) -> Problem:
    """Returns the search in the simulation, of both passes or the forward pass alone."""
    both = game.problem(setting)
    if passes == "step":
        return both
    cost = functools.partial(game.forward_cost, setting.layers)
    starts = both.starts
    return dataclasses.replace(
        solvers.played(game.space(setting), cost, tables(setting)), starts=starts
    )


def simulate(
    setting: Setting,
    passes: Passes,
    strategy: str,
    budget: Budget,
    seed: int,
    say: Callable[[str], None],
) -> Simulated:
    """Returns the best plans of the simulation, beside no plan and FSMoE's choice."""
    meter, history = Meter(budget), list[tuple[int, float]]()
    given = problem_of(setting, passes)
    best = None
    for progress in solvers.watch(given, strategy, meter, seed, keep=_KEPT):
        best = progress.genomes
        cost = 1e6 * float(progress.costs[0, 0])
        if not history or cost < history[-1][1]:
            history.append((meter.simulations, cost))
        say(f"{cost:.0f} cycles in the simulation")
    assert best is not None  # The start was measured.
    history.append((meter.simulations, history[-1][1]))
    found = {
        DEFAULT: np.asarray(game.default(setting).choices),
        CLOSED_FORM: np.asarray(optimum.closed_form(setting).choices),
    }
    choices = _relevant(np.asarray(best.choices), passes)
    costs = _simulated(setting, passes, choices)
    # The best of each way to cut the chunks: where the simulation is wrong, it is wrong about all plans of one way.
    ways = choices[:, _CUTS]
    order = np.argsort(costs, kind="stable")
    _, first = np.unique(ways[order], axis=0, return_index=True)
    finalists = order[np.sort(first)[: _FINALISTS[passes]]]
    for k, row in enumerate(finalists.tolist(), 1):
        found[f"{strategy} {k}"] = choices[row]
    if passes == "step":
        alike = _alike(setting, choices[order[0]])
        costs = _simulated(setting, passes, alike)
        for k, row in enumerate(np.argsort(costs, kind="stable")[:_ALIKE].tolist(), 1):
            found[f"{strategy}, cut alike {k}"] = alike[row]
    rows = optimum.repaired(setting, _relevant(np.stack([*found.values()]), passes))
    costs = _simulated(setting, passes, rows)
    return Simulated(
        {
            name: _candidate(setting, name, genes, cost)
            for name, genes, cost in zip(found, rows, costs.tolist(), strict=True)
        },
        history,
    )


def measure(
    judge: Judge, start: Simulated, meter: Meter, say: Callable[[str], None]
) -> Iterator[Candidate]:
    """Yields candidates as they are compiled, until the budget ends or nothing near the best is left.

    Args:
        judge: the compiler.
        start: of `simulate`.
        meter: told of each compile, and polled between them.
        say: is told what is being compiled.
    """
    done: list[Candidate] = []
    idle = set(_NOT_COMPILED)
    best: Candidate | None = None
    waiting = list(start.candidates.values())
    while not meter.done():
        if not waiting:
            if best is None:
                return
            seen = {_without(one.genes, idle) for one in done}
            factors = correction(game.space(judge.setting).sizes, done)
            near = _neighbours(judge.setting, judge.passes, best, seen, idle, factors)
            if near is None:
                return
            waiting.append(near)
        one = waiting.pop(0)
        if _without(one.genes, idle) in {_without(two.genes, idle) for two in done}:
            continue
        say(f"compiling {one.name}")
        try:
            one = dataclasses.replace(one, judged=judge(one.plan))
        except CompilerError as error:
            if not error.is_the_programs:
                raise
            one = dataclasses.replace(one, failure=f"{error.reason}: {error}")
        except ValueError as error:
            one = dataclasses.replace(one, failure=str(error))
        meter.spend(measurements=1)
        idle |= _idle(one, done)
        done.append(one)
        if best is None or one.cycles < best.cycles:
            best = one
        yield one


def _alike(setting: Setting, genes: np.ndarray) -> np.ndarray:
    """Returns a plan with all ways to cut the chunks alike in both directions.

    What the forward pass leaves in its chunks can then be taken up in them; else it is joined and cut anew, which
    the simulation does not count.
    """
    sizes = game.space(setting).sizes
    cuts = itertools.product(range(sizes[game.FORWARD]), range(sizes[game.FORWARD + 1]))
    rows = []
    for cut in cuts:
        row = np.array(genes, np.int32)
        row[_CUTS] = cut * 2
        rows.append(row)
    return np.unique(optimum.repaired(setting, np.stack(rows)), axis=0)


def _without(genes: tuple[int, ...], idle: set[int]) -> tuple[int, ...]:
    return tuple(0 if k in idle else gene for k, gene in enumerate(genes))


def _idle(one: Candidate, others: list[Candidate]) -> set[int]:
    """Returns choices that the compiler was seen not to care about: nothing else differs, and the cycles don't."""
    found = set()
    for other in others:
        changed = [k for k, (a, b) in enumerate(zip(one.genes, other.genes)) if a != b]
        if (
            len(changed) == 1
            and np.isfinite(one.cycles)
            and np.isclose(one.cycles, other.cycles, rtol=1e-7)
        ):
            found |= set(changed)
    return found


def correction(
    sizes: tuple[int, ...], done: list[Candidate]
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns factors on simulated cycles, of genomes [B 14], up to one that all share: compiled over simulated.

    A ridge regression of their logarithms on choices: kriging, covariances counting the choices that two plans share.
    """
    judged = [one for one in done if one.judged]

    def indicators(genes: np.ndarray) -> np.ndarray:
        hot = [genes[:, k, None] == np.arange(size) for k, size in enumerate(sizes)]
        there, back = np.split(genes[:, _CUTS], 2, axis=1)
        hot.append((there == back).all(axis=1, keepdims=True))
        return np.concatenate(hot, axis=1).astype(float)

    if not judged:
        return lambda genes: np.ones(len(genes))
    seen = indicators(np.array([one.genes for one in judged]))
    wrong = np.log([one.cycles / one.simulated for one in judged])

    def factors(genes: np.ndarray) -> np.ndarray:
        asked = indicators(genes)
        mean, _ = posterior(
            seen @ seen.T,
            asked @ seen.T,
            asked.sum(axis=1),  # Of squares: they are 0 or 1.
            _NOISE,
            wrong - wrong.mean(),
        )
        return np.exp(mean)

    return factors


def _neighbours(
    setting: Setting,
    passes: Passes,
    best: Candidate,
    seen: set[tuple[int, ...]],
    idle: set[int],
    factors: Callable[[np.ndarray], np.ndarray],
) -> Candidate | None:
    """Returns the best in the simulation of what differs in one or two choices and was not compiled."""
    sizes = game.space(setting).sizes
    genes = np.array(best.genes, np.int32)
    changes = [
        (gene, value)
        for gene, size in enumerate(sizes)
        for value in range(size)
        if value != genes[gene]
    ]
    rows = [genes.copy() for _ in changes]
    for row, (gene, value) in zip(rows, changes):
        row[gene] = value
    for (g, v), (h, w) in itertools.combinations(changes, 2):
        if g != h:
            row = genes.copy()
            row[g], row[h] = v, w
            rows.append(row)
    if passes == "step":
        rows.extend(_alike(setting, genes))
    repaired = optimum.repaired(setting, _relevant(np.stack(rows), passes))
    repaired = np.unique(repaired, axis=0)
    costs = _simulated(setting, passes, repaired)
    for index in np.argsort(costs * factors(repaired), kind="stable").tolist():
        key = _without(tuple(repaired[index].tolist()), idle)
        if key not in seen and np.isfinite(costs[index]):
            return _candidate(
                setting,
                f"near {best.name.removeprefix(_NEAR)}",
                repaired[index],
                float(costs[index]),
            )
    return None


def _relevant(genes: np.ndarray, passes: Passes) -> np.ndarray:
    """Returns genomes [B 14] without choices that the passes do not see."""
    if passes == "step":
        return genes
    unseen = np.arange(game.NUM_GENES) >= game.BACKWARD
    return np.where(unseen, 0, genes).astype(np.int32)


def _candidate(
    setting: Setting, name: str, genes: np.ndarray, cycles: float
) -> Candidate:
    genome = Genome(np.asarray(genes, np.int32), _NO_VALUES)
    return Candidate(
        name=name,
        genes=tuple(int(gene) for gene in genome.choices),
        plan=game.plan(setting, genome),
        simulated=cycles,
    )


def _simulated(setting: Setting, passes: Passes, genes: np.ndarray) -> np.ndarray:
    """Returns the cycles of many genomes."""
    cycles = optimum.simulated(setting, 0, genes)
    if passes == "step":
        cycles = cycles + optimum.simulated(setting, 1, genes)
    return cycles
