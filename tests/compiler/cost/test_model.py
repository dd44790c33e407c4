"""Costs bent to observations: what was seen comes out as seen."""

from pathlib import Path

import numpy as np
import pytest

from compiler.backends import readback
from compiler.cost.instruction import instruction_costs
from compiler.cost.judge import placements
from compiler.cost.model import (
    Backend,
    CostModel,
    Observation,
    Placement,
    analytic,
    calibrated,
    fit,
)
from compiler.hlo import build, load
from compiler.targets import TARGETS

GOLDEN = Path(__file__).parents[2] / "golden"


def mlp() -> CostModel:
    program = build(load(GOLDEN / "mlp" / "scheduled.hlo.pb.gz"))
    return analytic(instruction_costs(program), TARGETS["tpu-v5e"])


def test_two_placements_come_out_as_observed() -> None:
    model = mlp()
    time = int(np.argmax(model.base))
    slots = model.savings[time]
    fast = Placement(frozenset(slots.operands), frozenset(slots.outputs))
    seen = [Observation(time, Placement(), 60e-6), Observation(time, fast, 30e-6)]
    bent = fit(model, seen)
    assert bent.elapsed(time, Placement()) == pytest.approx(60e-6, rel=0.02)
    assert bent.elapsed(time, fast) == pytest.approx(30e-6, rel=0.02)
    one = Placement(frozenset(list(slots.operands)[:1]))
    assert 30e-6 < bent.elapsed(time, one) <= 60e-6 * 1.02


def test_a_backend_without_overheads_is_the_count_of_bytes() -> None:
    model = mlp()
    plain = calibrated(model.counts, model.target, Backend(0, 1.0, 1.0))
    np.testing.assert_allclose(plain.all_slow, model.all_slow)
    time = int(np.argmax(model.base))
    slots = model.savings[time]
    fast = Placement(frozenset(slots.operands), frozenset(slots.outputs))
    assert plain.elapsed(time, fast) == pytest.approx(model.elapsed(time, fast))


def test_calibrated_costs_are_nearer_to_the_compiler_than_counts() -> None:
    for name in ("gpt2_decode_b8", "resnet18", "moe_block"):  # Not of the tuning half.
        program = build(load(GOLDEN / name / "compiled.hlo.pb.gz"))
        cycles, placed = readback.cycles(program.module), placements(program)
        target, counts = TARGETS["tpu-v5e"], instruction_costs(program)
        told = [i for i in program.instructions if i.name in cycles]
        seconds = sum(cycles[i.name] * i.trip_count for i in told) / target.clock_hz
        errors = []
        for model in (calibrated(counts, target), analytic(counts, target)):
            found = sum(
                model.elapsed(i.time, placed[i.time]) * i.trip_count for i in told
            )
            errors.append(abs(np.log(found / seconds)))
        assert errors[0] < errors[1]


def test_instructions_without_observations_stay_analytic() -> None:
    model = mlp()
    time = int(np.argmax(model.base))
    bent = fit(model, [Observation(time, Placement(), 60e-6)])
    others = np.arange(len(model.base)) != time
    np.testing.assert_array_equal(bent.base[others], model.base[others])
    assert bent.source == "compiler" and 0 < bent.covered <= 1


def test_what_does_not_react_to_placement_is_believed() -> None:
    model = mlp()
    time = int(np.argmax(model.base))
    slots = model.savings[time]
    fast = Placement(frozenset(slots.operands), frozenset(slots.outputs))
    bent = fit(model, [Observation(time, p, 50e-6) for p in (Placement(), fast)])
    assert bent.elapsed(time, fast) == pytest.approx(50e-6, rel=0.05)
