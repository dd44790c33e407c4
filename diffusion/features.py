"""Features in which distributions of images are compared: the hidden layer of a small classifier.

    classifier = features.load("digits")
    metrics.frechet(classifier.features(samples), classifier.features(real))

The classifiers learnt the data that the models are of, and ship with their accuracy on images that
they have not seen; `pretrained/make_classifiers.py` trains them. Distances in different features do
not compare.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion import datasets
from diffusion.datasets import Images, Labels
from diffusion.weights import PRETRAINED
from solvers import weights

KIND = "diffusion.classifier"
NAMES = ("digits", "fashion")
ARRAYS = ("hidden.weight", "hidden.bias", "last.weight", "last.bias")  # In the file.


class Layer(NamedTuple):
    """An affine map."""

    weight: Float[Array, "I O"]
    bias: Float[Array, " O"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A perceptron with one hidden layer.

    Attributes:
        layers: the hidden one and the last.
        about: what its card says: data, training, accuracy.
    """

    layers: tuple[Layer, Layer]
    about: Mapping[str, Any]

    def features(self, images: Float[Array, "B ..."]) -> Float[Array, "B F"]:
        """Returns the hidden layer's values for images in -1..1 of any arrangement."""
        return hidden(self.layers, images)

    def accuracy(
        self, images: Float[Array, "B ..."], labels: Int[Array, " B"]
    ) -> float:
        """Returns the share of these images whose class it tells."""
        found = jnp.argmax(logits(self.layers, images), axis=1)
        return float(jnp.mean(found == labels))


def hidden(
    layers: tuple[Layer, Layer], images: Float[Array, "B ..."]
) -> Float[Array, "B F"]:
    """Returns the hidden layer's values, none negative."""
    flat = images.reshape(images.shape[0], -1)
    return jax.nn.relu(flat @ layers[0].weight + layers[0].bias)


def logits(
    layers: tuple[Layer, Layer], images: Float[Array, "B ..."]
) -> Float[Array, "B C"]:
    """Returns the logarithms of the classes' probabilities, up to a constant of each image."""
    return hidden(layers, images) @ layers[1].weight + layers[1].bias


def load(name: str) -> Classifier:
    """Returns a shipped classifier.

    Args:
        name: of the data, one of `NAMES`: digits of 64 pixels or Fashion-MNIST's 784.

    Raises:
        ValueError: there is none for these data.
        WeightsError: in one line, what is wrong with its files.
    """
    if name not in NAMES:
        raise ValueError(f"no classifier of {name!r}: there are {', '.join(NAMES)}")
    return read(PRETRAINED / f"{name}_classifier.json")


def read(card: Path) -> Classifier:
    """Returns the classifier of a card, NAME.json, beside NAME.safetensors.

    Raises:
        WeightsError: in one line, what is wrong with its files.
        OSError: one of them can't be read.
    """
    arrays, about = weights.read(card, KIND)
    try:
        numbers = [jnp.asarray(arrays[name], jnp.float32) for name in ARRAYS]
    except KeyError as error:
        raise weights.WeightsError(f"{card}: {error} is missing") from None
    return Classifier(layers=(Layer(*numbers[:2]), Layer(*numbers[2:])), about=about)


def digits_halves() -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """Returns the digits that the classifier has learnt and those held out: rows 0, 2, ... and 1, 3, ..."""
    images, labels = datasets.digits()
    return (images[::2], labels[::2]), (images[1::2], labels[1::2])
