"""The documentation keeps its word: commands parse, cheap ones run, Python runs or compiles, links lead somewhere."""

import argparse
import importlib
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tyro
from tyro.conf import FlagCreatePairsOff

from tests.docs.markdown import (
    PAGES,
    ROOT,
    Block,
    Command,
    anchors,
    blocks,
    commands,
    links,
    name,
)

# Programs of the reader's own.
_YOURS = {"train.py", "program.py"}
_COMMANDS = [command for page in PAGES for command in commands(page)]
_BLOCKS = [b for page in PAGES for b in blocks(page) if b.language == "python"]
_ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
}
_PATIENCE = 540.0


def _of(kind: str) -> list[Any]:
    return [
        pytest.param(c, id=f"{name(c.page)}: {c.text[:90]}")
        for c in _COMMANDS
        if _kind(c) == kind
    ]


def _kind(command: Command) -> str:
    if command.words[0] == "make":
        return "make"
    if command.module == "pytest":
        return "pytest"
    if command.words[1] in _YOURS:
        return "yours"
    # The name of a command alone, in a sentence.
    return "ours" if len(command.words) > 2 + bool(command.module) else "mentioned"


class Parsed(BaseException):
    """Thrown where a command has read its flags; nothing may catch it on the way."""


class TestParse:
    """Every documented command, by the parser of the command itself."""

    @pytest.mark.parametrize("command", _of("ours"))
    def test_flags(self, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        args = list(command.words[3 if command.module else 2 :])
        _parse(command, args, monkeypatch)

    @pytest.mark.parametrize("command", _of("mentioned"))
    def test_name(self, command: Command) -> None:
        module = command.module or command.words[1].removesuffix(".py")
        assert importlib.util.find_spec(module.replace("/", ".")) is not None

    def test_a_wrong_flag_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for text in (
            "mallocgame.search x --bugdet 3s",
            "benchmarks.bench_speed --fast",
        ):
            words = ("python", "-m", *text.split())
            with pytest.raises((SystemExit, AssertionError)):
                _parse(Command(ROOT, text, words), list(words[3:]), monkeypatch)

    @pytest.mark.parametrize("command", _of("make"))
    def test_target(self, command: Command) -> None:
        done = subprocess.run(
            ["make", "-n", *command.words[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("command", _of("pytest"))
    def test_test(self, command: Command) -> None:
        file, *rest = command.words[3:]
        wanted = rest[rest.index("-k") + 1]
        tests = re.findall(r"def (test_\w+)", (ROOT / file).read_text())
        assert wanted == "NAME" or any(wanted in test for test in tests)

    def test_tests_named_by_their_end(self) -> None:
        """`-k NAME` alone, as the page of the overrides has it behind every fact."""
        page = ROOT / "docs" / "overrides.md"
        named = re.findall(r"`-k (\w+)`", page.read_text())
        files = ROOT.glob("tests/compiler/backends/test_tpu*.py")
        tests = " ".join(
            re.findall(r"def (test_\w+)", " ".join(f.read_text() for f in files))
        )
        assert [one for one in named if one not in tests] == ["NAME"]

    def test_extras(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        text = " ".join(page.read_text() for page in PAGES)
        named = re.findall(
            r"pip install (?:-e )?'(?:schedule-zero|\.)\[([\w,]+)\]'", text
        )
        asked = {extra for group in named for extra in group.split(",")}
        assert asked and asked <= project["optional-dependencies"].keys()


class Reduced(NamedTuple):
    """How a documented command becomes one that a test can afford.

    Attributes:
        flags: put behind the documented ones, which they override.
        slow: it takes more than ten seconds all the same.
    """

    flags: str
    slow: bool = False


# What the pages' placeholders stand for here. Other files are those of the project.
_STANDS_FOR = {
    "DIR": "tests/golden/mlp",
    "runs/step/dump": "tests/golden/mlp",
    "dump": "examples/gpu_offload/dump",
    "mymodule:make": "tests.diffusion.user_models:gaussian",
    "examples/gpt2_decode": "tests/golden/mlp",
    "examples": "tests/golden/moe_block",
    "tests/golden": "tests/golden/mlp",
    "layer.json": "{tmp}/layer.json",
    "buffers.csv": "{tmp}/buffers.csv",
    "asplos-2025-iopddl-B.json.gz": "{tmp}/instance.json",
}
_SEARCH = "--budget 8evals --strategy climb --verify never"
_SAMPLER = "--budget 12evals --refine 0 --noises 8 8 8 --model smooth --nfe 3"
_PLAN = "--verify never --evaluations 60"
# Commands as documented. What is not here takes minutes at its smallest, is tested elsewhere, or needs what a test has not got; it is parsed.
_RUN = {
    "python -m mallocgame.search DIR --out runs/mine --budget 5m": Reduced(_SEARCH),
    "python -m mallocgame.search examples/gpt2_decode --budget 30s --out runs/gpt2": Reduced(_SEARCH, slow=True),
    "python -m mallocgame.search runs/step/dump --out runs/step --budget 2m": Reduced(_SEARCH, slow=True),
    "python -m mallocgame.search dump --target gpu-h100 --fast-bytes 2GiB --out runs/offload": Reduced("--budget 50evals --strategy greedy", slow=True),
    "python -m diffusion.search --model digits-mlp --nfe 5": Reduced(_SAMPLER, slow=True),
    "python -m diffusion.search --model digits-mlp --nfe 5 --budget 60s --out runs/sampler": Reduced(_SAMPLER, slow=True),
    "python -m diffusion.search --model digits --nfe 5 --out runs/digits5": Reduced(_SAMPLER, slow=True),
    "python -m diffusion.search --model mymodule:make --nfe 8 --strategy predicted --budget 1000evals": Reduced("--budget 40evals --refine 0 --noises 8 8 8", slow=True),
    "python -m diffusion.train --data digits --out runs/digits": Reduced("--steps 50", slow=True),
    "python -m compiler.moe.search --config mixtral-8x7b --topology v5e:2x4 --memory 8GiB": Reduced(_PLAN, slow=True),
    "python -m compiler.moe.search --config mixtral-8x7b --memory 8GiB --budget 4compiles --out runs/plan": Reduced(_PLAN),
    "python -m compiler.moe.search --config mixtral-8x7b --topology v5e:2x4 --memory 8GiB --budget 12compiles --out runs/mixtral": Reduced(_PLAN, slow=True),
    "python -m compiler.moe.search --config layer.json --topology v5e:4x4 --layout x/y --passes forward --experts-only": Reduced(_PLAN, slow=True),
    "python -m solvers.packing buffers.csv --capacity 1MiB": Reduced("--method bestfit"),
    "python -m solvers.packing buffers.csv --capacity 1MiB --out runs/packing": Reduced("--budget 100evals", slow=True),
    "python -m compiler.sharding.pddl asplos-2025-iopddl-B.json.gz --budget 60s --out runs/B": Reduced("--budget 20evals", slow=True),
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, marks=[pytest.mark.slow] if reduced.slow else [])
        for text, reduced in _RUN.items()
    ],
)
def test_it_runs(text: str, tmp_path: Path) -> None:
    documented = {command.text: command for command in _COMMANDS}
    assert text in documented, "no page has this command any more"
    _fixtures(tmp_path)
    words = [
        _STANDS_FOR.get(word, word).format(tmp=tmp_path)
        for word in documented[text].words[1:]
    ]
    out = ("--out", str(tmp_path / "out"), "--quiet")
    done = _run(sys.executable, *words, *_RUN[text].flags.split(), *out)
    assert done.returncode == 0, done.stderr
    assert [*(tmp_path / "out").rglob("result.json")]


class TestPython:
    """Blocks of Python: those that a page marks with `<!-- run -->` run as they stand, the others compile."""

    @pytest.mark.parametrize(
        "block", [pytest.param(b, id=f"{name(b.page)}:{b.line}") for b in _BLOCKS]
    )
    def test_it_compiles(self, block: Block) -> None:
        compile(block.text, f"{name(block.page)}:{block.line}", "exec")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "block",
        [pytest.param(b, id=f"{name(b.page)}:{b.line}") for b in _BLOCKS if b.runs],
    )
    def test_it_runs(self, block: Block, tmp_path: Path) -> None:
        script = tmp_path / "block.py"
        script.write_text(block.text)
        done = _run(sys.executable, str(script))
        assert done.returncode == 0, done.stderr

    def test_some_run(self) -> None:
        assert sum(block.runs for block in _BLOCKS) >= 5


class TestLinks:
    """Links between the files of the project."""

    @pytest.mark.parametrize("page", PAGES, ids=name)
    def test_they_lead_somewhere(self, page: Path) -> None:
        assert [link for link in links(page) if not _leads(page, link)] == []

    def test_every_page_is_in_the_guide(self) -> None:
        guide = ROOT / "docs" / "README.md"
        linked = {
            (guide.parent / link.partition("#")[0]).resolve() for link in links(guide)
        }
        assert [
            name(page)
            for page in ROOT.glob("docs/*.md")
            if page not in {*linked, guide}
        ] == []


def _leads(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not anchor:
        return target.exists()
    return target.exists() and anchor in anchors(target)


def _parse(
    command: Command, args: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Has a command read its flags and do no more; a SystemExit says what is wrong with them."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *_: object) -> None:
        original(self, args)
        raise Parsed

    def run(_: object, flags_type: type[Any], **__: object) -> None:
        tyro.cli(flags_type, args=args, config=(FlagCreatePairsOff,))
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [command.words[-1], *args])
    with pytest.raises(Parsed):
        if not command.module:
            path = ROOT / command.words[1]
            monkeypatch.syspath_prepend(str(path.parent))
            runpy.run_path(str(path), run_name="__main__")
            return
        spec = importlib.util.find_spec(command.module)
        assert spec is not None, f"there is no module {command.module}"
        is_package = spec.submodule_search_locations is not None
        module = importlib.import_module(command.module + ".__main__" * is_package)
        if hasattr(module, "run"):
            monkeypatch.setattr(module, "run", run)
        module.main()


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=ROOT,
        env=_ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )


def _fixtures(folder: Path) -> None:
    """Writes the files that the pages take for granted: theirs, where they show them."""
    shown = next(
        b.text for b in blocks(ROOT / "docs" / "packing.md") if b.text.startswith("id,")
    )
    (folder / "buffers.csv").write_text(shown)
    layer = {"samples": 2, "length": 128, "width": 256, "hidden": 512, "experts": 16}
    (folder / "layer.json").write_text(json.dumps(layer))
    problem = {
        "name": "two nodes",
        "nodes": {
            "intervals": [[0, 5], [3, 9]],
            "costs": [[4, 7], [5, 2]],
            "usages": [[8, 3], [6, 6]],
        },
        "edges": {"nodes": [[0, 1]], "costs": [[1, 9, 2, 3]]},
        "usage_limit": 10,
    }
    (folder / "instance.json").write_text(json.dumps({"problem": problem}))
