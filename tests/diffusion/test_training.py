"""Training a denoiser, its files, and `python -m diffusion.train`."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion import datasets, models, networks, weights
from diffusion.networks import MLPConfig
from diffusion.noise import EDM
from diffusion.prediction import Point
from diffusion.trainconfig import TrainConfig
from diffusion.training import Images, Trainer
from diffusion.weights import Trained
from solvers.weights import WeightsError

ROOT = Path(__file__).parents[2]
NETWORK = MLPConfig(shape=(4,), width=16, blocks=1, features=8)
TRAINER = Trainer(
    network=NETWORK,
    config=TrainConfig(steps=60, batch=32, average=0.9),
    sigma_data=0.5,
    seed=3,
)


def _images(count: int = 64) -> Images:
    return Images(0.5 * jax.random.normal(jax.random.key(8), (count, 4)), None)


def _trained(params: Any, network: networks.Config = NETWORK) -> Trained:
    return Trained(
        config=network,
        sigma_data=0.5,
        noise=EDM(sigma_max=20.0, sigma_min=0.02),
        params=params,
        about={"data": "normal"},
    )


def _awake() -> nnx.State:
    state = TRAINER.init().params
    return jax.tree.map(lambda x: x + 0.1, state)


def test_the_loss_is_karras_weighted_error_of_the_denoiser() -> None:
    params, images, key = _awake(), _images(), jax.random.key(5)
    loss = TRAINER.loss(params, images, key)
    # The same noise, through the denoiser that samplers call.
    level, noise = jax.random.split(key, 5)[:2]
    sigma = jnp.exp(-1.0 + 1.4 * jax.random.normal(level, (64,)))
    noisy = images.pixels + sigma[:, None] * jax.random.normal(noise, (64, 4))
    denoise, one = _trained(params).denoise(), jnp.float32(1)
    run = jax.jit(lambda x, s: denoise(x, Point(one, one, s), None)[0])
    found = [run(noisy[k : k + 1], sigma[k]) for k in range(64)]
    error = np.mean((np.stack(found) - images.pixels) ** 2, axis=1)
    weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    assert float(loss) == pytest.approx(float(np.mean(weight * error)), rel=1e-4)


def test_what_knows_nothing_has_a_loss_of_one() -> None:
    state = TRAINER.init()
    big = _images(20000)
    assert float(TRAINER.loss(state.params, big, jax.random.key(0))) == pytest.approx(
        1.0, abs=0.03
    )


def test_training_lowers_the_loss_and_averages() -> None:
    images, _ = datasets.digits()
    shown = Images(jnp.asarray(images), None)
    config = TrainConfig(steps=150, batch=64, average=0.95)
    trainer = Trainer(
        network=MLPConfig(shape=(64,), width=64),
        config=config,
        sigma_data=float(images.std()),
        seed=0,
    )
    key = jax.random.key(9)
    state = trainer.init()
    before = float(trainer.loss(state.params, shown, key))
    state, first = trainer.advance(state, shown, 75)
    state, last = trainer.advance(state, shown, 75)
    assert float(last) < float(first) < before
    after = float(trainer.loss(state.params, shown, key))
    assert after < 0.75 * before
    assert after < 1.02 * float(trainer.loss(state.current, shown, key))


def test_stopped_and_gone_on_is_as_if_never_stopped() -> None:
    images = _images()
    whole, _ = TRAINER.advance(TRAINER.init(), images, 6)
    parts, _ = TRAINER.advance(TRAINER.init(), images, 2)
    parts, _ = TRAINER.advance(parts, images, 4)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_withheld_labels_and_mirrors_are_for_learning_only() -> None:
    network = networks.UNetConfig(
        shape=(4, 4, 1),
        classes=2,
        channels=(4,),
        blocks=1,
        attention=(False,),
        features=4,
        embedding=4,
        dropout=0.3,
    )
    config = TrainConfig(steps=2, warmup=1, without_label=1.0, mirror=True)
    trainer = Trainer(network=network, config=config, sigma_data=0.5, seed=0)
    params = jax.tree.map(lambda x: x + 0.1, trainer.init().params)
    x = jax.random.normal(jax.random.key(1), (8, 4, 4, 1))
    both = [Images(x, jnp.full(8, k)) for k in (0, 1)]
    key = jax.random.key(2)
    loss = jax.jit(trainer.loss, static_argnames="learning")
    judged = [float(loss(params, images, key)) for images in both]
    assert judged[0] != judged[1]
    learnt = [float(loss(params, i, key, learning=True)) for i in both]
    assert learnt[0] == learnt[1] != judged[0]


def test_files_come_back_and_say_what_they_are(tmp_path: Path) -> None:
    params = _awake()
    _, card = weights.save(tmp_path, "net", _trained(params))
    found = weights.load(card)
    assert found.config == NETWORK and found.about == {"data": "normal"}
    assert found.noise == EDM(sigma_max=20.0, sigma_min=0.02)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), params, found.params
    )
    problem = models.load(str(card))
    assert problem.shape == (4,)
    x = problem.draw(jax.random.key(0), 3)
    assert np.isfinite(problem.solve(x, 10)).all()


def _break(folder: Path, how: str) -> str:
    """Damages NET's files; returns what is to be said about it."""
    card, numbers = folder / "net.json", folder / "net.safetensors"
    about = json.loads(card.read_text())
    match how:
        case "digest":
            raw = bytearray(numbers.read_bytes())
            raw[-1] ^= 1
            numbers.write_bytes(bytes(raw))
            return "has not the digest"
        case "not safetensors":
            numbers.write_bytes(b"\x80\x04K\x01.")  # A pickle.
            about["sha256"] = hashlib.sha256(numbers.read_bytes()).hexdigest()
            said = "Error"
        case "other network":
            about["network"]["width"] = 17
            said = "is of shape"
        case "no network":
            about["network"] = {"network": "gan"}
            said = "no network is called"
        case "version":
            about["schema_version"] = 9
            said = "schema version 9"
        case _:
            card.write_text("{")
            return "is not JSON"
    card.write_text(json.dumps(about))
    return said


