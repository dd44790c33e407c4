"""The closed loop on the real TPU compiler, and its answer compiled once more by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libtpu")
pytestmark = [pytest.mark.tpu, pytest.mark.slow, pytest.mark.xdist_group("libtpu")]

GOLDEN = Path(__file__).parents[1] / "golden" / "mlp"
ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search")
    scheduled = str(GOLDEN / "scheduled.hlo.pb.gz")
    flags = ("--budget", "12compiles", "--verify", "always", "--out", str(out))
    done = run("mallocgame.search", scheduled, *flags, "--json")
    assert done.returncode == 0, done.stderr
    return out


def test_what_is_handed_over_is_what_the_compiler_judged(searched: Path) -> None:
    from compiler.backends import compile_source, from_dump
    from compiler.cost.judge import judge
    from compiler.hlo import build
    from compiler.targets import TARGETS
    from mallocgame import compiler_options

    result = json.loads((searched / "result.json").read_text())
    verified = result["verified"]
    assert verified["best"] <= verified["baseline"]
    assert verified["honoured"] >= 0.99
    assert result["evaluations"]["oracle"] >= 10
    options = compiler_options(searched / "mapping.json")
    compiled = compile_source(
        from_dump(GOLDEN / "before_optimizations.hlo.pb.gz"), "v5e:1x1", options
    )
    again = judge(build(compiled.module), TARGETS["tpu-v5e"])
    assert again.total == pytest.approx(verified["best"], rel=1e-6)


def test_mappings_were_compiled_and_followed(searched: Path) -> None:
    result = json.loads((searched / "result.json").read_text())
    mappings = [c for c in result["compiles"] if c["is_mapping"]]
    assert mappings
    assert max(c["honoured"] for c in mappings) >= 0.99


def test_check_confirms_the_mapping(searched: Path, tmp_path: Path) -> None:
    scheduled = str(GOLDEN / "scheduled.hlo.pb.gz")
    mapping = str(searched / "mapping.json")
    done = run("mallocgame.check", scheduled, mapping, "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads((searched / "result.json").read_text())
    checked = json.loads(done.stdout)
    assert checked["baselines"]["mapping"] == pytest.approx(
        result["verified"]["best"], rel=1e-6
    )


def test_check_refuses_a_mapping_of_another_program(
    searched: Path, tmp_path: Path
) -> None:
    document = json.loads((searched / "mapping.json").read_text())
    document["compiler_options"] = {
        "xla_tpu_msa_tensor_overrides": "overrides { hlo_position_matcher "
        '{ instruction_name_regex: "^no_such_fusion$" } keep_in_default_memory {} }'
    }
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    scheduled = str(GOLDEN / "scheduled.hlo.pb.gz")
    done = run("mallocgame.check", scheduled, str(other), "--out", str(tmp_path))
    assert done.returncode == 4
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and "another program" in lines[0], done.stderr


def test_an_option_that_the_compiler_rejects_is_one_line(tmp_path: Path) -> None:
    scheduled = str(GOLDEN / "scheduled.hlo.pb.gz")
    flags = ("--compiler-options", "xla_no_such_option=1", "--verify", "always")
    done = run("mallocgame.search", scheduled, *flags, "--out", str(tmp_path))
    assert done.returncode not in (0, 1)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and "xla_no_such_option" in lines[0], done.stderr
