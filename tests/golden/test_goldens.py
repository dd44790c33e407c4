"""The committed dumps are complete, small, and say nothing about the machine that made them."""

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent
MACHINE = (str(GOLDEN.parents[1]).encode(), b"/home/", b"/tmp/", b"site-packages")
FOLDERS = sorted(path.parent for path in GOLDEN.glob("*/options.json"))


def _maker() -> Any:
    found = importlib.util.spec_from_file_location("make", GOLDEN / "make.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_list_is_what_is_there() -> None:
    assert {folder.name for folder in FOLDERS} == set(_maker().PROGRAMS)


def test_all_together_are_small() -> None:
    assert (
        sum(file.stat().st_size for folder in FOLDERS for file in folder.iterdir())
        < 4 << 20
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_complete(folder: Path) -> None:
    expected = {*_maker().FILES, "options.json"}
    assert {file.name for file in folder.iterdir()} == expected
    options = json.loads((folder / "options.json").read_text())
    assert {"jax", "jaxlib", "libtpu"} == set(options["versions"])
    assert options["settings"]["xla_msa_max_outstanding_prefetches"] == "40"
    for name in _maker().FILES:
        data = gzip.decompress((folder / name).read_bytes())
        assert data, name
        assert not any(path in data for path in MACHINE), name
