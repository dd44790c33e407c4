"""`compiler.moe.search` without a compiler, and the loop around one that is played."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from compiler.backends import CompilerError
from compiler.moe import explore, game
from compiler.moe import plan as plans
from compiler.moe.configurations import Configuration
from compiler.moe.machine import Setting
from solvers.command.units import Budget, Meter

SMALL = Configuration(
    samples=1,
    length=1024,
    width=512,
    hidden=1024,
    experts=8,
    active=1,
    capacity=1.0,
    expert_span=1,
)
SETTING = Setting(mesh=(("x", 2), ("y", 4)), configuration=SMALL, layers=1)


def _run(out, *arguments):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "compiler.moe.search",
            "--verify",
            "never",
            "--out",
            str(out),
            *arguments,
        ],
        capture_output=True,
        text=True,
    )


def test_a_plan_is_found_written_and_reported(tmp_path):
    config = tmp_path / "layer.json"
    config.write_text(
        json.dumps(
            {"samples": 8, "length": 1024, "width": 2048, "hidden": 8192, "experts": 8}
            | {"active": 1, "capacity": 1.0}
        )
    )
    done = _run(
        tmp_path / "out",
        "--config",
        str(config),
        "--evaluations",
        "300",
        "--passes",
        "forward",
        "--layers",
        "1",
        "--layout",
        "x+y/",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["judge"] == "simulated" and result["verified"] is None
    assert result["best"] <= result["baselines"]["FSMoE's choice"]
    assert result["best"] < 0.8 * result["baselines"]["no plan"]
    plan = plans.read(tmp_path / "out" / "plan.json")
    assert plan.mesh == (("x", 2), ("y", 4)) and plan.forward.degree > 1
    # Of one pass only, the other stays as it is.
    assert plan.backward.degree == 1
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--config", "gpt5"], 2, "config gpt5: not known"),
        (["--config", "none.json"], 3, "none.json: No such file"),
        (["--config", "mixtral-8x7b", "--strategy", "luck"], 2, "luck: not known"),
        (["--config", "mixtral-8x7b", "--topology", "v5e"], 2, "GENERATION:2x4"),
        (["--config", "mixtral-8x7b", "--topology", "v9:2x4"], 2, "v9: not known"),
        (["--config", "mixtral-8x7b", "--mesh", "x=3,y=3"], 2, "has 9 devices"),
        (["--config", "mixtral-8x7b", "--layout", "z/x"], 2, "EXPERT_AXES/SHARD_AXES"),
        (["--config", "mixtral-8x7b", "--memory", "1MiB"], 5, "the least is"),
        (["--config", "qwen1.5-moe", "--mesh", "x=8", "--layout", "x/"], 4, "60"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, arguments, status, says):
    done = _run(tmp_path / "out", "--evaluations", "20", *arguments)
    assert done.returncode == status, done.stderr
    assert says in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


class _Played:
    """A judge whose cycles are known: it likes 4 equal chunks, does not care who is ahead, and refuses rings."""

    setting, passes = SETTING, "forward"

    def __init__(self):
        self.asked = []

    def __call__(self, plan):
        self.asked.append(plan)
        if plan.reduce == "ring":
            raise CompilerError("failed", "no rings")
        cost = 100.0 + abs(plan.forward.degree - 4)
        cost += 10 * (len(set(plan.forward.chunks)) > 1) + 5 * (
            plan.exchange != "all_to_all"
        )
        return SimpleNamespace(timeline=SimpleNamespace(total=cost))


def _start():
    return explore.simulate(
        SETTING, "forward", "random", Budget(simulations=40), 0, lambda _: None
    )


def test_the_loop_goes_to_what_the_compiler_likes_and_asks_nothing_twice():
    judge, meter = _Played(), Meter(Budget(measurements=30))
    seen = list(explore.measure(judge, _start(), meter, lambda _: None))
    assert 10 < len(seen) == len(judge.asked) == meter.measurements <= 30
    assert len({one.genes for one in seen}) == len(seen)
    # Once two plans were the same but for who is ahead, no more such pairs are compiled.
    ahead = [one for one in seen if one.judged]
    blind = [
        one.genes[: game.FORWARD + 2] + one.genes[game.FORWARD + 3 :] for one in ahead
    ]
    assert len(blind) - len(set(blind)) <= 1
    assert [one.name for one in seen[:2]] == [explore.DEFAULT, explore.CLOSED_FORM]
    assert min(one.cycles for one in seen) == 100.0
    assert all(math.isinf(one.cycles) for one in seen if one.failure)
    # The forward pass alone decides nothing about the backward pass.
    assert all(one.plan.backward.degree == 1 for one in seen)


def test_the_correction_is_a_ridge_regression_on_choices():
    sizes = game.space(SETTING).sizes
    rng = np.random.default_rng(0)
    genes = np.stack([rng.integers(0, size, 12) for size in sizes], axis=1)
    genes[:4, game.BACKWARD : game.BACKWARD + 2] = genes[
        :4, game.FORWARD : game.FORWARD + 2
    ]
    ratios = rng.uniform(0.5, 2, 7)

    def judged(row, ratio):
        timeline = SimpleNamespace(total=ratio * 100.0)
        return explore.Candidate(
            name="",
            genes=tuple(row.tolist()),
            plan=None,
            simulated=100.0,
            judged=SimpleNamespace(timeline=timeline),
        )

    done = [judged(row, ratio) for row, ratio in zip(genes, ratios)]
    refused = explore.Candidate(
        name="", genes=tuple(genes[7].tolist()), plan=None, simulated=100.0
    )
    got = explore.correction(sizes, [*done, refused])(genes)

    def features(row):
        hot = [gene == value for gene, k in zip(row, sizes) for value in range(k)]
        there = row[game.FORWARD : game.FORWARD + 2]
        back = row[game.BACKWARD : game.BACKWARD + 2]
        return [*hot, (there == back).all()]

    x = np.array([features(row) for row in genes], float)
    wrong = np.log(ratios) - np.log(ratios).mean()
    # What minimises |x w - wrong|^2 + |w|^2.
    weights = np.linalg.solve(x[:7].T @ x[:7] + np.eye(x.shape[1]), x[:7].T @ wrong)
    assert got == pytest.approx(np.exp(x @ weights))
    assert (explore.correction(sizes, [refused])(genes) == 1).all()


def test_what_is_near_differs_in_two_choices_at_most():
    judge, meter = _Played(), Meter(Budget(measurements=12))
    start = _start()
    seen = list(explore.measure(judge, start, meter, lambda _: None))
    for number, one in enumerate(seen):
        if one.name.startswith("near"):
            before = min(seen[:number], key=lambda other: other.cycles)
            changed = np.flatnonzero(np.array(one.genes) != np.array(before.genes))
            # Repair may follow with choices that no longer mean anything.
            assert 1 <= len(changed) <= game.NUM_GENES // 2


def test_a_missing_compiler_is_not_a_bad_plan():
    def judge(plan):
        raise CompilerError("not-installed", "libtpu is not installed")

    wrapped = SimpleNamespace(setting=SETTING, passes="forward")
    played = type("_Missing", (), {"__call__": lambda self, plan: judge(plan)})()
    played.setting, played.passes = wrapped.setting, wrapped.passes
    with pytest.raises(CompilerError, match="not installed"):
        list(
            explore.measure(
                played, _start(), Meter(Budget(measurements=3)), lambda _: None
            )
        )
