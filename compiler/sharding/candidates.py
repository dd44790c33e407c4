"""Plans with what is known of them: one at a time, and in pools.

What makes a pool are genomes of the search; each plan of it can become a candidate, which is compiled.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import solvers
from compiler.sharding import ilp, space
from compiler.sharding.cost import Choice, evaluate, of_codes, radix, unit_codes
from compiler.sharding.game import ShardingGame, Task
from compiler.sharding.layout import Layout
from compiler.sharding.oracle import Judged
from compiler.sharding.plan import Plan
from solvers import pareto
from solvers.protocols import Genome

_BATCH = 512

LEAST = "least memory"
UNCUT = "not cut"


class Limits(NamedTuple):
    """MiB that a plan may take on one device."""

    arguments: float = math.inf
    memory: float = math.inf  # Arguments, results, temporaries.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A plan with what is known of it.

    Attributes:
        name: where it is from.
        choice: what it decides; None where every unit is cut by itself.
        cut: how, where it is so.
        predicted: cycles by the model.
        expected: cycles by the model, corrected by what the compiler said of others before.
        arguments: MiB on one device.
        peak: MiB at the fullest, by the model.
        communication: cycles of collectives by the model, hidden or not.
        codes: of its units.
        key: the same for all that comes to the same.
        by_hand: whether the search has no part in it.
        bare: whether only arguments and results are told where to be, and the partitioner decides on all between, as
            for plans that people write.
        plan: what it means; None before it was asked for.
        judged: what the compiler made of it; None if it was not asked, or refused.
        failure: why it is no answer.
    """

    name: str
    choice: Choice | None
    predicted: float
    expected: float
    arguments: float
    peak: float
    communication: float
    codes: np.ndarray
    key: bytes
    cut: Layout | None = None
    by_hand: bool = False
    bare: bool = False
    plan: Plan | None = None
    judged: Judged | None = None
    failure: str = ""

    @property
    def cycles(self) -> float:
        """The compiler's word; infinite without, or where it does not fit."""
        return (
            self.judged.timeline.total if self.judged and not self.failure else np.inf
        )


def worth(one: Candidate) -> tuple[float, float, float]:
    """Returns what candidates are sorted by: cycles, those of the model where nothing was compiled, then memory."""
    return one.cycles, one.arguments if one.judged else one.expected, one.arguments


class Pool(NamedTuple):
    """Plans that are not the same. P plans, U units.

    Attributes:
        choices: with a leading axis.
        costs: time, arguments, peak, compute, communication.
        codes: of the units, and the mesh.
        keys: of each plan, as a candidate's.
    """

    choices: Choice
    costs: Float[np.ndarray, "P 5"]
    codes: Int[np.ndarray, "P U"]
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.costs)

    def take(self, rows: Any) -> "Pool":
        """Returns some of the plans."""
        return Pool(
            jax.tree.map(lambda x: x[rows], self.choices),
            self.costs[rows],
            self.codes[rows],
            self.keys[rows],
        )


def front(candidates: list[Candidate]) -> list[Candidate]:
    """Returns the compiled plans that no other beats in cycles and in MiB of arguments, the fastest first."""
    known = [one for one in candidates if math.isfinite(one.cycles)]
    if not known:
        return []
    costs = np.array([[one.cycles, round(one.arguments, 2)] for one in known])
    return [known[row] for row in pareto.front_rows(costs)]


def candidate(
    task: Task, name: str, choice: Choice, *, by_hand: bool = False
) -> Candidate:
    """Returns a choice as a candidate."""
    rows = jax.tree.map(lambda x: np.asarray(x)[None], choice)
    costs, codes = _in_batches(rows, lambda batch: _facts(task, batch))
    one = entry(Pool(rows, costs, codes, keys(task, codes)), 0, name)
    return dataclasses.replace(one, by_hand=by_hand, bare=by_hand)


def entry(pool: Pool, row: int, name: str) -> Candidate:
    """Returns a plan of a pool as a candidate."""
    time, arguments, peak, _, communication = map(float, pool.costs[row])
    return Candidate(
        name=name,
        choice=jax.tree.map(lambda x: jnp.asarray(x[row]), pool.choices),
        predicted=time,
        expected=time,
        arguments=arguments,
        peak=peak,
        communication=communication,
        codes=pool.codes[row],
        key=pool.keys[row].tobytes(),
    )


def by_units(task: Task, name: str, found: ilp.Solution) -> Candidate:
    """Returns an answer of the integer program as a candidate."""
    mesh = found.cut.mesh
    codes = np.array([[*found.codes, mesh]], np.int32)
    cost = of_codes(task.tables, jnp.asarray(found.codes), mesh, task.latency)
    return Candidate(
        name=name,
        choice=None,
        cut=found.cut,
        predicted=float(cost.time),
        expected=float(cost.time),
        arguments=float(cost.arguments),
        peak=float(cost.peak),
        communication=float(cost.communication),
        codes=codes[0],
        key=keys(task, codes)[0].tobytes(),
    )


def pool_of(problem: solvers.Problem, genomes: Genome, limits: Limits) -> Pool:
    """Returns the plans of genomes that fit, each once, the fastest first.

    What the model thinks equal stays, if it is not cut the same: the compiler tells it apart.

    Args:
        problem: of `space.problem`.
        genomes: of it, with a leading axis.
        limits: that all keep.
    """
    game, task = _game(problem), problem.instance
    choices = _in_batches(
        np.asarray(genomes.choices), lambda rows: _decode(game, task, rows)
    )
    costs, codes = _in_batches(choices, lambda rows: _facts(task, rows))
    whole = Pool(choices, costs, codes, keys(task, codes))
    fits = (costs[:, 1] <= limits.arguments) & (costs[:, 2] <= limits.memory)
    kept = np.flatnonzero(fits & np.isfinite(costs[:, 0]))
    _, first = np.unique(whole.keys[kept], axis=0, return_index=True)
    kept = kept[first]
    return whole.take(kept[np.argsort(costs[kept, 0], kind="stable")])


