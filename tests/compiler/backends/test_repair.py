"""Giving up what the compiler refuses, with a compiler that refuses by a list."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compiler.backends import CompilerError, Source, apply, honour
from compiler.backends import overrides as ov

SOURCE = Source("hlo", b"")
GOOD = ov.Override(ov.PositionAt("a"), ov.Keep())
BAD = ov.Override(ov.UseAt("f", 1, (), 64), ov.Prefetch(7))
PIN = ov.Override(ov.PositionAt("v"), ov.Pin())


@pytest.fixture(autouse=True)
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        honour, "read_placement", lambda compiled: honour.Placement([], [])
    )


def _refuses(source: Source, topology: str, options: dict[str, str], **_: Any) -> Any:
    text = options.get(ov.OPTION, "")
    if "f" in {o.where.instruction for o in ov.from_text(text)}:
        raise CompilerError(
            "failed",
            "FAILED_PRECONDITION: MSA strict override failed for instruction 'f' operand 1, shape bf16[8], defining "
            "instruction 'v': Out of alternate memory (requested schedule time: 7)",
        )
    return SimpleNamespace(folder=Path(), options=options)


def test_what_is_refused_is_given_up_and_told() -> None:
    applied = apply(SOURCE, "v5e:1x1", [GOOD, BAD, PIN], compile_fn=_refuses)
    assert applied.overrides == [GOOD]
    assert applied.refused == [
        (BAD, "Out of alternate memory"),
        (PIN, "Out of alternate memory"),
    ]
    assert ov.from_text(applied.options[ov.OPTION]) == [GOOD]
    assert applied.options[ov.OUTSTANDING_OPTION] == "1000"


def test_too_many_refusals_are_an_error() -> None:
    with pytest.raises(CompilerError, match="Out of alternate memory"):
        apply(SOURCE, "v5e:1x1", [BAD], compile_fn=_refuses, max_repairs=0)


def test_another_failure_is_passed_on() -> None:
    def dies(*_: Any, **__: Any) -> Any:
        raise CompilerError("aborted", "the compiler's process died (SIGABRT)")

    with pytest.raises(CompilerError, match="SIGABRT"):
        apply(SOURCE, "v5e:1x1", [GOOD], compile_fn=dies)


def test_what_is_related_is_given_up_with_it_in_the_same_compile() -> None:
    other = ov.Override(ov.UseAt("g", 1, (), 64), ov.Prefetch(9))
    applied = apply(
        SOURCE,
        "v5e:1x1",
        [GOOD, BAD, other],
        related=lambda said, o: o == other and said.use[:2] == ("f", 1),
        compile_fn=_refuses,
    )
    assert applied.overrides == [GOOD]
    assert [o for o, _ in applied.refused] == [BAD, other]
    assert applied.compiles == 2
