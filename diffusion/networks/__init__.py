"""Networks to train and to import: an MLP for vectors, a U-Net and a diffusion transformer for images.

    network = UNet(UNetConfig(shape=(28, 28, 1), classes=10), rngs=nnx.Rngs(0))
    output = network(x, t, labels)

All are NNX modules that are called alike: x [B, *shape], t [B] (any scale of noise level, of order 1),
and labels [B] of 0..classes - 1 where the network is of several classes; `classes` itself, or None
instead of the labels, asks for no class, as classifier-free guidance does. With `rngs` of a `dropout`
stream they drop out. The last layer begins at zero, so a new network returns zeros.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from flax import nnx

from diffusion.networks.dit import DiT, DiTConfig
from diffusion.networks.mlp import MLP, MLPConfig
from diffusion.networks.unet import UNet, UNetConfig

__all__ = [
    "MLP",
    "NETWORKS",
    "Config",
    "DiT",
    "DiTConfig",
    "MLPConfig",
    "UNet",
    "UNetConfig",
    "build",
    "from_json",
    "to_json",
]

Config: TypeAlias = MLPConfig | UNetConfig | DiTConfig
NETWORKS: Mapping[str, tuple[type[Config], type[nnx.Module]]] = {
    "mlp": (MLPConfig, MLP),
    "unet": (UNetConfig, UNet),
    "dit": (DiTConfig, DiT),
}


def build(config: Config, *, rngs: nnx.Rngs) -> nnx.Module:
    """Returns a new network of that configuration."""
    (module,) = (module for kind, module in NETWORKS.values() if kind is type(config))
    make: Callable[..., nnx.Module] = module

    # Compiled as a whole: one by one, the initialisers take many times as long.
    @nnx.jit
    def initialised(rngs: nnx.Rngs) -> nnx.Module:
        return make(config, rngs=rngs)

    network: nnx.Module = initialised(rngs)
    return network


def to_json(config: Config) -> dict[str, Any]:
    """Returns a JSON object that `from_json` reads back."""
    (name,) = (name for name, (kind, _) in NETWORKS.items() if kind is type(config))
    return {"network": name, **dataclasses.asdict(config)}


def from_json(document: Mapping[str, Any]) -> Config:
    """Returns the configuration that `to_json` wrote.

    Raises:
        ValueError: an unknown network, or options that it does not have.
    """
    fields = dict(document)
    name = fields.pop("network", None)
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; known: {', '.join(NETWORKS)}")
    kept = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    make: Callable[..., Config] = NETWORKS[name][0]
    try:
        return make(**kept)
    except TypeError as error:
        raise ValueError(f"network {name}: {error}") from None
