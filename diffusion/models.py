"""The models that the search command knows by name, and a user's own."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from diffusion import problems, weights
from diffusion.networks import UNetConfig
from diffusion.noise import NoiseSchedule
from diffusion.prediction import Denoise
from diffusion.problems import Problem
from solvers.command import Exit, Failure, one_of

NAMES = ("digits", "digits-mlp", "fashion", "fashion-unet", "smooth")
_PRETRAINED = {"digits-mlp": "digits_mlp", "fashion-unet": "fashion_unet"}


def of_denoiser(
    name: str, denoise: Denoise, noise: NoiseSchedule, shape: tuple[int, ...]
) -> Problem:
    """Returns the problem of sampling from a user's model.

    Args:
        name: for reports.
        denoise: the model: `prediction.from_network(apply, params, "eps")`, say, for a callable
            `apply(params, x, t, cond)`, or `from_module` for a Flax module.
        noise: the schedule that it was trained on.
        shape: of one sample.
    """
    return Problem(
        name=name,
        noise=noise,
        denoise=denoise,
        shape=shape,
        data=jnp.zeros((0, *shape)),
    )


def load(name: str, data: Path | None = None) -> Problem:
    """Returns the problem that `--model` names.

    Args:
        name: one of `NAMES`; a network's card, FILE.json, that `diffusion.train` wrote; or
            MODULE:FUNCTION: the function takes nothing and returns a `Problem` (see `of_denoiser`).
        data: the folder of Fashion-MNIST's files, for "fashion".

    Raises:
        Failure: there is no such model, or it makes no problem.
    """
    if ":" in name:
        return _own(name)
    if name.endswith(".json"):
        return _of_card(name, Path(name))
    one_of("model", name, NAMES)
    if name in _PRETRAINED:
        return _of_card(name, weights.PRETRAINED / f"{_PRETRAINED[name]}.json")
    if name == "digits":
        return problems.digits_density()
    if name == "smooth":
        return problems.smooth_mixture()
    if data is None:
        raise Failure(
            "no_data",
            "--model fashion needs --data, the folder of its files",
            Exit.USAGE,
        )
    try:
        return problems.fashion_density(data)
    except OSError as error:
        raise Failure(
            "unreadable_data", f"{data}: {error.strerror or error}", Exit.NOT_FOUND
        ) from None


def _of_card(name: str, card: Path) -> Problem:
    try:
        trained = weights.load(card)
    except OSError as error:
        raise Failure(
            "unreadable_model",
            f"--model {name}: {error.filename}: {error.strerror}",
            Exit.NOT_FOUND,
        ) from None
    found = of_denoiser(name, trained.denoise(), trained.noise, trained.config.shape)
    return dataclasses.replace(found, unroll=isinstance(trained.config, UNetConfig))


def _own(name: str) -> Problem:
    module, _, attribute = name.partition(":")
    try:
        make: Callable[[], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise Failure("no_model", f"--model {name}: {error}", Exit.USAGE) from None
    try:
        found = make()
    except Exception as error:  # It is somebody else's code.
        said = " ".join(str(error).split())
        raise Failure(
            "model_failed",
            f"--model {name}: {type(error).__name__}: {said}",
            Exit.INVALID,
        ) from error
    if not isinstance(found, Problem):
        raise Failure(
            "not_a_model",
            f"--model {name} returns {type(found).__name__}, not a diffusion.problems.Problem "
            "(diffusion.models.of_denoiser makes one)",
            Exit.INVALID,
        )
    return found
