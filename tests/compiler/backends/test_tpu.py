"""libtpu through the common interface: real compiles of small programs for chips that are not there."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from compiler import backends
from compiler.backends import honour
from compiler.backends import overrides as ov

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed ([tpu] extra)",
    ),
]
TOPOLOGY = "v5e:1x1"
GOLDEN = Path(__file__).parents[2] / "golden" / "mlp"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> backends.Cache:
    return backends.Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def source() -> backends.Source:
    return backends.from_dump(GOLDEN)


@pytest.fixture(scope="module")
def default(source: backends.Source, cache: backends.Cache) -> backends.Compiled:
    return backends.compile_source(source, TOPOLOGY, cache=cache)


def test_a_dump_recompiles(
    default: backends.Compiled, source: backends.Source, cache: backends.Cache
) -> None:
    assert sum(default.cycles.values()) > 10_000
    assert set(default.tables) == {"bufferinfo", "allocinfo", "scheduleinfo"}
    assert any(space == 1 for space in default.memory_spaces.values())
    assert all(copy.start_time < copy.done_time for copy in default.copies)
    assert [copy.cross_program_index for copy in default.copies].count(0) == 1
    assert default.settings()["xla_msa_max_retries"].isdigit()
    assert "S(1)" in default.text()
    assert backends.compile_source(source, TOPOLOGY, cache=cache).is_cached


def test_names_of_a_function_are_those_of_its_dump(
    cache: backends.Cache, tmp_path: Path
) -> None:
    def two_layers(w: jax.Array, v: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.tanh(x @ w) @ v).sum(0)

    matrix = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16)
    rows = jax.ShapeDtypeStruct((64, 1024), jnp.bfloat16)
    made = backends.dump(
        two_layers, matrix, matrix, rows, topology=TOPOLOGY, out=tmp_path, cache=cache
    )
    again = backends.compile_source(backends.from_dump(tmp_path), TOPOLOGY, cache=cache)
    assert again.schedule == made.schedule
    assert again.cycles == made.cycles


def test_a_mapping_re_emitted_is_the_same_mapping(
    default: backends.Compiled, source: backends.Source, cache: backends.Cache
) -> None:
    placement = honour.read_placement(default)
    decisions: list[ov.Override] = []
    for row in honour.tables.read_buffers(default.tables["bufferinfo"]):
        spans = placement.spans[row.name]
        place = honour.place_of(row.name)
        if not spans:
            decisions.append(ov.Override(place, ov.Keep()))
        elif spans[0].start <= row.definition_time:
            decisions.append(ov.Override(place, ov.Pin()))
        else:
            use, _, operand = row.use_names[0].partition(", operand ")
            where = ov.UseAt(use, int(operand), (), row.size)
            decisions.append(ov.Override(where, ov.Prefetch(spans[0].start - 1)))
    again = backends.compile_source(
        source, TOPOLOGY, ov.options(decisions), cache=cache
    )
    assert again.cycles == default.cycles
    assert honour.read_placement(again).spans == placement.spans
    assert all(outcome.is_honoured for outcome in honour.outcomes(decisions, again))


def test_everything_in_slow_memory_costs_more(
    default: backends.Compiled, source: backends.Source, cache: backends.Cache
) -> None:
    rows = honour.tables.read_buffers(default.tables["bufferinfo"])
    decisions = [ov.Override(honour.place_of(row.name), ov.Keep()) for row in rows]
    slow = backends.compile_source(
        source, TOPOLOGY, ov.options(decisions, cross_program_prefetches=0), cache=cache
    )
    assert sum(slow.cycles.values()) > sum(default.cycles.values())
    assert not slow.copies
    assert all(outcome.is_honoured for outcome in honour.outcomes(decisions, slow))


def test_a_strict_override_that_cannot_be_is_named(
    default: backends.Compiled, source: backends.Source, cache: backends.Cache
) -> None:
    row = next(
        row
        for row in honour.tables.read_buffers(default.tables["bufferinfo"])
        if honour.read_placement(default).spans[row.name] and row.use_names
    )
    use, _, operand = row.use_names[0].partition(", operand ")
    too_late = ov.Override(
        ov.UseAt(use, int(operand), (), row.size), ov.Prefetch(row.use_times[0])
    )
    with pytest.raises(backends.CompilerError) as caught:
        backends.compile_source(source, TOPOLOGY, ov.options([too_late]), cache=cache)
    named = ov.rejection(str(caught.value))
    assert named and named.use == ov.UseAt(use, int(operand))


@pytest.mark.parametrize(
    ("topology", "options", "reason"),
    [
        ("v5e:3x1", {}, "unknown-topology"),
        (TOPOLOGY, {"xla_nonsense": "1"}, "rejected-option"),
        (TOPOLOGY, {"xla_msa_max_retries": "many"}, "rejected-option"),
    ],
)
def test_what_is_refused(
    topology: str,
    options: dict[str, str],
    reason: str,
    source: backends.Source,
    cache: backends.Cache,
) -> None:
    with pytest.raises(backends.CompilerError) as caught:
        backends.compile_source(source, topology, options, cache=cache)
    assert (caught.value.reason, caught.value.exit_status) == (reason, 4)
    assert "\n" not in str(caught.value)


def test_a_limit_of_no_time(source: backends.Source, tmp_path: Path) -> None:
    with pytest.raises(backends.CompilerError, match=r"within 0\.01 s") as caught:
        backends.compile_source(
            source, TOPOLOGY, cache=backends.Cache(tmp_path), timeout=0.01
        )
    assert caught.value.reason == "timeout"
