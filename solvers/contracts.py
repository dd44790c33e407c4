"""Checks of what `solvers.protocols` promises, for anybody's implementation.

Each raises AssertionError with what is wrong. They are meant for tests:

    def test_my_space() -> None:
        check_space(MySpace(...))
"""

import math
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from solvers import spaces
from solvers.problem import Problem
from solvers.protocols import Game, Genome, Oracle, Predictor, SearchSpace, Strategy


def check_game(game: Game, instance: Any, *, episodes: int = 4, seed: int = 0) -> None:
    """Plays random legal episodes and checks every step.

    Episodes end after `num_decisions` steps at most, masks are never empty, shapes never change, all
    is finite, the end absorbs, a batch is its rows, and the same actions give the same states.
    """
    hash(game)
    steps = game.num_decisions(instance)
    assert isinstance(steps, int) and steps > 0, "num_decisions is a positive int"
    keys = jax.random.split(jax.random.key(seed), episodes)
    step = jax.jit(jax.vmap(game.step, (None, 0, 0)))
    states = jax.jit(jax.vmap(game.init, (None, 0)))(instance, keys)
    first, shapes = states, _shapes(states)
    rng = np.random.default_rng(seed)
    played = []
    assert not np.asarray(states.terminated).any(), "a game starts unfinished"
    for turn in range(steps + 1):
        mask = np.asarray(states.legal_action_mask)
        assert mask.shape == (episodes, game.num_actions), "mask [num_actions]"
        assert mask.dtype == bool, "legal_action_mask is boolean"
        assert mask.any(axis=1).all(), f"no legal action after {turn} steps"
        assert np.isfinite(np.asarray(states.reward)).all(), "rewards are finite"
        _require_finite(states.observation, "observation")
        if turn == steps:
            break
        actions = np.array([rng.choice(np.flatnonzero(row)) for row in mask], np.int32)
        played.append(actions)
        over = np.asarray(states.terminated)
        after = step(instance, states, actions)
        assert _shapes(after) == shapes, "a step keeps all shapes"
        assert np.asarray(after.terminated)[over].all(), "the end is the end"
        assert not np.asarray(after.reward)[over].any(), "nothing is earned behind it"
        states = after
    assert np.asarray(states.terminated).all(), f"not over after {steps} steps"
    again = step(instance, states, np.argmax(states.legal_action_mask, axis=1))
    _require_equal(_position(again), _position(states), "a step from the end")
    states = first
    for actions in played:
        last, states = states, step(instance, states, actions)
    one = jax.jit(game.step)(
        instance, jax.tree.map(lambda x: x[-1], last), played[-1][-1]
    )
    row = jax.tree.map(lambda x: x[-1], states)
    _require_equal(row, one, "one game and a row of many", tolerance=1e-5)


def check_space(space: SearchSpace, *, samples: int = 64, seed: int = 0) -> None:
    """Checks that all operations stay inside the space and say what they should.

    Samples differ, mutation changes something, members repair to themselves, a child of equals is
    that, encodings are finite, tell members apart, and rows of a batch do not mix.
    """
    hash(space)
    assert len(space.sizes) + space.num_values > 0, "a space has a gene"
    keys = jax.random.split(jax.random.key(seed), (4, samples))
    one = jax.jit(jax.vmap(space.sample))(keys[0])
    other = jax.jit(jax.vmap(space.sample))(keys[1])
    mutants = jax.jit(jax.vmap(space.mutate))(keys[2], one)
    children = jax.jit(jax.vmap(space.crossover))(keys[3], one, other)
    selves = jax.jit(jax.vmap(space.crossover))(keys[3], one, one)
    for name, genomes in (
        ("sample", one),
        ("mutate", mutants),
        ("crossover", children),
    ):
        _require_members(space, genomes, name)
    _require_equal(selves, one, "crossover of one with itself")
    names = spaces.keys(one)
    same = [a == b for a, b in zip(names, spaces.keys(mutants))]
    if math.prod(space.sizes) > 1 or space.num_values:
        assert len(set(names)) > 1, "sample returns always the same"
        assert sum(same) < samples / 2, "mutate mostly changes nothing"
    tokens = np.asarray(spaces.encode(space, one))
    assert tokens.ndim == 3 and tokens.shape[0] == samples, "encode gives [L, F]"
    assert np.isfinite(tokens).all(), "encodings are finite"
    flat = {row.tobytes() for row in tokens}
    assert len(flat) == len(set(names)), "encode gives different members one encoding"
    single = jax.jit(space.mutate)(keys[2, 0], Genome(*(x[0] for x in one)))
    _require_equal(
        single, Genome(*(x[0] for x in mutants)), "one genome and a row of many"
    )


def check_oracle(oracle: Oracle, genomes: Genome) -> None:
    """Checks the answers to a batch: one each, the same again, in any company; and that it pickles."""
    genomes = spaces.host(genomes)
    count = len(genomes.choices)
    assert oracle.unit in ("simulations", "measurements"), "unit"
    assert oracle.num_objectives >= 1, "num_objectives"
    found = list(oracle.measure(genomes))
    assert len(found) == count, "one measurement per genome"
    for costs, failure in found:
        assert len(costs) == oracle.num_objectives, "a cost per objective"
        finite = all(map(math.isfinite, costs))
        assert finite or failure, "costs that are not finite need a reason"
        assert not failure or not any(map(math.isfinite, costs)), (
            "a failure has no costs"
        )
    backwards = list(oracle.measure(spaces.take(genomes, np.arange(count)[::-1])))
    for one, other in zip(found, backwards[::-1], strict=True):
        np.testing.assert_allclose(one.costs, other.costs, rtol=1e-6)
    copy = pickle.loads(pickle.dumps(oracle))
    assert oracle.digest == oracle.digest == copy.digest, "the digest stays"


