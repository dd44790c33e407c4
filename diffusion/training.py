"""Trains a denoiser: the preconditioned target of Karras et al., 2022, an averaged network, one jitted step.

Pure functions over a `TrainState`. Every step's randomness follows from the seed and the step, so that
training which was stopped and goes on ends with the same numbers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped,unused-ignore]
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from diffusion import networks
from diffusion.trainconfig import TrainConfig
from diffusion.weights import apply_of


class TrainState(NamedTuple):
    """Between two steps."""

    iteration: Int[Array, ""]
    params: Any  # Averaged over the steps.
    current: Any
    opt_state: Any


class Images(NamedTuple):
    """What is learnt, with labels if the network has classes."""

    pixels: Float[Array, "N ..."]
    labels: Int[Array, " N"] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
    """Trains one network. Hashable: its functions are compiled once.

    Attributes:
        network: what is trained.
        config: how.
        sigma_data: standard deviation of the data.
        seed: root of all randomness.
    """

    network: networks.Config
    config: TrainConfig
    sigma_data: float
    seed: int

    def init(self) -> TrainState:
        """Returns the state before the first step."""
        params = nnx.split(networks.build(self.network, rngs=nnx.Rngs(self.seed)))[1]
        opt_state = self._optimizer().init(params)
        # Two copies: what is donated must be there once.
        current = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.int32(0), params, current, opt_state)

    def advance(
        self, state: TrainState, images: Images, count: int
    ) -> tuple[TrainState, Float[Array, ""]]:
        """Takes so many steps; returns the mean loss too. The state is donated.

        Steps are dispatched one by one, not scanned: on CPUs, XLA's gradients of convolutions are many
        times slower inside of loops.
        """
        total = jnp.float32(0)
        for _ in range(count):
            state, loss = _step(self, state, images)
            total = total + loss
        return state, total / count

    def loss(
        self, params: Any, images: Images, key: PRNGKeyArray, *, learning: bool = False
    ) -> Float[Array, ""]:
        """Returns the mean squared error of the preconditioned target, 1 for what knows nothing.

        Args:
            params: of the network.
            images: of one batch.
            key: of noise, withheld labels, mirrors and dropout; consumed.
            learning: mirror, withhold labels and drop out as the configuration says.
        """
        keys = jax.random.split(key, 5)
        data, labels = images
        batch = data.shape[0]
        column = (batch,) + (1,) * (data.ndim - 1)
        mean, deviation = self.config.log_sigma
        sigma = jnp.exp(mean + deviation * jax.random.normal(keys[0], (batch,)))
        if learning and self.config.mirror:
            turned = jax.random.bernoulli(keys[3], 0.5, column)
            data = jnp.where(turned, data[:, :, ::-1], data)
        if learning and labels is not None:
            withheld = jax.random.bernoulli(
                keys[2], self.config.without_label, (batch,)
            )
            labels = jnp.where(withheld, self.network.classes, labels)
        rngs = nnx.Rngs(dropout=keys[4]) if learning else None
        s = sigma.reshape(column)
        total = jnp.sqrt(s**2 + self.sigma_data**2)
        noisy = data + s * jax.random.normal(keys[1], data.shape)
        kept = self.sigma_data**2 / total**2
        target = (data - kept * noisy) * total / (s * self.sigma_data)
        apply = apply_of(self.network)
        found = apply(params, noisy / total, jnp.log(sigma) / 4, labels, rngs)
        return jnp.mean((found - target) ** 2)

    def _optimizer(self) -> Any:
        c = self.config
        rate = optax.warmup_cosine_decay_schedule(
            0.0 if c.warmup else c.learning_rate, c.learning_rate, c.warmup, c.steps
        )
        return optax.chain(optax.clip_by_global_norm(c.clip), optax.adam(rate))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    trainer: Trainer, state: TrainState, images: Images
) -> tuple[TrainState, Float[Array, ""]]:
    optimizer, config = trainer._optimizer(), trainer.config
    root = jax.random.key(trainer.seed)
    pick, key = jax.random.split(jax.random.fold_in(root, state.iteration))
    rows = jax.random.randint(pick, (config.batch,), 0, images.pixels.shape[0])
    shown = jax.tree.map(lambda leaf: leaf[rows], images)
    learn: Callable[..., Any] = jax.value_and_grad(trainer.loss)
    loss, slope = learn(state.current, shown, key, learning=True)
    updates, opt_state = optimizer.update(slope, state.opt_state, state.current)
    current = optax.apply_updates(state.current, updates)
    # At first the average is over what there is.
    done = state.iteration + 1
    decay = jnp.minimum(config.average, done / (done + 10.0))
    params = jax.tree.map(
        lambda mean, new: decay * mean + (1 - decay) * new, state.params, current
    )
    return TrainState(done, params, current, opt_state), loss
