"""Search by the learning agent: plans improved move by move, a trained network proposing the moves.

The network may have been trained on other programs and stay as it is (zero-shot), go on learning from this one
(fine-tuned), or begin with nothing (from-scratch). Games side by side start from the plans that every search starts
from; now and then the worse half of them goes on from the best. A move costs one call of the simulator and may be
several changes at once, drawn from the policy together; or it is searched by a tree, each of whose simulations is a
call, and what the tree finds on the way is kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mallocgame import climb, improve, teacher
from mallocgame.engine import Found, Settings, Step
from mallocgame.improve import Standing, Start
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from muzero import agentfile, selfplay
from muzero.agents import Agent, make_agent
from muzero.config import LearnConfig, SearchConfig, TrainConfig
from muzero.task import row
from muzero.training import Trainer

Mode = Literal["zero-shot", "fine-tuned", "from-scratch"]
MODES: tuple[Mode, ...] = get_args(Mode)
# The network that ships with the package; docs/muzero.md has the command that trained it.
SHIPPED = Path(__file__).parent / "agent.json"
_KIND: Literal["true-game"] = "true-game"
_GAME = {"agent": _KIND, "plays": teacher.PLAYS}
_RESTART_EVERY = 8  # Moves.
_ROUNDING = 1e-6
_MOST = 16  # Changes at once.
_SEARCH = SearchConfig(num_simulations=1, min_range=0.002, uniform_share=0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Player:
    """How the agent plays, with a network that stays as it is.

    Attributes:
        lanes: games side by side.
        search: of a move; with a single simulation there is no tree.
        gumbel_scale: of its noise, or of the draw's; 0 for what is likeliest.
        prior_share: without a tree, of the policy, as hill-climbing would draw: what the network writes off
            wrongly can still be found.
        further: without a tree, how likely one more change is in the same move, and again one more;
            the games take these by turns, the careful ones and the bold ones.
        backs_up: as in `ImprovementGame`.
    """

    lanes: int = 4
    search: SearchConfig = _SEARCH
    gumbel_scale: float = 1.0
    prior_share: float = 0.1
    further: tuple[float, ...] = (0.4, 0.6, 0.8, 0.9)
    backs_up: bool = True


def search(
    problem: Problem,
    start: dict[str, Found],
    settings: Settings,
    done: Callable[[], bool],
    player: Player | None = None,
) -> Iterator[Step]:
    """Yields a step after every move of all games, as `engine.search` does.

    Raises:
        WeightsError: the network's files are damaged, or of another agent.
        OSError: they can't be read.
    """
    player = player or Player(lanes=min(settings.lanes, Player.lanes))
    pool = sorted(start.values(), key=lambda found: found.seconds)
    if not player.backs_up:
        pool = [found for found in pool if int(found.state.num_backups) == 0]
    starts = [improve.start(problem, found.plan) for found in pool]
    task = teacher.make_task(
        [found.by for found in pool],
        starts,
        [found.seconds for found in pool],
        backs_up=player.backs_up,
    )
    model = make_agent(_KIND, task)
    params = None
    if settings.mode != "from-scratch":
        trainer = Trainer(agent=model, config=TrainConfig())
        params = load(
            settings.checkpoint or SHIPPED, trainer.parameters(task.instances)
        )
    key = jax.random.key(settings.seed)
    if settings.mode == "zero-shot":
        yield from _play(model, params, starts, pool[0], key, settings, player, done)
        return
    yield from _learn(model, params, task, starts, pool[0], settings, player, done)


def load(card: Path, like: object) -> Any:
    """Returns the parameters of a card that `muzero.train` wrote for the improvement game.

    Raises:
        WeightsError: the files are damaged, or of another agent.
        OSError: one of them can't be read.
    """
    return agentfile.load(card, like, _GAME)


def _play(
    model: Agent,
    params: Any,
    starts: list[Start],
    best: Found,
    key: PRNGKeyArray,
    settings: Settings,
    player: Player,
    done: Callable[[], bool],
) -> Iterator[Step]:
    """Plays on and on."""
    lanes = player.lanes
    plans = [starts[k % len(starts)].plan for k in range(lanes)]
    states = begin(model, starts[0], _stacked(plans))
    spent, turn = lanes, 0
    while not done():
        given = (model, params, starts[0], states, jax.random.fold_in(key, turn))
        scale = jnp.float32(player.gumbel_scale)
        if player.search.num_simulations > 1:
            states = move(*given, config=player.search, gumbel_scale=scale)
        else:
            states = leap(
                *given,
                prior_share=jnp.float32(player.prior_share),
                gumbel_scale=scale,
                further=jnp.resize(jnp.float32(player.further), (lanes,)),
            )
        turn += 1
        spent += lanes * player.search.num_simulations
        best = _better(best, states)
        rounds = jnp.int32(turn)
        yield Step(spent, best, climb.Lanes(states.plan, states.seconds, rounds))
        spent = 0
        if turn % _RESTART_EVERY == 0:
            states = gathered(states)


@functools.partial(jax.jit, static_argnums=0)
def begin(model: Agent, one: Start, plans: Plan) -> Standing:
    """Returns the first positions of games that begin with these plans, leading axis B. B calls."""
    key = jax.random.key(0)
    return jax.vmap(lambda plan: model.game.init(one._replace(plan=plan), key))(plans)


@functools.partial(jax.jit, static_argnums=0, static_argnames="config")
def move(
    model: Agent,
    params: Any,
    one: Start,
    states: Standing,
    key: PRNGKeyArray,
    *,
    config: SearchConfig,
    gumbel_scale: Array,
) -> Standing:
    """Makes a move in every game: goes on from the best position that its search came to.

    `config.num_simulations` calls a game. What the search tried from the position itself counts as
    tried, so that nothing is simulated twice.
    """
    count = states.seconds.shape[0]
    boards = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), one)
    _, tree = selfplay.search(
        model, params, boards, states, key, config=config, gumbel_scale=gumbel_scale
    )
    seconds = jnp.where(tree.node_visits > 0, tree.embeddings.seconds, jnp.inf)
    # Where nothing is faster, a move to what is as fast: it may lead on.
    node = 1 + jnp.argmin(seconds[:, 1:], axis=1)
    after: Standing = jax.vmap(row)(tree.embeddings, node)
    seen = tree.children_index[:, 0] >= 0
    tried = after.tried | seen.reshape(after.tried.shape)
    return jax.vmap(functools.partial(improve.renewed, one))(
        after._replace(tried=tried)
    )


@functools.partial(jax.jit, static_argnums=0)
def leap(
    model: Agent,
    params: Any,
    one: Start,
    states: Standing,
    key: PRNGKeyArray,
    *,
    prior_share: Float[Array, ""],
    gumbel_scale: Array,
    further: Float[Array, " B"],
) -> Standing:
    """Makes one or several changes at once in every game, drawn from the policy without repetition. A call a game."""
    leaf = jax.vmap(model.root, (None, None, 0))(params, one, states)
    mask = states.legal_action_mask
    known = jnp.where(mask, states.observation.prior.reshape(mask.shape), -jnp.inf)
    policy = (1 - prior_share) * jax.nn.softmax(leaf.prior_logits)
    logits = jnp.log(policy + prior_share * jax.nn.softmax(known.astype(policy.dtype)))
    keys = jax.random.split(key)
    noise = gumbel_scale * jax.random.gumbel(keys[0], logits.shape)
    _, actions = jax.lax.top_k(jnp.where(mask, logits + noise, -jnp.inf), _MOST)
    chance = jax.random.uniform(keys[1], (mask.shape[0], _MOST - 1))
    more = jnp.cumprod(chance < further[:, None], axis=1)
    # Of what can be done at all.
    count = jnp.minimum(1 + jnp.sum(more, axis=1), jnp.sum(mask, axis=1))
    game: Any = model.game
    after = jax.vmap(game.leap, (None, 0, 0, 0))(one, states, actions, count)
    return jax.vmap(functools.partial(improve.renewed, one))(after)


@jax.jit
def gathered(states: Standing) -> Standing:
    """Returns the games with the worse half of them at the best's position."""
    winner = row(states, jnp.argmin(states.seconds))
    worse = states.seconds > jnp.median(states.seconds)
    return jax.tree.map(
        lambda x, y: jnp.where(worse.reshape((-1,) + (1,) * (x.ndim - 1)), y, x),
        states,
        winner,
    )