def check_predictor(predictor: Predictor, *, seed: int = 0) -> None:
    """Checks that a predictor learns an additive order, and that neither padding nor failures move it."""
    rng = np.random.default_rng(seed)
    tokens = jnp.asarray(rng.choice([0.0, 1.0], (64, 6, 1)), jnp.float32)
    effects = np.arange(1.0, 7.0)
    costs = (np.asarray(tokens)[:, :, 0] @ effects)[:, None]
    key = jax.random.key(seed)
    start = predictor.init(key, tokens[0], 1)
    params = predictor.fit(key, start, tokens, costs, jnp.int32(48))
    score = np.asarray(predictor.score(params, tokens))
    assert score.ndim == 3 and score.shape[1:] == (64, 1), "score is [E, B, M]"
    assert np.isfinite(score).all(), "scores are finite"
    pairs = costs[48:, None, 0] > costs[None, 48:, 0]
    held = score[:, 48:, 0].mean(axis=0)
    right = (held[:, None] > held[None, :])[pairs].mean()
    assert right > 0.8, f"of held-out pairs {right:.0%} are in order"
    spoilt = np.where(np.arange(64)[:, None] < 48, costs, np.inf)
    again = predictor.fit(key, start, tokens, spoilt, jnp.int32(48))
    moved = np.asarray(predictor.score(again, tokens)).mean(axis=0)[48:, 0]
    other = (moved[:, None] > moved[None, :])[pairs].mean()
    assert other > 0.8, "rows behind `count` are not data"
    failing = np.where(np.asarray(tokens)[:, 0, :1] > 0, np.inf, 1.0)
    params = predictor.fit(key, start, tokens, failing, jnp.int32(64))
    score = np.asarray(predictor.score(params, tokens)).mean(axis=0)[:, 0]
    assert np.isfinite(score).all(), "failures are no numbers to learn"
    failed = failing[:, 0] == np.inf
    assert np.median(score[failed]) > np.median(score[~failed]), "a failure ranks last"


def check_strategy(
    strategy: Strategy, problem: Problem, *, rounds: int = 4, seed: int = 0
) -> None:
    """Asks and tells a few times: proposals are members, the same key gives the same, failures pass."""
    key = jax.random.key(seed)
    proposals = []
    for _ in range(2):
        state = strategy.init(problem, key)
        made = []
        for turn in range(rounds):
            proposal, state = strategy.ask(
                problem, state, jax.random.fold_in(key, turn)
            )
            genomes = spaces.host(proposal.genomes)
            assert len(genomes.choices) > 0, "a proposal has a schedule"
            assert proposal.simulations >= 0 and proposal.predictions >= 0, "spent"
            _require_members(problem.space, genomes, "ask")
            costs = np.array([m.costs for m in problem.oracle.measure(genomes)])
            # Some failures are part of life.
            costs[:: 3 + turn] = np.inf
            state = strategy.tell(problem, state, genomes, costs)
            made += spaces.keys(genomes)
        proposals.append(made)
    assert proposals[0] == proposals[1], "the same keys give the same proposals"
    state = strategy.init(problem, key)
    none = (float("inf"),) * problem.oracle.num_objectives
    for turn in range(rounds):
        proposal, state = strategy.ask(problem, state, jax.random.fold_in(key, turn))
        count = len(proposal.genomes.choices)
        state = strategy.tell(
            problem, state, spaces.host(proposal.genomes), np.array([none] * count)
        )


def _require_members(space: SearchSpace, genomes: Genome, name: str) -> None:
    choices, values = (np.asarray(column) for column in genomes)
    count = len(choices)
    assert choices.shape == (count, len(space.sizes)), f"{name}: choices [N]"
    assert values.shape == (count, space.num_values), f"{name}: values [V]"
    assert choices.dtype == np.int32 and values.dtype == np.float32, f"{name}: dtypes"
    sizes = np.asarray(space.sizes)
    assert ((choices >= 0) & (choices < sizes)).all(), f"{name}: choice out of range"
    assert ((values >= 0) & (values <= 1)).all(), f"{name}: value out of [0, 1]"
    _require_equal(
        jax.vmap(space.repair)(Genome(jnp.asarray(choices), jnp.asarray(values))),
        genomes,
        f"repair of what {name} returns",
    )


def _shapes(tree: Any) -> Any:
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def _position(state: Any) -> Any:
    """Returns the state but for the reward, which is the last step's."""
    leaves = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    return {name: leaf for name, leaf in leaves.items() if "reward" not in name}


def _require_equal(one: Any, other: Any, what: str, *, tolerance: float = 0.0) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance, err_msg=what)


def _require_finite(tree: Any, what: str) -> None:
    for leaf in jax.tree.leaves(tree):
        assert np.isfinite(np.asarray(leaf)).all(), f"{what} is not finite"
