"""Schedules as the genomes of `solvers`, so that every strategy of the engine searches samplers.

`space.ScheduleSpace` says what a schedule decides and how it is changed; here its columns become the
engine's choices and numbers from 0 to 1, and back. E evaluations, S = E + 1 steps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import solvers
from diffusion import metrics, space
from diffusion.evaluate import Judge
from diffusion.problems import Problem
from diffusion.sampler import sample
from diffusion.space import FIRST, MAX_ORDER, ScheduleSpace
from solvers.problem import Simulator
from solvers.protocols import Genome

_LOW_ORDERS = MAX_ORDER - 1
_FIRST_SCALES, _SECOND_SCALES = (-2.0, 2.0), (-1.0, 2.0)
# Places of points: fine enough for a grid, and exact in float32.
_PLACES = 1 << 20
_LEAST_GAP = _PLACES // 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenomeSpace:
    """A `ScheduleSpace` as the engine's `SearchSpace`.

    Attributes:
        schedules: the space, with its noise schedule and E.
    """

    schedules: ScheduleSpace

    @property
    def _steps(self) -> int:
        return self.schedules.evaluations + 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Order, anchors of the first derivative, corrector and (unless blended) prediction of
        each step; what the first evaluation is replaced by."""
        each = [MAX_ORDER, _LOW_ORDERS, 2]
        each += [] if self.schedules.blend else [2]
        first = len(FIRST) if self.schedules.analytical else 1
        return (*(size for size in each for _ in range(self._steps)), first)

    @property
    def num_values(self) -> int:
        """E points of log-SNR, and two scales (and the prediction, if blended) of each step."""
        columns = 3 if self.schedules.blend else 2
        return self.schedules.evaluations + columns * self._steps

    def sample(self, key: PRNGKeyArray) -> Genome:
        """Returns a random schedule."""
        return self.from_schedule(self.schedules.sample(key))

    def mutate(self, key: PRNGKeyArray, genome: Genome) -> Genome:
        """Returns a changed schedule, as `ScheduleSpace.mutate` changes it."""
        return self.from_schedule(
            self.schedules.mutate(key, self.to_schedule_genome(genome))
        )

    def crossover(self, key: PRNGKeyArray, one: Genome, other: Genome) -> Genome:
        """Returns a child: each kind of decision, or those of each step, from one parent."""
        whole_key, kind_key, step_key = jax.random.split(key, 3)
        whole = jax.random.bernoulli(whole_key)
        steps = jax.random.bernoulli(step_key, 0.5, (self._steps,))
        first = self.schedules.evaluations
        choices = [self._steps] * (len(self._choice_names) - 1) + [1]
        values = [first] + [self._steps] * (len(self._value_names) - 1)
        kinds = jax.random.bernoulli(kind_key, 0.5, (len(choices) + len(values),))

        def taken(kind: int, length: int) -> Array:
            all_of_it = jnp.full(length, kinds[kind])
            # The points go as a whole, whatever else does.
            return (
                jnp.where(whole, all_of_it, steps)
                if length == self._steps
                else all_of_it
            )

        masks = [taken(k, n) for k, n in enumerate([*choices, *values])]
        mask = jnp.concatenate(masks[: len(choices)])
        other_mask = jnp.concatenate(masks[len(choices) :])
        return Genome(
            jnp.where(mask, one.choices, other.choices),
            jnp.where(other_mask, one.values, other.values),
        )

    def repair(self, genome: Genome) -> Genome:
        """Sorts the points, no two closer than a thousandth of the whole."""
        count = self.schedules.evaluations
        places = jnp.round(jnp.clip(genome.values[:count], 0, 1) * _PLACES)
        ranks = jnp.arange(1, count + 1, dtype=jnp.int32) * _LEAST_GAP
        free = jnp.sort(places.astype(jnp.int32)) - ranks
        room = _PLACES - (count + 1) * _LEAST_GAP
        fixed = jax.lax.cummax(jnp.clip(free, 0, room)) + ranks
        points = fixed.astype(jnp.float32) / _PLACES
        rest = jnp.clip(genome.values[count:], 0.0, 1.0)
        values = jnp.concatenate([points, rest]).astype(jnp.float32)
        return Genome(jnp.asarray(genome.choices, jnp.int32), values)

    def encode(self, genome: Genome) -> Float[Array, "L F"]:
        """Returns a token per evaluation: its row of the sampler's table, and its log-SNR."""
        table = self.schedules.decode(self.to_schedule_genome(genome))
        snr = jnp.log(table.alpha / table.sigma)
        return jnp.concatenate([snr[:, None], table.carry[:, None], table.weight], 1)

    @property
    def _choice_names(self) -> tuple[str, ...]:
        shares = () if self.schedules.blend else ("data_share",)
        return ("order", "low_order", "corrector", *shares, "first")

    @property
    def _value_names(self) -> tuple[str, ...]:
        shares = ("data_share",) if self.schedules.blend else ()
        return ("log_snr", "first_scale", "second_scale", *shares)

    def from_schedule(self, found: space.Genome) -> Genome:
        """Returns the engine's genome of one of `ScheduleSpace`."""
        columns = {
            "order": found.order - 1,
            "low_order": found.low_order - 1,
            "corrector": found.corrector,
            "data_share": jnp.round(found.data_share),
            "first": found.first[None],
        }
        low, high = self.schedules.ends
        shares = {
            "log_snr": (found.log_snr - low) / (high - low),
            "first_scale": _share(found.first_scale, _FIRST_SCALES),
            "second_scale": _share(found.second_scale, _SECOND_SCALES),
            "data_share": found.data_share,
        }
        choices = [columns[name].astype(jnp.int32) for name in self._choice_names]
        values = [shares[name] for name in self._value_names]
        return self.repair(
            Genome(
                jnp.concatenate(choices), jnp.concatenate(values).astype(jnp.float32)
            )
        )

    def to_schedule_genome(self, genome: Genome) -> space.Genome:
        """Returns the genome of `ScheduleSpace`."""
        steps, count = self._steps, self.schedules.evaluations
        choices = dict(
            zip(self._choice_names, _split(genome.choices, steps, 0), strict=True)
        )
        values = dict(
            zip(self._value_names, _split(genome.values, steps, count), strict=True)
        )
        low, high = self.schedules.ends
        share = values["data_share"] if self.schedules.blend else choices["data_share"]
        return space.Genome(
            log_snr=low + values["log_snr"] * (high - low),
            order=choices["order"] + 1,
            data_share=share.astype(jnp.float32),
            low_order=choices["low_order"] + 1,
            first_scale=_scale(values["first_scale"], _FIRST_SCALES),
            second_scale=_scale(values["second_scale"], _SECOND_SCALES),
            corrector=choices["corrector"] == 1,
            first=choices["first"][0],
        )


