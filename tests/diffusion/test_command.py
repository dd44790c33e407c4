"""`python -m diffusion.search` from outside: what it writes, and one clear line on bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffusion import evaluate, tablefile
from tests.diffusion import user_models

ROOT = Path(__file__).parents[2]
USER = "tests.diffusion.user_models:"
SIZES = ("--noises", "32", "32", "64")


def _run(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diffusion.search", "--out", tmp_path, *arguments]
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_users_model_is_searched_and_the_file_is_the_sampler(tmp_path: Path) -> None:
    arguments = ["--model", f"{USER}gaussian", "--nfe", 2, *SIZES]
    arguments += ["--budget", "300evals", "--refine", 800, "--json"]
    done = _run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["best"] <= found["baselines"]["stock"]
    assert found["evaluations"]["simulator"] >= 240
    assert {"DDIM", "UniPC", "iPNDM"} <= found["reported"].keys()
    table, noise = tablefile.read(tmp_path / "schedule.json")
    problem = user_models.gaussian()
    assert noise == problem.noise and table.evaluations == 2
    sets = evaluate.sets(problem, seed=0, sizes=(32, 32, 64))
    assert sets.select.rmse(table) == pytest.approx(found["best"], rel=1e-3)
    assert sets.report.rmse(table) == pytest.approx(found["reported_best"], rel=1e-3)
    assert "<html" in (tmp_path / "report.html").read_text()
    kept = np.load(tmp_path / "schedules.npz")["choices"]
    again = _run(tmp_path, *arguments, "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["best"] <= found["best"] * (1 + 1e-6)
    assert len(np.load(tmp_path / "schedules.npz")["choices"]) == len(kept)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--model", "cats"], 2, "model cats: not known"),
        (["--model", "digits", "--nfe", "1"], 2, "--nfe must lie in 2..64"),
        (["--model", "digits", "--refine", "70"], 2, "multiple of 800"),
        (["--model", "digits", "--strategy", "best"], 2, "strategy best: not known"),
        (["--model", "fashion"], 2, "needs --data"),
        (["--model", "no.such:model"], 2, "No module named"),
        (["--model", f"{USER}absent"], 2, "absent"),
        (["--model", f"{USER}nothing"], 4, "returns NoneType"),
        (["--model", f"{USER}failing"], 4, "weights.safetensors: no such file"),
        (["--model", f"{USER}not_a_number"], 4, "not finite"),
        (["--model", f"{USER}wrong_shape"], 4, "can't be sampled from"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else None,
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    done = _run(tmp_path / "out", *arguments, *SIZES)
    assert done.returncode == status, done.stderr
    lines = done.stderr.strip().splitlines()
    assert says in lines[-1] and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "recipe"}, "its kind is not"),
        ({"schema_version": 9}, "schema version 9"),
        ({"table": {}}, "not a sampler"),
    ],
    ids=["kind", "version", "columns"],
)
def test_a_foreign_file_is_no_sampler(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tablefile.from_json(_document() | change)


def test_a_sampler_survives_its_file_bit_for_bit() -> None:
    document = json.loads(json.dumps(_document()))
    table, noise = tablefile.from_json(document)
    assert tablefile.to_json(table, noise) == document
    assert noise == user_models.gaussian().noise


def test_times_that_do_not_fall_are_refused() -> None:
    document = _document()
    document["table"]["time"].reverse()
    with pytest.raises(ValueError, match="do not fall"):
        tablefile.from_json(document)


def _document() -> dict:
    problem = user_models.gaussian()
    solver = evaluate.BASELINES["UniPC"][
        "order=2 variant=bh2 prediction=data lower_final=True"
    ]
    grid = evaluate.GRIDS["time_uniform"]
    table = evaluate.lowered(solver(problem.noise, grid, 4))
    return tablefile.to_json(table, problem.noise)


def test_pictures_are_drawn_of_what_is_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from diffusion import pictures

    assert pictures.image_shape((64,)) == (8, 8)
    assert pictures.image_shape((28, 28, 1)) == (28, 28, 1)
    assert pictures.image_shape((6,)) is None
