"""Strategies that play the problem's game: Gumbel MuZero over the true rules, plain UCT, and beam search.

They spend simulations inside the game, and propose the best schedules that they came across.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from solvers import planning, spaces, uct
from solvers.planning import Episodes
from solvers.problem import Problem
from solvers.protocols import Genome, Proposal


class Incumbent(NamedTuple):
    """The best measured since the last new start, and the best episode of games played again."""

    genome: Genome | None = None
    cost: float = float("inf")
    stale: int = 0  # Passes without a better one.
    advice: Int[Array, " T"] | None = None
    total: float = -float("inf")
    passes: int = 0


@dataclass(frozen=True, kw_only=True)
class Mcts:
    """Batches of episodes, each move searched by mctx, leaning to the best episode so far.

    Attributes:
        batch: episodes side by side.
        num_simulations: game steps per move and episode.
        lean: logit added to the best episode's action.
        gumbel_scale: of the exploration noise.
        patience: passes in vain until schedules are improved from a random one; where the game
            starts from a schedule.
    """

    batch: int = 4
    num_simulations: int = 16
    lean: float = 1.0
    gumbel_scale: float = 1.0
    patience: int = 4

    def init(self, problem: Problem, key: PRNGKeyArray) -> Incumbent:
        """Raises ValueError if there is no game to play."""
        _require_game(problem, "mcts")
        return Incumbent()

    def ask(
        self, problem: Problem, state: Incumbent, key: PRNGKeyArray
    ) -> tuple[Proposal, Incumbent]:
        """Plays a batch of episodes."""
        game, instance = _next(problem, state, key)
        steps = game.num_decisions(instance)
        advice = jnp.full(steps, -1, jnp.int32)
        if problem.advance_fn is None and state.advice is not None:
            advice = state.advice
        found = planning.episodes(
            game,
            instance,
            key,
            advice,
            batch=self.batch,
            num_simulations=self.num_simulations,
            gumbel_scale=self.gumbel_scale,
            lean=self.lean,
            prior_logits_fn=problem.prior_logits_fn or planning.uniform,
            value_fn=problem.value_fn or planning.nothing,
        )
        spent = self.batch * steps * (self.num_simulations + 1)
        return _propose(problem, instance, found, spent, state)

    def tell(
        self, problem: Problem, state: Incumbent, genomes: Genome, costs: np.ndarray
    ) -> Incumbent:
        """Remembers the best, or starts anew."""
        return _remember(state, genomes, costs, self.patience)


@dataclass(frozen=True, kw_only=True)
class Uct:
    """Plain UCT: trees from the start of the game, random play below them, nothing learned from one to the next.

    Attributes:
        batch: trees side by side.
        num_simulations: positions added to each tree.
        exploration: of the upper confidence bound.
        patience: as in `Mcts`.
    """

    batch: int = 1
    num_simulations: int = 128
    exploration: float = 2**0.5
    patience: int = 4

    def init(self, problem: Problem, key: PRNGKeyArray) -> Incumbent:
        """Raises ValueError if there is no game to play."""
        _require_game(problem, "uct")
        return Incumbent()

    def ask(
        self, problem: Problem, state: Incumbent, key: PRNGKeyArray
    ) -> tuple[Proposal, Incumbent]:
        """Grows a batch of trees."""
        game, instance = _next(problem, state, key)
        found = uct.search(
            game,
            instance,
            key,
            batch=self.batch,
            num_simulations=self.num_simulations,
            exploration=self.exploration,
        )
        # At most: what is above a position in the tree is not played again.
        spent = self.batch * (self.num_simulations + 1) * game.num_decisions(instance)
        return _propose(problem, instance, found, spent, state)

    def tell(
        self, problem: Problem, state: Incumbent, genomes: Genome, costs: np.ndarray
    ) -> Incumbent:
        """Remembers the best, or starts anew."""
        return _remember(state, genomes, costs, self.patience)


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Passes of beam search; where the game stays the same, all but the first with noise.

    Attributes:
        width: lines kept.
        noise: of a line's worth in further passes, as a share of the best return's size.
        keep: how many of the last lines are proposed.
        patience: as in `Mcts`.
    """

    width: int = 16
    noise: float = 0.05
    keep: int = 4
    patience: int = 4

    def init(self, problem: Problem, key: PRNGKeyArray) -> Incumbent:
        """Raises ValueError if there is no game to play."""
        _require_game(problem, "beam")
        return Incumbent()

    def ask(
        self, problem: Problem, state: Incumbent, key: PRNGKeyArray
    ) -> tuple[Proposal, Incumbent]:
        """Makes a pass."""
        game, instance = _next(problem, state, key)
        again = problem.advance_fn is None and state.passes > 0
        scale = abs(state.total) if np.isfinite(state.total) else 1.0
        found = planning.beam(
            game,
            instance,
            key,
            width=self.width,
            noise=jnp.float32(self.noise * scale if again else 0.0),
            prior_logits_fn=problem.prior_logits_fn or planning.uniform,
            value_fn=problem.value_fn or planning.nothing,
        )
        spent = self.width * game.num_actions * game.num_decisions(instance)
        kept = Episodes(found.actions[: self.keep], found.total[: self.keep])
        return _propose(problem, instance, kept, spent, state)

    def tell(
        self, problem: Problem, state: Incumbent, genomes: Genome, costs: np.ndarray
    ) -> Incumbent:
        """Remembers the best, or starts anew."""
        return _remember(state, genomes, costs, self.patience)


def _require_game(problem: Problem, name: str) -> None:
    if problem.game is None or problem.genome_fn is None:
        raise ValueError(
            f"{name} plans in a game, and this problem has none (with one objective, "
            "`solvers.adapters.played` makes it)"
        )


def _next(problem: Problem, state: Incumbent, key: PRNGKeyArray) -> tuple[Any, Any]:
    if problem.advance_fn is None:
        return problem.game, problem.instance
    again = jax.random.fold_in(key, 1)
    return problem.game, problem.advance_fn(problem.instance, state.genome, again)


def _propose(
    problem: Problem, instance: Any, found: Episodes, steps: int, state: Incumbent
) -> tuple[Proposal, Incumbent]:
    assert problem.genome_fn is not None
    total = np.asarray(found.total)
    actions = found.actions[np.flatnonzero(np.isfinite(total))]
    genomes = _genomes(problem.genome_fn, instance, actions)
    if total.max() > state.total:
        best = found.actions[int(total.argmax())]
        state = state._replace(advice=best, total=float(total.max()))
    spent = max(1, round(steps * problem.simulations_per_step))
    return Proposal(genomes, simulations=spent), state._replace(passes=state.passes + 1)


@functools.partial(jax.jit, static_argnums=0)
def _genomes(genome_fn: Any, instance: Any, actions: Int[Array, "B T"]) -> Genome:
    return jax.vmap(genome_fn, (None, 0))(instance, actions)


def _remember(
    state: Incumbent, genomes: Genome, costs: np.ndarray, patience: int
) -> Incumbent:
    best = int(np.argmin(costs[:, 0]))
    if costs[best, 0] < state.cost:
        genome = Genome(*(x[0] for x in spaces.take(spaces.host(genomes), [best])))
        return state._replace(genome=genome, cost=float(costs[best, 0]), stale=0)
    if state.stale + 1 >= patience:
        return state._replace(genome=None, cost=float("inf"), stale=0)
    return state._replace(stale=state.stale + 1)
