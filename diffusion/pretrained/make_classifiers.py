"""Trains the classifiers of `diffusion.features`, and writes them beside this file.

    python -m diffusion.pretrained.make_classifiers digits
    python -m diffusion.pretrained.make_classifiers fashion --folder DIR

The digits' one learns every other digit, and its accuracy is that on the others; the clothes' one
learns Fashion-MNIST's 60,000 training images, and is tested on its 10,000 test images. The same
versions on the same processor give the same numbers.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped,unused-ignore]
from jaxtyping import Array, Float, Int

from diffusion import datasets, features
from diffusion.features import Layer
from diffusion.weights import PRETRAINED
from solvers import weights

_CLASSES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        width: of the hidden layer.
        steps: of AdamW, whose rate falls to 0 along a cosine.
        batch: images per step.
        learning_rate: at first.
        weight_decay: of AdamW.
        blur: deviation of the noise that is added to the images.
        seed: of everything random.
    """

    width: int
    steps: int
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    blur: float = 0.3
    seed: int = 0


RECIPES = {
    "digits": Recipe(width=64, steps=3000),
    "fashion": Recipe(width=128, steps=8000, blur=0.1),
}


def train(
    recipe: Recipe, images: Float[Array, "N ..."], labels: Int[Array, " N"]
) -> tuple[Layer, Layer]:
    """Returns the layers that tell these classes."""
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps),
        weight_decay=recipe.weight_decay,
    )
    init, learn = jax.random.split(jax.random.key(recipe.seed))
    sizes = (images.shape[1], recipe.width, _CLASSES)
    layers = tuple(
        Layer(
            jax.random.normal(key, (inputs, outputs)) * jnp.sqrt(2 / inputs),
            jnp.zeros(outputs),
        )
        for key, inputs, outputs in zip(jax.random.split(init), sizes, sizes[1:])
    )

    def loss(layers: Any, shown: Array, classes: Array) -> Array:
        found = features.logits(layers, shown)
        return optax.softmax_cross_entropy_with_integer_labels(found, classes).mean()

    def step(state: Any, i: Array) -> tuple[Any, None]:
        layers, moments = state
        pick, noise = jax.random.split(jax.random.fold_in(learn, i))
        rows = jax.random.randint(pick, (recipe.batch,), 0, images.shape[0])
        shown = images[rows]
        shown = shown + recipe.blur * jax.random.normal(noise, shown.shape)
        slope = jax.grad(loss)(layers, shown, labels[rows])
        updates, moments = optimizer.update(slope, moments, layers)
        return (optax.apply_updates(layers, updates), moments), None

    run = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(recipe.steps))[0])
    first, last = run((layers, optimizer.init(layers)))[0]
    return first, last


def main() -> None:
    """Trains one classifier and writes its two files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", choices=features.NAMES)
    parser.add_argument("--folder", type=Path, help="of Fashion-MNIST's files")
    parser.add_argument("--out", type=Path, default=PRETRAINED)
    flags = parser.parse_args()
    if flags.data == "digits":
        learnt, held_out = features.digits_halves()
    elif flags.folder is None:
        parser.error("fashion needs --folder")
    else:
        learnt, held_out = (
            datasets.fashion_mnist(flags.folder, part) for part in ("train", "t10k")
        )
    recipe = RECIPES[flags.data]
    layers = train(recipe, *(jnp.asarray(part) for part in learnt))
    halved = [np.asarray(leaf, np.float16) for leaf in jax.tree.leaves(layers)]
    numbers = [jnp.asarray(leaf, jnp.float32) for leaf in halved]
    written = (Layer(*numbers[:2]), Layer(*numbers[2:]))
    classifier = features.Classifier(layers=written, about={})
    accuracy = classifier.accuracy(*(jnp.asarray(part) for part in held_out))
    about = {
        "data": flags.data,
        "accuracy": round(accuracy, 6),
        "held_out": len(held_out[1]),
        "learnt": len(learnt[1]),
        "training": dataclasses.asdict(recipe),
    }
    name, arrays = f"{flags.data}_classifier", dict(zip(features.ARRAYS, halved))
    path, _ = weights.write(flags.out, name, features.KIND, arrays, about)
    print(f"{path}: {accuracy:.4f} of {len(held_out[1])} held-out images")


if __name__ == "__main__":
    main()