def _learn(
    model: Agent,
    params: Any,
    task: Any,
    starts: list[Start],
    best: Found,
    settings: Settings,
    player: Player,
    done: Callable[[], bool],
) -> Iterator[Step]:
    """Plays episodes and learns from them, by turns."""
    lanes = player.lanes
    config = TrainConfig(
        lanes=lanes,
        capacity=4 * lanes,
        best_kept=2,
        earning_only=True,
        reanalyse_every=0,
        search=player.search,
        learn=LearnConfig(rows=16, updates=4, learning_rate=3e-4, best_share=0.5),
    )
    trainer = Trainer(agent=model, config=config)
    state = trainer.init(task.instances, settings.seed, params=params)
    firsts = begin(model, starts[0], _stacked([one.plan for one in starts]))
    first = np.repeat(np.asarray(firsts.seconds), config.best_kept)
    slow = float(starts[0].instance.all_slow_seconds)
    spent, turns = len(starts), len(starts[0].moves)
    while not done():
        state, _ = trainer.iterate(task.instances, state)
        spent += lanes * (1 + turns * (player.search.num_simulations + 1))
        kept = state.best
        ends = first - slow * np.maximum(np.asarray(kept.total), 0.0)
        index = int(ends.argmin())
        if ends[index] < best.seconds * (1 - _ROUNDING):
            # Its moves alone are kept: made again, for the plan that they lead to.
            one = row(task.instances, index // config.best_kept)
            last = _replayed(model, one, kept.episodes.action[index])
            spent += turns + 1
            best = _better(best, jax.tree.map(lambda x: x[None], last))
        plans = _stacked([best.plan])
        yield Step(
            spent, best, climb.Lanes(plans, jnp.asarray([best.seconds]), jnp.int32(0))
        )
        spent = 0


@functools.partial(jax.jit, static_argnums=0)
def _replayed(model: Agent, one: Start, actions: Array) -> Standing:
    game = improve.ImprovementGame(int(one.plan.rank.shape[0]))
    return improve.replayed(game, one, actions)


def _better(best: Found, states: Standing) -> Found:
    """Returns the best of the games, if it is faster than what was found before."""
    index = int(jnp.argmin(states.seconds))
    seconds = float(states.seconds[index])
    if seconds >= best.seconds:
        return best
    return Found(row(states.plan, index), row(states.mapping, index), seconds, "agent")


def _stacked(plans: list[Plan]) -> Plan:
    return jax.tree.map(lambda *columns: jnp.stack(columns), *plans)


__all__ = [
    "MODES",
    "SHIPPED",
    "Mode",
    "Player",
    "begin",
    "leap",
    "load",
    "move",
    "search",
]
