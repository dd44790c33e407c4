"""`python -m diffusion.train`: trains a denoiser, and goes on where it was stopped."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import arg

from diffusion.trainconfig import TrainConfig
from solvers.command import (
    Budget,
    BudgetFlag,
    Exit,
    Failure,
    Flags,
    Report,
    Session,
    keep_compiled,
    one_of,
    run,
)

if TYPE_CHECKING:  # JAX takes seconds to import; `--help` shall not.
    from diffusion import networks
    from diffusion.training import Images, Trainer, TrainState

_NAME = "diffusion.train"
_CHECKPOINTS = "checkpoints"
_CHUNK = 50  # Steps between two looks at the budget.
_HELD_OUT = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainFlags(Flags):
    """Trains a denoiser of images for noise levels of 0.02 to 20 times the images' scale of -1..1.

    A tenth of the digits and Fashion-MNIST's 10,000 test images are held out; the loss on them is
    what is reported, and the averaged network is what is written.
    """

    data: Annotated[str, arg(metavar="digits|fashion")] = "digits"
    """What to learn: the shipped digits of 8x8 pixels, or Fashion-MNIST."""
    folder: Annotated[Path | None, arg(metavar="DIR")] = None
    """For fashion: the folder of Fashion-MNIST's files."""
    network: Annotated[str, arg(metavar="mlp|unet|dit|FILE.json")] = "mlp"
    """What learns: a network with its usual sizes, or a file of its options."""
    conditional: bool = False
    """Learn the ten classes too."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; a multiple of 50."""
    budget: BudgetFlag = Budget(seconds=86400.0)
    """After so long training stops, with a checkpoint: 30m, 2h."""
    config: Annotated[TrainConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=TrainConfig
    )
    """How it is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint_every < 1 or self.checkpoint_every % _CHUNK:
            raise ValueError(f"--checkpoint-every must be a multiple of {_CHUNK}")


def train(flags: TrainFlags, session: Session) -> Report:
    """Runs the whole command; see docs/diffusion.md."""
    one_of("data", flags.data, ("digits", "fashion"))
    folder = session.out / _CHECKPOINTS
    if not flags.resume and folder.exists() and any(folder.iterdir()):
        raise Failure(
            "out_in_use",
            f"{session.out} holds a training run: --resume goes on with it, or choose "
            "another --out",
            Exit.USAGE,
        )
    keep_compiled(on_host=False)
    from diffusion import networks
    from diffusion.training import Trainer
    from solvers.checkpoints import Checkpoints

    shown, held_out, sigma_data = _images(flags)
    trainer = Trainer(
        network=_network(flags, shown),
        config=flags.config,
        sigma_data=sigma_data,
        seed=flags.seed,
    )
    about = {
        "data": flags.data,
        "network": networks.to_json(trainer.network),
        "config": dataclasses.asdict(flags.config),
    }
    session.begin(about)
    with Checkpoints(folder, _as_json(about)) as checkpoints:
        state = trainer.init()
        before = _loss(trainer, state.params, held_out)
        if checkpoints.newest is not None:
            state = checkpoints.restore(state)
            session.note(f"going on behind step {int(state.iteration)}")
        state = _steps(flags, session, trainer, state, shown, checkpoints)
    after = _loss(trainer, state.params, held_out)
    return _finish(flags, session, trainer, state, before, after)


def _images(flags: TrainFlags) -> "tuple[Images, Images, float]":
    """Returns what to learn from, what is held out, and the standard deviation.

    Raises:
        Failure: the data can't be read.
    """
    import jax.numpy as jnp
    import numpy as np

    from diffusion import datasets
    from diffusion.training import Images

    if flags.data == "digits":
        pixels, labels = datasets.digits()
        shape: tuple[int, ...] = (8, 8, 1)
        last = np.arange(len(pixels)) % 10 == 9
        parts = [(pixels[rows], labels[rows]) for rows in (~last, last)]
    else:
        if flags.folder is None:
            raise Failure(
                "no_data",
                "--data fashion needs --folder, the folder of its files",
                Exit.USAGE,
            )
        shape = (28, 28, 1)
        try:
            parts = [
                datasets.fashion_mnist(flags.folder, part) for part in ("train", "t10k")
            ]
        except OSError as error:
            raise Failure(
                "unreadable_data",
                f"{flags.folder}: {error.strerror or error}",
                Exit.NOT_FOUND,
            ) from None
    if flags.network == "mlp":
        shape = (math.prod(shape),)
    both = [
        Images(
            jnp.asarray(pixels.reshape(-1, *shape)),
            jnp.asarray(labels) if flags.conditional else None,
        )
        for pixels, labels in parts
    ]
    return both[0], both[1], float(both[0].pixels.std())


def _network(flags: TrainFlags, images: "Images") -> "networks.Config":
    """Returns the configuration that `--network` names, for these images.

    Raises:
        Failure: there is no such file, or it is no configuration for these images.
    """
    from diffusion import networks, weights

    classes = 10 if flags.conditional else 0
    shape = images.pixels.shape[1:]
    try:
        if flags.network in networks.NETWORKS:
            kind = networks.NETWORKS[flags.network][0]
            return kind(shape=shape, classes=classes)
        if not flags.network.endswith(".json"):
            one_of("network", flags.network, [*networks.NETWORKS, "FILE.json"])
        config = weights.config_of(Path(flags.network))
        return dataclasses.replace(config, shape=shape, classes=classes)
    except OSError as error:
        raise Failure(
            "unreadable_network",
            f"--network {flags.network}: {error.strerror or error}",
            Exit.NOT_FOUND,
        ) from None
    except ValueError as error:
        raise Failure(
            "unfit_network", f"--network {flags.network}: {error}", Exit.INVALID
        ) from None


def _steps(
    flags: TrainFlags,
    session: Session,
    trainer: "Trainer",
    state: "TrainState",
    images: "Images",
    checkpoints: Any,
) -> "TrainState":
    """Trains until the steps or the budget end, and leaves a checkpoint."""
    from solvers.metrics import Metrics

    meter, done = session.meter, int(state.iteration)
    path = session.out / "metrics.jsonl"
    with session.progress("training") as bar, Metrics(path, before=done + 1) as log:
        while done < trainer.config.steps and not meter.done():
            count = min(_CHUNK, trainer.config.steps - done)
            state, loss = trainer.advance(state, images, count)
            done += count
            if not math.isfinite(float(loss)):
                raise Failure(
                    "diverged",
                    f"the loss is not finite before step {done}: lower --learning-rate, or "
                    "go on from the last checkpoint with --resume",
                    Exit.CHECK_FAILED,
                )
            log.write(done, {"loss": float(loss), "seconds": round(meter.seconds, 2)})
            if done % flags.checkpoint_every == 0:
                checkpoints.save(state)
            bar.update(f"step {done} of {trainer.config.steps}, loss {float(loss):.4f}")
    checkpoints.save(state)
    return state


def _loss(trainer: "Trainer", params: Any, images: "Images") -> float:
    """Returns the loss on held-out images, under noise that is always the same."""
    import jax

    rows = jax.random.randint(
        jax.random.key(0), (_HELD_OUT,), 0, images.pixels.shape[0]
    )
    chosen = jax.tree.map(lambda leaf: leaf[rows], images)
    parts = [jax.tree.map(lambda leaf, k=k: leaf[k::8], chosen) for k in range(8)]
    loss = jax.jit(trainer.loss)
    keys = jax.random.split(jax.random.key(1), len(parts))
    return float(sum(loss(params, part, key) for part, key in zip(parts, keys)) / 8)


def _finish(
    flags: TrainFlags,
    session: Session,
    trainer: "Trainer",
    state: "TrainState",
    before: float,
    after: float,
) -> Report:
    """Writes the weights and returns the report."""
    from diffusion import weights
    from diffusion.noise import EDM

    steps = int(state.iteration)
    trained = weights.Trained(
        config=trainer.network,
        sigma_data=trainer.sigma_data,
        noise=EDM(sigma_max=20.0, sigma_min=0.02),
        params=state.params,
        about={
            "data": flags.data,
            "steps": steps,
            "seed": flags.seed,
            "training": dataclasses.asdict(trainer.config),
            "held_out_loss": after,
        },
    )
    numbers, card = weights.save(session.out, "weights", trained)
    session.table(
        "loss on held-out images",
        ("network", "loss"),
        [("untrained", f"{before:.4f}"), (f"after {steps} steps", f"{after:.4f}")],
    )
    return session.report(
        input=flags.data,
        unit="loss",
        baselines={"untrained": before},
        default="untrained",
        best=min(after, before),
        bound=None,
        artifacts={
            "weights": numbers,
            "card": card,
            "checkpoints": session.out / _CHECKPOINTS,
            "metrics": session.out / "metrics.jsonl",
        },
        extra={"steps": steps, "held_out_loss": after},
    )


def _as_json(document: Any) -> Any:
    import json

    return json.loads(json.dumps(document))


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(train, TrainFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
