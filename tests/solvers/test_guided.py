"""Predictor-guided search over choices, against functions whose optimum is known."""

import itertools
import math

import numpy as np
import pytest

import solvers
from solvers import guided as guiding
from solvers.command.units import Budget
from solvers.guided import Guided, Prior
from solvers.protocols import Genome, Measurement, Unit

SIZES = (3, 2, 4, 3)
# Change of the log of the cost by knob and value; additive, so the optimum is each knob's best.
EFFECTS = ((0.0, -0.2, 0.1), (0.0, 0.3), (0.0, 0.05, -0.1, 0.02), (0.0, 0.0, -0.05))
OPTIMUM = (1, 0, 2, 2)


def _cost(vector: tuple[int, ...]) -> float:
    return math.exp(sum(row[v] for row, v in zip(EFFECTS, vector, strict=True)))


def _search(guided: Guided, calls: int) -> list[tuple[int, ...]]:
    guided.tell(guided.default, _cost(guided.default))
    asked = []
    for _ in range(calls):
        vector = guided.propose()
        assert vector is not None
        asked.append(vector)
        guided.tell(vector, _cost(vector))
    return asked


def test_finds_the_optimum_in_a_third_of_all_settings() -> None:
    guided = Guided(SIZES, Prior.flat(SIZES))
    _search(guided, 24)  # Of 72.
    vector, cost = guided.best()
    assert vector == OPTIMUM
    assert cost == min(map(_cost, itertools.product(*map(range, SIZES))))


def test_nothing_is_proposed_twice_and_it_ends_when_all_is_measured() -> None:
    guided = Guided((2, 2), Prior.flat((2, 2)))
    guided.tell((0, 0), 1.0)
    seen = {(0, 0)}
    while (vector := guided.propose()) is not None:
        assert vector not in seen
        seen.add(vector)
        guided.tell(vector, 1.0)
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_failed_setting_is_a_loss_and_no_answer() -> None:
    guided = Guided((2, 2), Prior.flat((2, 2)))
    guided.tell((0, 0), 1.0)
    guided.tell((1, 0), math.inf)
    mean, _ = guided.posterior()
    assert mean[0] > 0 and mean[1] == 0
    assert guided.best() == ((0, 0), 1.0)
    assert guided.propose() == (0, 1)


def test_posterior_is_that_of_the_normal_equations() -> None:
    """One feature: precision is 1/prior + n/noise, the mean weighs prior and data by them."""
    prior = Prior(mean=np.array([-0.1]), covariance=np.array([[0.05**2]]))
    guided = Guided((2,), prior)
    guided.tell((0,), 2.0)
    guided.tell((1,), 2.0 * math.exp(-0.3))
    mean, covariance = guided.posterior()
    precision = 1 / 0.05**2 + 1 / 0.01**2
    expected = (-0.1 / 0.05**2 - 0.3 / 0.01**2) / precision
    assert mean[0] == pytest.approx(expected)
    assert covariance[0, 0] == pytest.approx(1 / precision)


def test_a_prior_that_knows_the_best_value_is_tried_first() -> None:
    mean = np.array([effect for row in EFFECTS for effect in row[1:]])
    guided = Guided(SIZES, Prior(mean=mean, covariance=np.eye(len(mean)) * 1e-8))
    assert _search(guided, 1) == [(1, 0, 0, 0)]
    assert set(_search(guided, 3)) & {OPTIMUM}


def test_values_that_went_together_elsewhere_are_expected_to_again() -> None:
    """The second value was as the first on every problem; the third had nothing to do with it."""
    random = np.random.default_rng(0)
    effect = random.normal(scale=0.04, size=40)
    samples = np.stack([effect, effect, random.permutation(effect)], axis=1)
    guided = Guided((4,), Prior.of_samples(samples))
    guided.tell((0,), 1.0)
    before, _ = guided.posterior()
    guided.tell((1,), math.exp(-0.04))
    after, _ = guided.posterior()
    assert after[1] - before[1] < -0.02
    assert abs(after[2] - before[2]) < 0.01


def test_a_value_that_ruined_a_problem_is_not_therefore_promising() -> None:
    """One value gains a little everywhere; one lost so much once that its spread is huge."""
    samples = np.array([[-0.01, 0.9], [-0.02, 0.0], [-0.01, math.inf], [-0.02, 0.0]])
    guided = Guided((2, 2), Prior.of_samples(samples))
    guided.tell((0, 0), 1.0)
    assert guided.propose() == (1, 0)


def test_expected_improvement_is_the_mean_of_what_is_gained() -> None:
    margin, deviation = np.array([-0.5, 0.0, 0.3]), np.array([1.0, 0.2, 0.1])
    draws = np.random.default_rng(0).normal(size=(200_000, 1))
    sampled = np.maximum(margin + deviation * draws, 0).mean(axis=0)
    np.testing.assert_allclose(
        guiding._expected_improvement(margin, deviation), sampled, rtol=0.02
    )


def test_a_prior_of_other_knobs_is_refused() -> None:
    with pytest.raises(ValueError, match="2 priors for 1"):
        Guided((2,), Prior.flat((2, 2)))


def test_as_a_strategy_of_the_engine_it_finds_the_same() -> None:
    asked = _search(Guided(SIZES, Prior.flat(SIZES)), 12)
    problem = solvers.Problem(
        space=solvers.ChoiceSpace(sizes=SIZES), oracle=_Known(), starts=None
    )
    result = solvers.search(problem, "guided", Budget(measurements=13))
    assert [tuple(row) for row in result.genomes.choices] == [(0, 0, 0, 0), *asked]
    assert result.costs[0] == min(map(_cost, [(0, 0, 0, 0), *asked]))


class _Known:
    """`_cost` as an oracle."""

    digest = "known"
    num_objectives = 1
    unit: Unit = "measurements"

    def measure(self, genomes: Genome) -> list[Measurement]:
        return [Measurement((_cost(tuple(map(int, c))),)) for c in genomes.choices]
