"""Trained denoisers as files: their numbers, and a card with the network's configuration and its training."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from diffusion import networks
from diffusion import noise as noises
from diffusion.noise import NoiseSchedule
from diffusion.prediction import Denoise, from_edm
from solvers.weights import WeightsError, read, read_object, write

_KIND = "diffusion.network"
PRETRAINED = Path(__file__).with_name("pretrained")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A network that was trained with the preconditioning of Karras et al., 2022.

    Attributes:
        config: of the network.
        sigma_data: standard deviation of the data.
        noise: the noise levels that it was trained for.
        params: the network's `nnx.State`.
        about: further entries of the card.
    """

    config: networks.Config
    sigma_data: float
    noise: NoiseSchedule
    params: nnx.State
    about: Mapping[str, Any]

    def denoise(self) -> Denoise:
        """Returns the model as samplers call it; `cond` are the labels, if it has classes."""
        return from_edm(apply_of(self.config), self.params, self.sigma_data)


def apply_of(config: networks.Config) -> Any:
    """Returns `apply(params, x, t, labels, rngs=None)` of a configuration."""
    graph, _ = nnx.split(_empty(config))

    def apply(
        params: nnx.State, x: Any, t: Any, labels: Any = None, rngs: Any = None
    ) -> Any:
        return nnx.merge(graph, params)(x, t, labels, rngs=rngs)

    return apply


def save(folder: Path, name: str, trained: Trained) -> tuple[Path, Path]:
    """Writes NAME.safetensors, in half precision, and NAME.json; returns their paths."""
    flat = {
        ".".join(map(str, path)): np.asarray(leaf[...], np.float16)
        for path, leaf in nnx.to_flat_state(trained.params)
    }
    about = {
        "network": networks.to_json(trained.config),
        "sigma_data": trained.sigma_data,
        "noise": trained.noise.to_json(),
        **trained.about,
    }
    return write(folder, name, _KIND, flat, about)


def load(card: Path) -> Trained:
    """Returns the network of a card.

    Args:
        card: NAME.json, beside NAME.safetensors.

    Raises:
        WeightsError: in one line, what is wrong with the files.
        OSError: one of them can't be read.
    """
    flat, about = read(card, _KIND)
    try:
        config = networks.from_json(about["network"])
        noise = noises.from_json(about["noise"])
        params = _filled(config, flat)
        sigma_data = float(about["sigma_data"])
    except (ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())
        raise WeightsError(f"{card}: {type(error).__name__}: {said}") from None
    known = {"network", "sigma_data", "noise"}
    return Trained(
        config=config,
        sigma_data=sigma_data,
        noise=noise,
        params=params,
        about={key: value for key, value in about.items() if key not in known},
    )


def config_of(path: Path) -> networks.Config:
    """Returns the configuration in a card, whose numbers are not read, or in a file of its own.

    Raises:
        WeightsError: there is none in it.
        OSError: it can't be read.
    """
    document = read_object(path)
    network = document.get("network")
    try:
        return networks.from_json(network if isinstance(network, dict) else document)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None


def _filled(config: networks.Config, flat: Mapping[str, Any]) -> nnx.State:
    """Returns the network's state with these numbers."""
    _, empty = nnx.split(_empty(config))
    leaves = []
    for path, leaf in nnx.to_flat_state(empty):
        name = ".".join(map(str, path))
        found = flat.get(name)
        if found is None or found.shape != leaf.shape:
            said = "missing" if found is None else f"of shape {found.shape}"
            raise ValueError(f"{name} is {said}, not of shape {leaf.shape}")
        leaves.append((path, leaf.replace(jax.numpy.asarray(found, leaf.dtype))))
    if len(leaves) != len(flat):
        raise ValueError(f"{len(flat) - len(leaves)} arrays too many")
    return nnx.from_flat_state(leaves)


def _empty(config: networks.Config) -> nnx.Module:
    """Returns the network's structure, without numbers."""
    return nnx.eval_shape(lambda: networks.build(config, rngs=nnx.Rngs(0)))
