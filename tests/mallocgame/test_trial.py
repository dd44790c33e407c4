"""`--measure`: what runs slower is not handed over, and what was run is said."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from compiler.backends import Source
from compiler.backends.measure import Measured, Timed
from compiler.targets import TARGETS
from mallocgame import search, trial

GOLDEN = Path(__file__).parents[1] / "golden"
OVERRIDES = "xla_tpu_msa_tensor_overrides"


def _timed(scale: float, **changes: Any) -> Timed:
    found = Timed(
        seconds=tuple(scale * (1 + 0.01 * k) for k in range(8)),
        left_out=(),
        difference=0.0,
        is_bitwise=True,
    )
    return dataclasses.replace(found, **changes)


def _device(*scales: float, **changes: Any) -> Any:
    """A device on which the ways take so long; it remembers what it was asked."""
    asked: list[Any] = []

    def measure(
        source: Source, ways: Sequence[Mapping[str, str]], *, repeats: int, seed: int
    ) -> Measured:
        asked.append((source, ways, repeats, seed))
        timed = [_timed(1.0)] + [_timed(s, **changes) for s in scales]
        return Measured(
            platform="tpu",
            device="TPU v5 lite",
            version="libtpu 9",
            ways=tuple(timed[: len(ways)]),
        )

    measure.asked = asked  # type: ignore[attr-defined]
    return measure


def _run(out: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> Any:
    argv = ["mallocgame.search", str(GOLDEN / "mlp"), "--strategy", "msa", "--json"]
    argv += ["--quiet", "--verify", "never", "--measure", "--out", str(out), *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        status = search.main()
    return status, json.loads(capsys.readouterr().out)


def test_what_runs_faster_is_handed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = _device(0.5)
    monkeypatch.setattr(trial, "measure", device)
    fixed = ("--compiler-options", "xla_tpu_x=1", "--repeats", "9", "--seed", "4")
    status, told = _run(tmp_path, capsys, *fixed)
    assert status == 0
    assert told["hand_over"] == "mapping"
    assert told["verified"]["speedup"] == pytest.approx(2.0)
    assert told["verified"]["honoured"] == 1.0
    assert told["verified"]["by"].startswith("TPU v5 lite, libtpu 9, median of 8")
    assert told["measured"]["winner"] == "msa" and not told["measured"]["is_stand_in"]
    assert told["evaluations"]["oracle"] == 2
    # The program with and without; what is fixed holds for both.
    ((source, ways, repeats, seed),) = device.asked
    assert (repeats, seed) == (9, 4) and source.kind == "hlo"
    assert ways[0] == {"xla_tpu_x": "1"}
    assert ways[1]["xla_tpu_x"] == "1"
    written = json.loads((tmp_path / "mapping.json").read_text())
    assert ways[1][OVERRIDES] == written["compiler_options"][OVERRIDES]


def test_what_runs_slower_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial, "measure", _device(1.5, difference=0.5))
    _, told = _run(tmp_path, capsys)
    assert told["hand_over"] == "default"
    assert told["best"] == told["baselines"]["xla"]
    assert told["verified"]["speedup"] == 1.0
    assert told["measured"]["winner"] is None
    assert json.loads((tmp_path / "mapping.json").read_text())["compiler_options"] == {}
    assert any("gives other results, by 0.5" in note for note in told["notes"])


def test_the_quickest_of_several_wins_and_a_draw_is_the_judges() -> None:
    rivals = {name: {OVERRIDES: name} for name in ("a", "b", "c", "d")}

    def winner(*scales: float) -> str | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trial, "measure", _device(*scales))
            patch.setattr(trial, "from_dump", lambda path: Source("hlo", b""))
            held = trial.hold(Path("x"), {}, rivals, repeats=8, seed=0)
        assert held.rivals == ("a", "b", "c")
        return held.winner

    assert winner(0.9, 0.8, 0.95) == "b"
    assert winner(1.0, 1.0, 1.0) == "a"
    assert winner(1.2, 1.0, 1.0) == "b"
    assert winner(1.2, 1.3, 1.4) is None


def test_a_stand_in_says_so() -> None:
    ways = (_timed(1.0), _timed(1.0, left_out=(OVERRIDES, "xla_b")))
    measured = Measured(platform="cpu", device="cpu", version="jaxlib 1", ways=ways)
    held = trial.Trial(measured=measured, rivals=("a",), options=(4,), winner="a")
    assert held.is_stand_in and held.to_json()["is_stand_in"]
    assert held.figures(1.0).honoured == 0.5
    assert held.figures(0.25).honoured == 0.25
    assert held.figures(1.0).by.endswith("(a stand-in)")
    said = held.notes(TARGETS["tpu-v5e"])[-1]
    assert (
        said
        == f"this machine's CPU stands in for tpu-v5e: it knows no xla_b, {OVERRIDES}"
    )


def test_dumps_that_cannot_be_measured_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = tmp_path / "scheduled.hlo.pb.gz"
    lone.write_bytes((GOLDEN / "mlp" / lone.name).read_bytes())
    gpu = Path(__file__).parents[2] / "examples" / "gpu_offload" / "dump"
    for given, said in ((lone, "before_optimizations"), (gpu, "no compile option")):
        argv = ["x", str(given), "--measure", "--json", "--out", str(tmp_path / "out")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", argv)
            assert search.main() == 2
        told = json.loads(capsys.readouterr().out)
        assert told["reason"] == "cannot_measure" and said in told["error"]


@pytest.mark.slow
def test_on_this_machine_it_really_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The CPU stands in for the TPU: the same steps, the program itself, real times."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    status, told = _run(tmp_path, capsys, "--repeats", "6")
    assert status == 0
    measured = told["measured"]
    assert measured["platform"] == "cpu" and measured["is_stand_in"]
    (rival,) = measured["rivals"]
    assert OVERRIDES in rival["left_out"]
    assert len(rival["seconds"]) == len(measured["default_seconds"]) == 6
    # The same program twice, in the end: the results are the same bit by bit.
    assert rival["is_bitwise"] and rival["difference"] == 0.0
    assert told["verified"]["honoured"] in (0.0, 1.0)
