"""Training as a function from state to state: self-play, replay, learning, reanalyse.

Everything that training knows is in `TrainState`, a pytree of arrays, so that a state put on disk and
read back goes on to the same result. What is compiled is compiled in the first iterations; of an
iteration only the metrics come to the host.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

from muzero import learner, replay, selfplay, targets
from muzero.agents import Agent
from muzero.config import SearchConfig, TrainConfig
from muzero.hosts import AXIS, placed
from muzero.replay import Replay
from muzero.selfplay import Episode, Lanes
from muzero.task import row


class TrainState(NamedTuple):
    """Between two iterations."""

    iteration: Int[Array, ""]
    key: UInt[Array, " K"]  # Raw root of all randomness; it stays.
    params: Any
    opt_state: Any
    recent: Replay
    best: Replay  # As demonstrations: their own actions and returns are the targets.


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Trains an agent. Hashable: its functions are compiled once for shapes that stay.

    Attributes:
        agent: the model and its networks.
        config: sizes and rates.
        mesh: over whose devices episodes are spread; None for one device.
    """

    agent: Agent
    config: TrainConfig
    mesh: Mesh | None = None

    def init(
        self,
        instances: Any,
        seed: int,
        demonstrations: Sequence[tuple[int, np.ndarray]] = (),
        params: Any = None,
    ) -> TrainState:
        """Returns the state before the first iteration.

        Args:
            instances: leading axis I.
            seed: root of all randomness.
            demonstrations: as in `Task`.
            params: to begin with; None for new ones.

        Raises:
            ValueError: if a demonstration breaks the rules.
        """
        state = self._start(instances, jax.random.key_data(jax.random.key(seed)))
        if params is not None:
            state = state._replace(params=params)
        lanes = self.config.lanes
        for first in range(0, len(demonstrations), lanes):
            some = list(demonstrations[first : first + lanes])
            # A full batch, so that nothing is compiled anew; what is twice is kept once.
            some += some[:1] * (lanes - len(some))
            which = jnp.asarray([number for number, _ in some], jnp.int32)
            moves = jnp.asarray(np.stack([moves for _, moves in some]), jnp.int32)
            key = jax.random.wrap_key_data(state.key)
            seeds = jax.random.key_data(jax.random.split(key, lanes))
            episodes = selfplay.follow(
                self.agent.game, instances, Lanes(which, seeds, moves, jnp.zeros(lanes))
            )
            _require_legal(episodes)
            state = self._remember(state, episodes, size(instances))
        return state

    def parameters(self, instances: Any) -> Any:
        """Returns the shapes of the parameters; nothing is computed."""
        return jax.eval_shape(self._made, instances, jax.random.key(0))

    def new(self, instances: Any, seed: int) -> Any:
        """Returns parameters that know nothing."""
        return jax.jit(self._made)(instances, jax.random.key(seed))

    def _made(self, instances: Any, key: PRNGKeyArray) -> Any:
        # From the shapes of what is seen alone, so that no game is compiled for it.
        shape = jax.eval_shape(
            lambda x: self.agent.game.init(row(x, 0), key).observation, instances
        )
        seen = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        return self.agent.init(key, seen)

    def iterate(
        self, instances: Any, state: TrainState
    ) -> tuple[TrainState, dict[str, Array]]:
        """Plays a batch of episodes and learns from the replay; during the warm-up it only learns.

        Returns:
            The state after, and metrics as scalars on the device.
        """
        iteration = int(state.iteration)
        lanes, keys = self._prepared(instances, state)
        if iteration < self.config.warmup:
            params, opt_state, metrics = self._warmed(state, keys[1], size(instances))
            state = state._replace(
                iteration=state.iteration + 1, params=params, opt_state=opt_state
            )
        else:
            episodes = self._play(instances, state, lanes, keys[0])
            state, metrics = self._learnt(state, episodes, keys[1], size(instances))
            every = self.config.reanalyse_every
            if every and iteration % every == every - 1:
                slots, lanes = self._picked(state, keys[2])
                again = self._play(instances, state, lanes, keys[3])
                state = self._refreshed(state, slots, again)
        if self.mesh is not None:
            whole = NamedSharding(self.mesh, PartitionSpec())
            state, metrics = placed((state, metrics), whole)
        return state, metrics

    def explore(self, instances: Any, state: TrainState) -> TrainState:
        """Plays a batch of episodes with the search's noise, and keeps the best; nothing is learnt."""
        lanes, keys = self._prepared(instances, state)
        careful = lanes._replace(random=jnp.zeros_like(lanes.random))
        episodes = self._play(instances, state, careful, keys[0])
        state = self._remember(state, episodes, size(instances))
        return state._replace(iteration=state.iteration + 1)

    def evaluate(
        self, instances: Any, state: TrainState, numbers: Sequence[int]
    ) -> Float[np.ndarray, " E"]:
        """Returns the returns of episodes without noise on instances by number; any count of them."""
        found = [
            np.asarray(jnp.sum(episodes.reward, axis=1))
            for episodes in self._noiseless(instances, state, numbers)
        ]
        return np.concatenate(found)[: len(numbers)]

    def exploited(
        self, instances: Any, state: TrainState
    ) -> tuple[TrainState, Float[np.ndarray, " I"]]:
        """Plays each instance once without noise: the state that keeps the best, and the returns."""
        count, found = size(instances), []
        for episodes in self._noiseless(instances, state, range(count)):
            state = self._remember(state, episodes, count)
            found.append(np.asarray(jnp.sum(episodes.reward, axis=1)))
        return state, np.concatenate(found)[:count]

    def _noiseless(
        self, instances: Any, state: TrainState, numbers: Sequence[int]
    ) -> Iterator[Episode]:
        """Yields batches of episodes; the last is filled up with its first."""
        lanes, key = self.config.lanes, jax.random.wrap_key_data(state.key)
        for first in range(0, len(numbers), lanes):
            some = list(numbers[first : first + lanes])
            padded = jnp.asarray(some + some[:1] * (lanes - len(some)), jnp.int32)
            board = self._lanes(instances, padded, key)
            yield self._play(instances, state, board, key, 0.0)

    def unsearched(
        self, instances: Any, state: TrainState, *, noise: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Plays each instance once without search, as `selfplay.unsearched` does.

        Returns:
            Actions [I, T] and returns [I].
        """
        key = jax.random.wrap_key_data(state.key)
        lanes = self._lanes(instances, jnp.arange(size(instances)), key)
        found = selfplay.unsearched(
            self.agent.game, instances, lanes, key, jnp.float32(noise)
        )
        return np.asarray(found[0]), np.asarray(found[1])

    def best(self, state: TrainState, num_instances: int) -> Episode:
        """Returns each instance's best episode so far, leading axis I."""
        return replay.best(state.best, num_instances)

    def best_totals(
        self, state: TrainState, num_instances: int
    ) -> Float[np.ndarray, " I"]:
        """Returns what these earn; -inf where nothing was played or demonstrated."""
        return np.asarray(_best_totals(state.best, num_instances))

    @functools.partial(jax.jit, static_argnums=0)
    def _start(self, instances: Any, seed: UInt[Array, " K"]) -> TrainState:
        key = jax.random.wrap_key_data(seed)
        params = self._made(instances, jax.random.fold_in(key, 1))
        lanes = self._lanes(instances, jnp.zeros(1, jnp.int32), key)
        shapes = jax.eval_shape(
            functools.partial(selfplay.play, self.agent, config=self.config.search),
            params,
            instances,
            lanes,
            key,
            gumbel_scale=1.0,
        )
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return TrainState(
            iteration=jnp.int32(0),
            key=seed,
            params=params,
            opt_state=learner.optimizer(self.config.learn).init(params),
            recent=replay.empty(nothing, self.config.capacity),
            best=replay.empty(nothing, self.config.best_kept * size(instances)),
        )

    def _lanes(
        self, instances: Any, which: Int[Array, " B"], key: PRNGKeyArray
    ) -> Lanes:
        """Returns lanes in which nothing is given and nothing left to chance."""
        steps = self.agent.game.num_decisions(row(instances, 0))
        seeds = jax.random.key_data(jax.random.split(key, which.shape[0]))
        moves = jnp.full((which.shape[0], steps), -1, jnp.int32)
        return Lanes(which, seeds, moves, jnp.zeros(which.shape[0]))

    def _play(
        self,
        instances: Any,
        state: TrainState,
        lanes: Lanes,
        key: PRNGKeyArray,
        gumbel_scale: float = 1.0,
    ) -> Episode:
        if self.mesh is not None:
            scale = jnp.float32(gumbel_scale)
            search, given = self.config.search, (state.params, instances, lanes, key)
            return _play_apart(self.agent, search, self.mesh, *given, scale)
        return selfplay.play(
            self.agent,
            state.params,
            instances,
            lanes,
            key,
            config=self.config.search,
            gumbel_scale=jnp.float32(gumbel_scale),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def _prepared(self, instances: Any, state: TrainState) -> tuple[Lanes, Any]:
        """Returns the next lanes, the instances by turns, and the iteration's keys."""
        config, iteration = self.config, state.iteration
        key = jax.random.wrap_key_data(state.key)
        keys = jax.random.split(jax.random.fold_in(key, iteration), 5)
        lane = jnp.arange(config.lanes)
        count = jnp.int32(size(instances))
        if config.curriculum:
            # Those that have come into play.
            behind = iteration - config.warmup
            count = jnp.minimum(1 + behind * (count - 1) // config.curriculum, count)
        lanes = self._lanes(
            instances, (iteration * config.lanes + lane) % count, keys[4]
        )
        moves = jnp.geomspace(config.least_random, config.most_random, config.lanes)
        share = jnp.minimum(moves / lanes.moves.shape[1], 1.0)
        # Shifted by turns, so that no instance is always played boldly.
        return lanes._replace(random=share[(lane + iteration) % config.lanes]), keys

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def _warmed(
        self, state: TrainState, key: PRNGKeyArray, num_instances: int
    ) -> tuple[Any, Any, dict[str, Array]]:
        """Learns from the demonstrations alone: parameters, optimiser state, metrics.

        The rest of the state stays as it is, and isn't copied: replays are large.
        """
        config = dataclasses.replace(self.config.learn, best_share=1.0)
        recent, best = state.recent, state.best
        given = (state.params, state.opt_state, recent, best, key, config)
        params, opt_state, _, losses = learner.learn(self.agent, *given)
        metrics = {
            "best_mean": _best_mean(best, num_instances),
            **{f"loss_{k}": v for k, v in losses._asdict().items()},
        }
        return params, opt_state, metrics

    @functools.partial(jax.jit, static_argnums=(0, 4))
    def _learnt(
        self,
        state: TrainState,
        episodes: Episode,
        key: PRNGKeyArray,
        num_instances: int,
    ) -> tuple[TrainState, dict[str, Array]]:
        config = self.config.learn
        state = self._remembered(state, episodes, num_instances)
        priority = replay.surprise(episodes, config.bootstrap)
        recent = replay.add(state.recent, episodes, priority)
        params, opt_state, recent, losses = learner.learn(
            self.agent, state.params, state.opt_state, recent, state.best, key, config
        )
        total = jnp.sum(episodes.reward, axis=1)
        turns = jnp.maximum(jnp.sum(episodes.alive), 1)
        entropy = -jnp.sum(jax.scipy.special.xlogy(episodes.weights, episodes.weights))
        metrics = {
            "return_mean": jnp.mean(total),
            "return_max": jnp.max(total),
            "best_mean": _best_mean(state.best, num_instances),
            "turns": turns,
            "entropy": entropy / turns,
            "surprise": jnp.sum(priority) / turns,
            **{f"loss_{k}": v for k, v in losses._asdict().items()},
        }
        after = state._replace(
            iteration=state.iteration + 1,
            params=params,
            opt_state=opt_state,
            recent=recent,
        )
        return after, metrics

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def _remember(
        self, state: TrainState, episodes: Episode, num_instances: int
    ) -> TrainState:
        return self._remembered(state, episodes, num_instances)

    def _remembered(
        self, state: TrainState, episodes: Episode, num_instances: int
    ) -> TrainState:
        imitated = jax.vmap(
            functools.partial(targets.imitation, earning_only=self.config.earning_only)
        )(episodes)
        best = replay.keep_best(state.best, imitated, num_instances)
        return state._replace(best=best)

    @functools.partial(jax.jit, static_argnums=0)
    def _picked(
        self, state: TrainState, key: PRNGKeyArray
    ) -> tuple[Int[Array, " B"], Lanes]:
        """Returns slots of old episodes, and lanes in which their moves are given."""
        filled = state.recent.total > -jnp.inf  # As many as there are lanes, at least.
        chance = jnp.where(filled, jax.random.uniform(key, filled.shape), -1.0)
        slots = jax.lax.top_k(chance, self.config.lanes)[1]
        old = row(state.recent.episodes, slots)
        return slots, Lanes(old.which, old.seed, old.action, jnp.zeros(slots.shape))

    @functools.partial(jax.jit, static_argnums=0)
    def _refreshed(
        self, state: TrainState, slots: Int[Array, " B"], again: Episode
    ) -> TrainState:
        """Puts what the search now thinks of old episodes in place of what it thought."""
        recent = state.recent
        episodes = recent.episodes._replace(
            weights=recent.episodes.weights.at[slots].set(again.weights),
            value=recent.episodes.value.at[slots].set(again.value),
        )
        surprise = replay.surprise(again, self.config.learn.bootstrap)
        priority = recent.priority.at[slots].set(surprise)
        recent = recent._replace(episodes=episodes, priority=priority)
        return state._replace(recent=recent)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _play_apart(
    agent: Agent,
    search: SearchConfig,
    mesh: Mesh,
    params: Any,
    instances: Any,
    lanes: Lanes,
    key: PRNGKeyArray,
    gumbel_scale: Float[Array, ""],
) -> Episode:
    """Has every device of a mesh play its share of the lanes."""

    def share(
        params: Any, instances: Any, lanes: Lanes, key: PRNGKeyArray, scale: Array
    ) -> Episode:
        return selfplay.play(
            agent,
            params,
            instances,
            lanes,
            key,
            config=search,
            gumbel_scale=scale,
            first=jax.lax.axis_index(AXIS) * lanes.which.shape[0],
        )

    whole, cut = PartitionSpec(), PartitionSpec(AXIS)
    apart = jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(whole, whole, cut, whole, whole),
        out_specs=cut,
        check_vma=False,  # Loops inside start from constants, which are of no device.
    )
    episodes: Episode = apart(params, instances, lanes, key, gumbel_scale)
    return episodes


def size(instances: Any) -> int:
    """Returns I."""
    return int(jax.tree.leaves(instances)[0].shape[0])


def _best_totals(best: Replay, num_instances: int) -> Float[Array, " I"]:
    return jnp.max(best.total.reshape(num_instances, -1), axis=1)


def _best_mean(best: Replay, num_instances: int) -> Float[Array, ""]:
    """Returns the mean over the instances of which anything is known."""
    totals = _best_totals(best, num_instances)
    return jnp.mean(totals, where=totals > -jnp.inf)


def _require_legal(episodes: Episode) -> None:
    legal, action = np.asarray(episodes.legal), np.asarray(episodes.action)
    taken = np.take_along_axis(legal, action[..., None], axis=2)[..., 0]
    wrong = np.argwhere(np.asarray(episodes.alive) & ~taken)
    if len(wrong):
        lane, turn = map(int, wrong[0])
        raise ValueError(
            f"a demonstration on instance {int(episodes.which[lane])} plays action "
            f"{action[lane, turn]} in turn {turn}, where it is not legal"
        )
