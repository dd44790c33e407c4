"""What the flags that several commands share mean."""

import pytest

from compiler import flags
from compiler.backends import CompilerError
from compiler.backends.errors import REASONS
from solvers.command import Exit, Failure


@pytest.mark.parametrize("there", [True, False])
def test_it_compiles_where_the_compiler_is(monkeypatch, there):
    monkeypatch.setattr(flags, "find_spec", lambda name: object() if there else None)
    assert flags.compiles("auto") == there
    assert not flags.compiles("never")


def test_a_compiler_that_is_asked_for_must_be_there(monkeypatch):
    monkeypatch.setattr(flags, "find_spec", lambda name: object())
    assert flags.compiles("always")
    monkeypatch.setattr(flags, "find_spec", lambda name: None)
    with pytest.raises(Failure, match=r"libtpu is not installed: pip") as caught:
        flags.compiles("always")
    assert caught.value.exit_status == Exit.USAGE


def test_a_mesh_has_names_and_sizes():
    assert flags.mesh_axes("x=2,y=4") == (("x", 2), ("y", 4))
    assert flags.mesh_axes("ring=8") == (("ring", 8),)


@pytest.mark.parametrize("text", ["", "8", "x", "x=", "x=2,", "x=two", "x=-2,y=-4"])
def test_another_form_is_no_mesh(text):
    with pytest.raises(ValueError, match="write x=2,y=4"):
        flags.mesh_axes(text)


def test_failures_that_every_program_shares():
    shared = {r for r in REASONS if not CompilerError(r, "").is_the_programs}
    assert shared == {"not-installed", "unsupported-version", "unknown-topology"}