def _split(genes: Array | np.ndarray, steps: int, first: int) -> list[Array]:
    """Splits genes into a first part of its own length and one part per `steps`; a rest may follow."""
    cuts = [first] if first else []
    while (cuts[-1] if cuts else 0) + steps < len(genes):
        cuts.append((cuts[-1] if cuts else 0) + steps)
    return jnp.split(jnp.asarray(genes), cuts)


def _share(value: Array, ends: tuple[float, float]) -> Array:
    return jnp.clip((value - ends[0]) / (ends[1] - ends[0]), 0.0, 1.0)


def _scale(share: Array, ends: tuple[float, float]) -> Array:
    return ends[0] + share * (ends[1] - ends[0])


@dataclasses.dataclass(frozen=True, eq=False)
class SamplingError:
    """The cost of a schedule: RMSE of its samples to the reference, as a function to compile."""

    space: GenomeSpace
    problem: Problem

    def __repr__(self) -> str:
        # A part of the key under which measurements are kept.
        return f"SamplingError({self.space!r}, {self.problem.name})"

    def __call__(self, noises: tuple[Array, Array], genome: Genome) -> Float[Array, ""]:
        """Returns the error on noises: x_T and the reference solutions."""
        x, reference = noises
        table = self.space.schedules.decode(self.space.to_schedule_genome(genome))
        return metrics.rmse(sample(self.problem.denoise, table, x), reference)


def search_problem(
    schedules: ScheduleSpace, problem: Problem, search: Judge
) -> solvers.Problem:
    """Returns the search for a schedule as the strategies of `solvers` take it.

    Args:
        schedules: the space.
        problem: whose model to sample from.
        search: the noise to search on.

    Known solvers (`ScheduleSpace.seeds`) are measured first.
    """
    genomes = GenomeSpace(schedules=schedules)
    cost = SamplingError(genomes, problem)
    seeds = jax.jit(jax.vmap(genomes.from_schedule))(schedules.seeds())
    return solvers.played(
        genomes,
        cost,
        (search.x, search.reference),
        # A sampler fills the machine by itself, and memory stays that of one.
        oracle=Simulator(
            cost_fn=cost, instance=(search.x, search.reference), one_by_one=True
        ),
        starts=Genome(*map(np.asarray, seeds)),
    )


__all__ = ["GenomeSpace", "SamplingError", "search_problem"]
