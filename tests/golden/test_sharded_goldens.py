"""The committed modules of several chips are complete, small, and say nothing about the machine that made them."""

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
MACHINE = (str(HERE.parents[1]).encode(), b"/home/", b"/tmp/", b"site-packages")


def _maker() -> Any:
    found = importlib.util.spec_from_file_location(
        "make_sharded", HERE / "make_sharded.py"
    )
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


NAMES = _maker().NAMES


def test_the_list_is_what_is_there_and_small() -> None:
    folders = [path for path in (HERE / "sharded").iterdir() if path.is_dir()]
    assert {folder.name for folder in folders} == set(NAMES)
    assert sum(file.stat().st_size for f in folders for file in f.iterdir()) < 100_000


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_complete(name: str) -> None:
    folder = HERE / "sharded" / name
    assert {file.name for file in folder.iterdir()} == {
        "compiled.hlo.pb.gz",
        "options.json",
    }
    options = json.loads((folder / "options.json").read_text())
    assert {"jax", "jaxlib", "libtpu"} == set(options["versions"])
    assert len(options["coordinates"]) == 8
    data = gzip.decompress((folder / "compiled.hlo.pb.gz").read_bytes())
    assert not any(path in data for path in MACHINE)