@pytest.mark.parametrize(
    "how",
    ["digest", "not safetensors", "other network", "no network", "version", "cut"],
)
def test_damaged_files_are_one_line(tmp_path: Path, how: str) -> None:
    weights.save(tmp_path, "net", _trained(_awake()))
    said = _break(tmp_path, how)
    with pytest.raises(WeightsError, match=said) as caught:
        weights.load(tmp_path / "net.json")
    assert "\n" not in str(caught.value) and caught.value.exit_status == 4


def test_the_shipped_networks_are_what_their_cards_say() -> None:
    cards = sorted(weights.PRETRAINED.glob("*.json"))
    denoisers = [c for c in cards if "held_out_loss" in json.loads(c.read_text())]
    assert denoisers
    images, _ = datasets.digits()
    held_out = Images(jnp.asarray(images[9::10]), None)
    found = weights.load(weights.PRETRAINED / "digits_mlp.json")
    trainer = Trainer(
        network=found.config, config=TrainConfig(), sigma_data=found.sigma_data, seed=0
    )
    keys = jax.random.split(jax.random.key(0), 24)
    judge = jax.jit(trainer.loss)
    loss = np.mean([float(judge(found.params, held_out, k)) for k in keys])
    assert loss == pytest.approx(found.about["held_out_loss"], rel=0.05)
    for card in denoisers:
        assert weights.load(card).about["steps"] > 0


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "diffusion.train", *map(str, arguments)]


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments),
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def _flags(out: Path) -> list[object]:
    return ["--out", out, "--steps", 200, "--batch", 16, "--checkpoint-every", 50]


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = _run(*_flags(tmp_path / "whole"), "--json")
    assert whole.returncode == 0, whole.stderr
    found = json.loads(whole.stdout)
    assert found["best"] < found["baselines"]["untrained"] and found["steps"] == 200
    stopped = tmp_path / "stopped"
    child = subprocess.Popen(
        _command(*_flags(stopped)),
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (stopped / "checkpoints" / "50").exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    again = _run(*_flags(stopped), "--resume", "--json")
    assert again.returncode == 0, again.stderr
    assert "going on behind step" in again.stderr
    digest = [
        json.loads((tmp_path / name / "weights.json").read_text())["sha256"]
        for name in ("whole", "stopped")
    ]
    assert digest[0] == digest[1]
    steps = [
        json.loads(line)["iteration"]
        for line in (stopped / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [50, 100, 150, 200]
    refused = _run(*_flags(stopped))
    assert refused.returncode == 2 and "--resume goes on with it" in refused.stderr
    (newest,) = (stopped / "checkpoints").glob("200")
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(b"no checkpoint")
    damaged = _run(*_flags(stopped), "--resume")
    assert damaged.returncode == 4, damaged.stderr
    assert "can't be read" in damaged.stderr and "Traceback" not in damaged.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--data", "cats"], 2, "data cats: not known"),
        (["--data", "fashion"], 2, "--data fashion needs --folder"),
        (["--data", "fashion", "--folder", "nowhere"], 3, "nowhere: No such file"),
        (["--network", "gan"], 2, "network gan: not known"),
        (["--network", "nowhere.json"], 3, "nowhere.json: No such file"),
        (["--network", "unet"], 4, "no multiples of"),
        (["--checkpoint-every", 7], 2, "must be a multiple of 50"),
        (["--steps", 0], 2, "steps and batch must be positive"),
    ],
    ids=["data", "folder", "files", "network", "file", "unfit", "every", "steps"],
)
def test_bad_input_is_one_line(
    tmp_path: Path, arguments: list[object], status: int, says: str
) -> None:
    if arguments == [
        "--network",
        "unet",
    ]:  # Digits are 8 x 8: patches of 4, halved twice.
        path = tmp_path / "unet.json"
        config = dataclasses.asdict(networks.UNetConfig(shape=(16, 16, 1), patch=4))
        path.write_text(json.dumps({"network": "unet", **config}))
        arguments = ["--network", path]
    done = _run("--out", tmp_path / "out", *arguments)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
