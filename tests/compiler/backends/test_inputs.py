"""What can be given to a compile, and what is refused before a compiler starts."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import backends
from compiler.backends.errors import REASONS, classify
from compiler.backends.wire import module_bytes

GOLDEN = Path(__file__).parents[2] / "golden" / "mlp"
BEFORE = GOLDEN / "before_optimizations.hlo.pb.gz"


def test_a_module_with_and_without_its_wrapper() -> None:
    wrapped = gzip.decompress(BEFORE.read_bytes())
    module = module_bytes(wrapped)
    assert module in wrapped
    assert module_bytes(module) == module
    assert module_bytes(gzip.compress(module)) == module


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\xff\xd8\xff\xe0", b"\x1f\x8b\x08", b"\x0a\x05ab", b"\x0a\x02ab"],
)
def test_refuses_other_bytes(data: bytes) -> None:
    with pytest.raises(backends.CompilerError) as caught:
        module_bytes(data)
    assert (caught.value.reason, caught.value.exit_status) == ("invalid-module", 4)


@settings(deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        module_bytes(data)
    except backends.CompilerError as error:
        assert error.reason == "invalid-module"


def test_from_dump_takes_a_file_or_its_folder(tmp_path: Path) -> None:
    source = backends.from_dump(BEFORE)
    assert source.kind == "hlo"
    assert backends.from_dump(GOLDEN) == source
    with pytest.raises(backends.CompilerError, match="0 files named"):
        backends.from_dump(tmp_path)


@pytest.mark.parametrize(
    "name", ["v5e", "v4i", "foo", "h100000", "", "v9z:1x1", "v5e:axb", "v5e:1x1;ls"]
)
def test_unknown_topology(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends.BACKENDS["tpu"], "version", lambda: "libtpu test")
    with pytest.raises(backends.CompilerError) as caught:
        backends.compile_source(
            backends.from_dump(BEFORE), name, cache=backends.Cache(tmp_path)
        )
    assert (caught.value.reason, caught.value.exit_status) == ("unknown-topology", 4)


def test_reasons_of_xla_messages() -> None:
    assert (
        classify("INVALID_ARGUMENT: No such compile option: 'nonsense'")
        == "rejected-option"
    )
    assert (
        classify("INVALID_ARGUMENT: Failed to parse 'x' into flag xla_a: ")
        == "rejected-option"
    )
    assert (
        classify('Topology layout "v5e:3x1" is not divisible by the given')
        == "unknown-topology"
    )
    assert classify("Your TPU topology name foo is invalid and") == "unknown-topology"
    assert classify("INTERNAL: LLO_CHECK failure") == "failed"
    assert {backends.CompilerError(r, "").exit_status for r in REASONS} == {1, 4}  # type: ignore[arg-type]
