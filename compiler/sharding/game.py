"""The sharding game: a plan decided class by class, axis by axis.

First a mesh is chosen; then, axis by axis, classes are assigned to the axis, each where those before it left it free,
until the player moves on; at last come details, in ascending order: which side of a conflict, units that are cut by
first classes only, classes that win back what contains them. Every position is a plan: what is not decided is not cut.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from compiler.sharding.cost import (
    Choice,
    Cost,
    evaluate,
    evaluate_batch,
    nothing,
    unit_codes,
)
from compiler.sharding.model import Model
from compiler.sharding.tables import Tables

# Infeasible plans score below feasible ones this many times slower than the reference.
_WORST = math.log(100.0)


class Task(NamedTuple):
    """What is played: a program on a machine, and what a plan may use.

    Attributes:
        tables: of the program.
        latency: cycles of a collective before its first byte.
        reference: cycles of the plan to beat.
        argument_limit: MiB of arguments on one device; infinite for no limit.
        memory_limit: MiB of all that is in memory at once.
    """

    tables: Tables
    latency: Float[Array, ""]
    reference: Float[Array, ""]
    argument_limit: Float[Array, ""]
    memory_limit: Float[Array, ""]


class Position(NamedTuple):
    """A position.

    Attributes:
        choice: the plan so far.
        phase: 0 the mesh, 1 .. A the axes, A + 1 details, A + 2 the end.
        assigned: classes on this axis, or details, so far.
        last: the last detail; -1 for none.
        score: log of reference over time; minus a constant and the overshoot where it is infeasible.
        observation: the plan as numbers, and what it costs.
    """

    choice: Choice
    phase: Int[Array, ""]
    assigned: Int[Array, ""]
    last: Int[Array, ""]
    score: Float[Array, ""]
    observation: Float[Array, " O"]
    legal_action_mask: Bool[Array, " A"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardingGame:
    """The rules.

    Actions, in this order: each mesh; each class, for the axis whose turn it is; each detail (conflicts, pins, classes
    to turn); moving on.

    Attributes:
        meshes: M.
        axes: A.
        classes: K.
        conflicts: R.
        pins: P.
        per_axis: how many classes one axis may be given.
        max_details: how many details may be set.
    """

    meshes: int
    axes: int
    classes: int
    conflicts: int
    pins: int
    per_axis: int = 4
    max_details: int = 4

    @property
    def details(self) -> int:
        """R + P + K."""
        return self.conflicts + self.pins + self.classes

    @property
    def num_actions(self) -> int:
        """M + K + details + 1."""
        return self.meshes + self.classes + self.details + 1

    def num_decisions(self, instance: Task) -> int:
        """A mesh, the classes of each axis and moving on, the details and stopping."""
        return 1 + self.axes * (self.per_axis + 1) + self.max_details + 1

    def init(self, instance: Task, key: PRNGKeyArray) -> Position:
        """Returns the plan that cuts nothing."""
        zero = jnp.int32(0)
        # With one mesh there is nothing to choose.
        phase = jnp.int32(0 if self.meshes > 1 else 1)
        choice = self.blank()
        first = self._at(instance, choice, phase, zero, jnp.int32(-1))
        return first._replace(reward=jnp.float32(0))

    def blank(self) -> Choice:
        """Returns the choice that cuts nothing."""
        return Choice(
            jnp.zeros((self.classes, self.axes), jnp.int8),
            jnp.zeros(self.conflicts, jnp.int8),
            jnp.zeros(self.pins, jnp.int8),
            jnp.zeros(self.classes, jnp.int8),
            jnp.int8(0),
        )

    def step(self, instance: Task, state: Position, action: Int[Array, ""]) -> Position:
        """Makes a decision; the reward is what the score grows by."""
        klass = action - self.meshes
        detail = klass - self.classes
        axis = state.phase - 1
        choosing = action < self.meshes
        assigning = (klass >= 0) & (klass < self.classes)
        detailing = (detail >= 0) & (detail < self.details)
        moving = detail == self.details
        choice = state.choice
        choice = choice._replace(mesh=jnp.where(choosing, action, choice.mesh))
        given = assign(instance.tables, choice.levels, klass, axis)
        choice = choice._replace(
            levels=jnp.where(assigning, given, choice.levels),
            mesh=choice.mesh.astype(jnp.int8),
        )
        choice = self.set_detail(choice, jnp.where(detailing, detail, -1))
        after = self._at(
            instance,
            choice,
            state.phase + (choosing | moving).astype(jnp.int32),
            jnp.where(choosing | moving, 0, state.assigned + 1),
            jnp.where(detailing, detail, state.last),
        )
        after = after._replace(reward=after.score - state.score)
        stay = state._replace(reward=jnp.float32(0))
        return jax.tree.map(lambda a, b: jnp.where(state.terminated, a, b), stay, after)

    def set_detail(self, choice: Choice, detail: Int[Array, ""]) -> Choice:
        """Sets a detail; none for -1."""
        pin = detail - self.conflicts
        klass = pin - self.pins
        return choice._replace(
            bits=_set(choice.bits, detail),
            pins=_set(choice.pins, pin),
            turned=_set(choice.turned, klass),
        )

    def detail_mask(self, tables: Tables, levels: Array) -> Bool[Array, " D"]:
        """Returns the details that may change where anything is cut."""
        cut = levels > 0
        conflict = jnp.any(cut, axis=1)[tables.conflict_class]
        padded = jnp.pad(levels, ((0, 1), (0, 0)))[tables.unit_class]
        second = jnp.any(padded > 1, axis=(1, 2))
        pins = jnp.arange(self.pins)[:, None] == tables.unit_pin[None, :]
        pinned = jnp.any(pins & second, axis=1)
        contested = jnp.any(jnp.sum(padded > 0, axis=1) > 1, axis=1)
        turned = jnp.any(self._has(tables) & contested, axis=1)
        return jnp.concatenate([conflict, pinned, turned])

    def class_mask(
        self, tables: Tables, choice: Choice, axis: Int[Array, ""]
    ) -> Bool[Array, " K"]:
        """Returns the classes that may be assigned to an axis: it divides them, and is free where one of them is."""
        sizes = tables.mesh_sizes[choice.mesh.astype(jnp.int32)]
        cut = choice.levels > 0
        parts = jnp.prod(jnp.where(cut, sizes, 1), axis=1)
        divided = tables.class_size % (parts * sizes[axis]) == 0
        taken = jnp.pad(cut[:, axis], (0, 1))[tables.unit_class]
        free = ~jnp.any(taken, axis=1)
        somewhere = jnp.any(self._has(tables) & free, axis=1)
        return divided & ~cut[:, axis] & somewhere & (sizes[axis] > 1)

    def _has(self, tables: Tables) -> Bool[Array, "K U"]:
        classes = jnp.arange(self.classes)[:, None, None]
        return jnp.any(tables.unit_class[None] == classes, axis=2)

    def _at(
        self,
        instance: Task,
        choice: Choice,
        phase: Array,
        assigned: Array,
        last: Array,
    ) -> Position:
        tables = instance.tables
        cost = evaluate(tables, choice, instance.latency)
        axis = jnp.clip(phase - 1, 0, self.axes - 1)
        in_axes = (phase >= 1) & (phase <= self.axes)
        classes = self.class_mask(tables, choice, axis)
        classes &= in_axes & (assigned < self.per_axis)
        details = self.detail_mask(tables, choice.levels)
        details &= jnp.arange(self.details) > last
        details &= (phase == self.axes + 1) & (assigned < self.max_details)
        over = phase > self.axes + 1
        # Moving on is wrong where not even cutting everything over all axes to come would save the plan.
        stuck = in_axes & jnp.any(classes)
        stuck &= self._least(instance, choice, axis) > self._limit(instance)
        onwards = ((phase > 0) & ~stuck) | over
        first = jnp.full(self.meshes, phase == 0)
        mask = jnp.concatenate([first, classes, details, onwards[None]])
        score = self.score(instance, cost)
        return Position(
            choice,
            phase.astype(jnp.int32),
            assigned.astype(jnp.int32),
            last.astype(jnp.int32),
            score,
            self._observation(instance, choice, phase, cost),
            mask,
            jnp.float32(0),
            over,
        )

    def _limit(self, instance: Task) -> Float[Array, ""]:
        return jnp.minimum(instance.argument_limit, instance.memory_limit)

    def _least(self, instance: Task, choice: Choice, axis: Array) -> Float[Array, ""]:
        """Returns a bound: the MiB of arguments if all of them were cut over all axes behind this one."""
        tables = instance.tables
        mesh = choice.mesh.astype(jnp.int32)
        share = tables.share[mesh, tables.unit_share + unit_codes(tables, choice)]
        later = jnp.arange(self.axes) > axis
        parts = jnp.prod(jnp.where(later, tables.mesh_sizes[mesh], 1))
        return share @ tables.argument_mib / parts

    def score(self, instance: Task, cost: Cost) -> Float[Array, ""]:
        """Returns what a plan is worth: log(reference / time), or less than any sane plan where it does not fit."""
        ratio = jnp.maximum(
            cost.arguments / instance.argument_limit, cost.peak / instance.memory_limit
        )
        worth = jnp.log(instance.reference / jnp.maximum(cost.time, 1.0))
        return jnp.where(ratio <= 1, jnp.maximum(worth, -_WORST), -_WORST - ratio)

    def _observation(
        self, instance: Task, choice: Choice, phase: Array, cost: Cost
    ) -> Float[Array, " O"]:
        total = jnp.sum(instance.tables.argument_mib)
        figures = jnp.stack(
            [
                jnp.log(jnp.maximum(cost.time, 1.0) / instance.reference),
                cost.exposed / jnp.maximum(cost.time, 1.0),
                cost.arguments / jnp.minimum(instance.argument_limit, total),
                cost.peak / jnp.minimum(instance.memory_limit, 100 * total),
            ]
        )
        parts = (
            choice.levels.reshape(-1),
            choice.bits,
            choice.pins,
            choice.turned,
            jnp.arange(self.meshes) == choice.mesh,
            jnp.arange(self.axes + 3) == phase,
            figures,
        )
        return jnp.concatenate([jnp.asarray(x, jnp.float32) for x in parts])


def assign(
    tables: Tables, levels: Int[Array, "K A"], klass: Array, axis: Array
) -> Int[Array, "K A"]:
    """Returns the levels after a class was assigned to an axis, behind all that meet it."""
    rows, columns = levels.shape
    here = jnp.arange(columns) == axis
    column = jnp.max(jnp.where(here, levels, 0), axis=1)
    mine = jnp.arange(rows) == klass
    met = jnp.any(tables.together & mine[:, None], axis=0)
    level = 1 + jnp.max(jnp.where(met, column, 0))
    new = mine[:, None] & here & (levels == 0)
    return jnp.where(new, level, levels).astype(jnp.int8)


def _set(flags: Array, index: Array) -> Array:
    return jnp.where(jnp.arange(flags.shape[0]) == index, 1, flags).astype(jnp.int8)


def game_of(model: Model, *, per_axis: int = 4, max_details: int = 4) -> ShardingGame:
    """Returns the game of a program."""
    return ShardingGame(
        meshes=len(model.meshes),
        axes=len(model.meshes[0].sizes),
        classes=len(model.classes),
        conflicts=len(model.conflicts),
        pins=len(model.pins),
        per_axis=per_axis,
        max_details=max_details,
    )


def task_of(
    model: Model,
    *,
    latency: float = 0.0,
    argument_limit: float = math.inf,
    memory_limit: float = math.inf,
    reference: float | None = None,
) -> Task:
    """Returns what is played.

    Args:
        model: the program on its machine.
        latency: cycles of a collective before its first byte.
        argument_limit: MiB of arguments on one device.
        memory_limit: MiB of all that is in memory at once.
        reference: cycles of the plan to beat; None for the program that is not cut.
    """
    tables = model.tables
    if reference is None:
        whole = jax.tree.map(lambda x: x[None], nothing(model))
        reference = float(evaluate_batch(tables, whole, latency).time[0])
    numbers = (latency, reference, argument_limit, memory_limit)
    return Task(tables, *(jnp.float32(x) for x in numbers))
