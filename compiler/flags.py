"""What flags mean that the commands of several domains have.

Importing it stays fast, since `--help` waits for it.
"""

from importlib.util import find_spec
from typing import Literal

from solvers.command import Exit, Failure

When = Literal["auto", "always", "never"]
"""Type of a flag that says whether to do a thing; `auto` where it can be done."""


def compiles(verify: When) -> bool:
    """Returns whether to compile for a slice of TPUs, by `--verify`: by default if libtpu is installed.

    Raises:
        Failure: status 2, it is asked for and libtpu is not there.
    """
    if verify == "never":
        return False
    there = find_spec("libtpu") is not None
    if not there and verify == "always":
        raise Failure(
            "no_libtpu",
            "libtpu is not installed: pip install 'schedule-zero[tpu]'",
            Exit.USAGE,
        )
    return there


def mesh_axes(mesh: str) -> tuple[tuple[str, int], ...]:
    """Returns names and sizes of a mesh's axes, by `--mesh x=2,y=4`.

    Raises:
        ValueError: it has another form.
    """
    pairs = [part.partition("=") for part in mesh.split(",")]
    if not all(size.isdigit() for _, _, size in pairs):
        raise ValueError("write x=2,y=4")
    return tuple((name, int(size)) for name, _, size in pairs)