def keys(task: Task, codes: Int[np.ndarray, "P U"]) -> Int[np.ndarray, "P U"]:
    """Returns the codes of plans in one form: mirror images, and one axis cut in two, come to the same.

    Args:
        task: of the search.
        codes: of the units, and the mesh.
    """
    base = np.asarray(radix(task.tables))
    sizes = np.asarray(task.tables.mesh_sizes)[codes[:, -1]]  # [P A]
    count = sizes.shape[1]
    # [P U A]; an axis of one device cuts nothing.
    cuts = codes[:, :-1, None] // base[:, None] ** np.arange(count) % base[:, None]
    cuts = np.where(sizes[:, None] > 1, cuts, 0)
    # All axes are cut alike: they are one.
    first = np.max(cuts, axis=2)
    one = np.all((cuts == first[:, :, None]) | (sizes[:, None] == 1), axis=(1, 2))
    cuts = np.where(one[:, None, None], first[:, :, None], cuts)
    mesh = np.where(one, -1, codes[:, -1])
    found = cuts
    for order in itertools.permutations(range(count)):
        turned = cuts[:, :, order]
        same = np.all(sizes[:, order] == sizes, axis=1)
        turned = np.where(same[:, None, None], turned, cuts)
        found = np.where(_before(turned, found)[:, None, None], turned, found)
    return np.concatenate([found.reshape(len(codes), -1), mesh[:, None]], axis=1)


def _before(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns whether rows [P U A] come before others in the order of a dictionary."""
    apart = (one - other).reshape(len(one), -1)
    first = np.argmax(apart != 0, axis=1)
    return apart[np.arange(len(apart)), first] < 0


def around(problem: solvers.Problem, choice: Choice, limits: Limits) -> Pool:
    """Returns the plans that fit and differ from one in one choice."""
    game = _game(problem)
    genes = np.asarray(space.encode(game, choice).choices)
    rows = []
    for gene, size in enumerate(problem.space.sizes):
        for value in range(size):
            if value != genes[gene]:
                row = genes.copy()
                row[gene] = value
                rows.append(row)
    batch = Genome(np.stack(rows), np.zeros((len(rows), 0), np.float32))
    return pool_of(problem, batch, limits)


def joined(one: Pool, other: Pool) -> Pool:
    """Returns both, what is in both once."""
    both = Pool(*jax.tree.map(lambda a, b: np.concatenate([a, b]), one, other))
    _, first = np.unique(both.keys, axis=0, return_index=True)
    return both.take(np.sort(first))


def by_hand(
    problem: solvers.Problem,
    plans: Mapping[str, Choice],
    limits: Limits,
) -> tuple[list[Candidate], dict[str, str]]:
    """Returns those of some plans that fit, the fastest first, and why the others do not."""
    found, refused = [], {}
    for name, choice in plans.items():
        one = candidate(problem.instance, name, choice, by_hand=True)
        if one.arguments > limits.arguments:
            refused[name] = f"its arguments take {one.arguments:.4g} MiB"
        elif one.peak > limits.memory:
            refused[name] = f"it takes {one.peak:.4g} MiB by the model"
        else:
            found.append(one)
    return sorted(found, key=lambda one: one.predicted), refused


def automatic(problem: solvers.Problem, pool: Pool, limits: Limits) -> list[Candidate]:
    """Returns what to compare with where nobody wrote a plan: the program uncut, or cut for memory alone."""
    blank = _game(problem).blank()
    uncut = candidate(problem.instance, UNCUT, blank, by_hand=True)
    if uncut.arguments <= limits.arguments and uncut.peak <= limits.memory:
        return [uncut]
    least = int(np.lexsort((pool.costs[:, 0], pool.costs[:, 1]))[0])
    return [dataclasses.replace(entry(pool, least, LEAST), by_hand=True, bare=True)]


def _game(problem: solvers.Problem) -> ShardingGame:
    assert isinstance(problem.game, ShardingGame)
    return problem.game


@functools.partial(jax.jit, static_argnums=0)
def _decode(game: ShardingGame, task: Task, choices: Int[Array, "B N"]) -> Choice:
    def one(genes: Array) -> Choice:
        return space.decode(game, task, Genome(genes, jnp.zeros(0)))

    return jax.vmap(one)(choices)


@jax.jit
def _facts(task: Task, choices: Choice) -> tuple[Array, Array]:
    def one(choice: Choice) -> tuple[Array, Array]:
        cost = evaluate(task.tables, choice, task.latency)
        figures = (
            cost.time,
            cost.arguments,
            cost.peak,
            cost.compute,
            cost.communication,
        )
        codes = jnp.append(unit_codes(task.tables, choice), choice.mesh)
        return jnp.stack(figures), codes.astype(jnp.int32)

    return jax.vmap(one)(choices)


def _in_batches(rows: Any, fn: Callable[[Any], Any]) -> Any:
    """Applies a function to pieces of one size, so that it is compiled once."""
    count = len(jax.tree.leaves(rows)[0])
    size = min(_BATCH, 1 << max(3, (count - 1).bit_length()))
    found = []
    for begin in range(0, count, size):
        index = np.minimum(np.arange(begin, begin + size), count - 1)
        piece = fn(jax.tree.map(lambda x, index=index: np.asarray(x)[index], rows))
        kept = min(size, count - begin)
        found.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], piece))
    return jax.tree.map(lambda *pieces: np.concatenate(pieces), *found)
