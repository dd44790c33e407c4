"""Damaged dumps on their whole way into the game: played, or refused in one line."""

import gzip
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from compiler.hlo import InputError
from compiler.hlo.load import parse
from compiler.targets import TARGETS
from mallocgame import inputs, instance, mapping, priority, relaxation, validate
from solvers.command import Failure
from tests.compiler.hlo.test_fuzz import _changes, _damage, _edits, _source

GOLDEN = Path(__file__).parents[1] / "golden"
SOURCES = ("mlp", "lstm_scan", "deblur_while")

_fuzz = settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def sources() -> list[bytes]:
    return [
        gzip.decompress((GOLDEN / name / "scheduled.hlo.pb.gz").read_bytes())
        for name in SOURCES
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "damaged.hlo.pb"


def _use(path: Path, data: bytes) -> None:
    """What the command does with a file up to the search; all of it or one clear line."""
    path.write_bytes(data)
    try:
        given = inputs.read(path)
    except (InputError, Failure) as error:
        assert error.exit_status in (3, 4)
        assert "\n" not in str(error)
        return
    target = TARGETS["tpu-v5e"]
    crossing = priority.cross_program_candidates(given.program, target.capacity)
    costs = inputs.cost_model(given, target)
    problem = instance.build(given.program, costs, cross_program=crossing)
    priority.buffer_order(problem, priority.msa_ranks(problem))
    assert not validate.check(problem, mapping.all_slow(problem))
    slow = float(problem.instance.all_slow_seconds)
    assert math.isfinite(slow)
    assert -1e-12 <= relaxation.lower_bound(problem) <= slow * 1.001 + 1e-12


@_fuzz
@given(source=_source, edits=_edits)
def test_damaged_bytes(
    sources: list[bytes], path: Path, source: int, edits: list
) -> None:
    content = bytearray(sources[source])
    for kind, place, new in edits:
        place %= len(content) + 1
        if kind == "set":
            content[place : place + len(new)] = new
        elif kind == "insert":
            content[place:place] = new
        elif kind == "delete":
            del content[place : place + len(new)]
        else:
            del content[place:]
    _use(path, bytes(content))


@_fuzz
@given(source=_source, changes=_changes)
def test_damaged_messages(
    sources: list[bytes], path: Path, source: int, changes: list
) -> None:
    module = parse(sources[source])
    for change in changes:
        _damage(module, *change)
    _use(path, module.SerializeToString())


def test_what_fuzzing_once_found(sources: list[bytes], path: Path) -> None:
    for source in sources:
        numbers = range(len(parse(source).computations))
        for computation in numbers:
            # An array of more granules than 32 bits can count.
            module = parse(source)
            for node in module.computations[computation].instructions:
                if node.shape.dimensions:
                    node.shape.dimensions[0] = 2**40
            _use(path, module.SerializeToString())
            # A comparison of nothing, in a loop's condition.
            module = parse(source)
            for node in module.computations[computation].instructions:
                if node.opcode == "compare":
                    del node.operand_ids[:]
            _use(path, module.SerializeToString())
        _use(path, source)
