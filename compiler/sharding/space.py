"""Plans as genomes: for strategies that do not play."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import solvers
from compiler.sharding.cost import Choice, evaluate, evaluate_batch
from compiler.sharding.game import ShardingGame, Task, assign, game_of, task_of
from compiler.sharding.tables import Model
from solvers.problem import Simulator
from solvers.protocols import Genome

_BEHIND = 1 << 20


def decode(game: ShardingGame, task: Task, genome: Genome) -> Choice:
    """Returns the plan of a genome: decisions in order, those that are not legal left out.

    Args:
        game: the rules.
        task: what is played.
        genome: the mesh; for each axis `per_axis` classes, counted from 1, 0 for none; details, likewise.
    """
    genes = jnp.asarray(genome.choices)
    choice = game.blank()._replace(mesh=genes[0].astype(jnp.int8))
    slots = genes[1:]
    for axis in range(game.axes):
        for slot in range(game.per_axis):
            klass = slots[axis * game.per_axis + slot] - 1
            allowed = game.class_mask(task.tables, choice, jnp.int32(axis))
            legal = (klass >= 0) & allowed[jnp.maximum(klass, 0)]
            given = assign(task.tables, choice.levels, klass, jnp.int32(axis))
            choice = choice._replace(levels=jnp.where(legal, given, choice.levels))
    if not game.details:
        return choice
    mask = game.detail_mask(task.tables, choice.levels)
    for gene in slots[game.axes * game.per_axis :]:
        detail = gene - 1
        legal = (detail >= 0) & mask[jnp.maximum(detail, 0)]
        choice = game.set_detail(choice, jnp.where(legal, detail, -1))
    return choice


def encode(game: ShardingGame, choice: Choice) -> Genome:
    """Returns the genome of a plan, in the one order that equal plans have."""
    parts: list[Array] = [choice.mesh.astype(jnp.int32)[None]]
    classes = jnp.arange(game.classes)
    for axis in range(game.axes):
        level = choice.levels[:, axis].astype(jnp.int32)
        rank = jnp.where(level > 0, level * game.classes + classes, _BEHIND)
        parts.append(_first(rank, game.per_axis))
    flags = jnp.concatenate([choice.bits, choice.pins, choice.turned])
    rank = jnp.where(flags > 0, jnp.arange(game.details), _BEHIND)
    parts.append(_first(rank, game.max_details))
    return Genome(jnp.concatenate(parts).astype(jnp.int32), jnp.zeros(0, jnp.float32))


def _first(rank: Int[Array, " N"], count: int) -> Int[Array, " C"]:
    """Returns the indices of the lowest ranks, from 1, and 0 where there are no more."""
    order = jnp.argsort(rank)[:count]
    found = jnp.where(rank[order] < _BEHIND, order + 1, 0)
    return jnp.pad(found, (0, max(0, count - found.shape[0])))


@dataclasses.dataclass(frozen=True, eq=False)
class Canonical:
    """The repair of a space of plans."""

    game: ShardingGame
    task: Task

    def __call__(self, genome: Genome) -> Genome:
        """Returns the genome of the same plan in its one order."""
        return encode(self.game, decode(self.game, self.task, genome))


@dataclasses.dataclass(frozen=True)
class PlanCost:
    """What a genome costs: cycles; with `front`, MiB of arguments as well.

    Attributes:
        game: the rules.
        front: whether memory is an objective.
    """

    game: ShardingGame
    front: bool = False

    def __call__(self, task: Task, genome: Genome) -> Float[Array, "..."]:
        """Returns the costs; infinite where the plan does not fit."""
        cost = evaluate(task.tables, decode(self.game, task, genome), task.latency)
        fits = (cost.arguments <= task.argument_limit) & (
            cost.peak <= task.memory_limit
        )
        time = jnp.where(fits, cost.time, jnp.inf)
        return jnp.stack([time, cost.arguments]) if self.front else time


@dataclasses.dataclass(frozen=True)
class Played:
    """Maps an episode's actions to the genome of its plan."""

    game: ShardingGame

    def __call__(self, task: Task, actions: Int[Array, " T"]) -> Genome:
        """Returns the genome; actions of -1 are behind the end."""

        def move(state, action):  # type: ignore[no-untyped-def]
            return self.game.step(task, state, jnp.maximum(action, 0)), None

        start = self.game.init(task, jax.random.key(0))
        end, _ = jax.lax.scan(move, start, actions)
        return encode(self.game, end.choice)


