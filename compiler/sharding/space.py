"""Plans as genomes: for strategies that do not play."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import solvers
from compiler.sharding.cost import Choice, evaluate
from compiler.sharding.game import ShardingGame, Task, assign, game_of, task_of
from compiler.sharding.model import Model
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
    genes = jnp.asarray(genome.choices, jnp.int32)
    count = game.axes * game.per_axis
    axes = jnp.repeat(jnp.arange(game.axes), game.per_axis)

    def give(choice: Choice, slot: tuple[Array, Array]) -> tuple[Choice, None]:
        gene, axis = slot
        mask = jnp.pad(game.class_mask(task.tables, choice, axis), (1, 0))
        levels = assign(task.tables, choice.levels, gene - 1, axis)
        levels = jnp.where(mask[gene], levels, choice.levels)
        return choice._replace(levels=levels), None

    def put(choice: Choice, gene: Array) -> tuple[Choice, None]:
        return game.set_detail(choice, jnp.where(details[gene], gene - 1, -1)), None

    start = game.blank()._replace(mesh=genes[0].astype(jnp.int8))
    choice, _ = jax.lax.scan(give, start, (genes[1 : count + 1], axes))
    details = jnp.pad(game.detail_mask(task.tables, choice.levels), (1, 0))
    choice, _ = jax.lax.scan(put, choice, genes[count + 1 :])
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
    for what, limit, index in (
        ("the arguments", float(task.argument_limit), 0),
        ("the program", float(task.memory_limit), 1),
    ):
        if math.isfinite(limit):
            meshes = jnp.arange(game.meshes, dtype=jnp.int8)
            least = float(jnp.min(_least(game, task, meshes, jnp.int32(index))))
            if least > limit:
                raise ValueError(
                    f"no plan fits {what} into {limit:g} MiB a device; the least found is {least:.6g} MiB"
                )


@functools.partial(jax.jit, static_argnums=0)
def _least(
    game: ShardingGame, task: Task, meshes: Int[Array, " M"], index: Int[Array, ""]
) -> Float[Array, " M"]:
    """Returns the least MiB, of arguments (0) or at the peak (1), that a greedy choice leads to on each mesh."""
    classes = jnp.tile(jnp.arange(game.classes), game.axes)
    axes = jnp.repeat(jnp.arange(game.axes), game.classes)

    def used(choice: Choice) -> Array:
        cost = evaluate(task.tables, choice)
        return jnp.where(index == 0, cost.arguments, cost.peak)

    def better(state: tuple[Choice, Array, Array]) -> tuple[Choice, Array, Array]:
        choice, now, _ = state

        def after(klass: Array, axis: Array) -> tuple[Array, Array]:
            levels = assign(task.tables, choice.levels, klass, axis)
            allowed = game.class_mask(task.tables, choice, axis)[klass]
            allowed &= jnp.sum(choice.levels[:, axis] > 0) < game.per_axis
            size = used(choice._replace(levels=levels))
            return levels, jnp.where(allowed, size, jnp.inf)

        levels, sizes = jax.vmap(after)(classes, axes)
        best = jnp.argmin(sizes)
        saves = sizes[best] < now
        levels = jnp.where(saves, levels[best], choice.levels)
        return choice._replace(levels=levels), jnp.minimum(now, sizes[best]), saves

    def greedy(mesh: Array) -> Array:
        choice = game.blank()._replace(mesh=mesh)
        start = (choice, used(choice), jnp.bool_(True))
        return jax.lax.while_loop(lambda state: state[2], better, start)[1]

    return jax.lax.map(greedy, meshes)