def space_of(game: ShardingGame, task: Task) -> solvers.ChoiceSpace:
    """Returns the space of the game's plans."""
    classes = (game.classes + 1,) * (game.axes * game.per_axis)
    details = (game.details + 1,) * game.max_details
    return solvers.ChoiceSpace(
        sizes=(game.meshes, *classes, *details), repair_fn=Canonical(game, task)
    )


def problem(
    model: Model,
    *,
    latency: float = 0.0,
    argument_limit: float = math.inf,
    memory_limit: float = math.inf,
    reference: float | None = None,
    starts: tuple[Choice, ...] = (),
    front: bool = False,
    per_axis: int = 4,
    max_details: int = 4,
) -> solvers.Problem:
    """Returns the search for a plan, for `solvers.search`.

    Args:
        model: the program on its machine.
        latency: cycles of a collective before its first byte.
        argument_limit: MiB of arguments on one device.
        memory_limit: MiB of all that is in memory at once.
        reference: cycles of the plan to beat; None for the program that is not cut.
        starts: plans to measure first.
        front: whether to look for the front of time and memory of arguments; then there is no game.
        per_axis: how many classes one axis may be given.
        max_details: how many details may be set.

    Raises:
        ValueError: nothing found fits the memory; it says the least that would do.
    """
    game = game_of(model, per_axis=per_axis, max_details=max_details)
    task = task_of(
        model,
        latency=latency,
        argument_limit=argument_limit,
        memory_limit=memory_limit,
        reference=reference,
    )
    require_room(game, task)
    genomes = [encode(game, choice) for choice in starts]
    batch = (
        Genome(*(np.stack([np.asarray(g[i]) for g in genomes]) for i in range(2)))
        if genomes
        else None
    )
    return solvers.Problem(
        space=space_of(game, task),
        oracle=Simulator(
            cost_fn=PlanCost(game, front), instance=task, num_objectives=1 + front
        ),
        game=None if front else game,
        instance=task,
        genome_fn=Played(game),
        starts=batch,
    )


def require_room(game: ShardingGame, task: Task) -> None:
    """Looks for a plan that fits, greedily: the assignment that saves most, until none saves.

    Raises:
        ValueError: none was found.
    """
    limits = {
        "arguments": float(task.argument_limit),
        "peak": float(task.memory_limit),
    }
    limits = {name: limit for name, limit in limits.items() if math.isfinite(limit)}
    least = dict.fromkeys(limits, math.inf)
    for mesh in range(game.meshes):
        for name in limits:
            least[name] = min(least[name], _least(game, task, mesh, name))
    for name, limit in limits.items():
        if least[name] > limit:
            what = {"arguments": "the arguments", "peak": "the program"}[name]
            raise ValueError(
                f"no plan fits {what} into {limit:g} MiB a device; the least found is {least[name]:.4g} MiB"
            )


def _least(game: ShardingGame, task: Task, mesh: int, name: str) -> float:
    """Returns the least MiB that assigning one class after another leads to."""
    choice = game.blank()._replace(mesh=jnp.int8(mesh))
    used = float(getattr(evaluate(task.tables, choice), name))
    while True:
        found = [choice]
        for axis in range(game.axes):
            mask = np.asarray(game.class_mask(task.tables, choice, jnp.int32(axis)))
            full = int((np.asarray(choice.levels[:, axis]) > 0).sum()) >= game.per_axis
            for klass in [] if full else np.flatnonzero(mask):
                levels = assign(
                    task.tables, choice.levels, jnp.int32(klass), jnp.int32(axis)
                )
                found.append(choice._replace(levels=levels))
        batch: Choice = jax.tree.map(lambda *rows: jnp.stack(rows), *found)
        costs = np.asarray(getattr(evaluate_batch(task.tables, batch), name))
        best = int(np.argmin(costs))
        if costs[best] >= used:
            return used
        used, choice = float(costs[best]), found[best]
