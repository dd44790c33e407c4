"""Compiler-side packages: HLO programs, costs and the production compilers."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # JAX takes seconds to import.
    from compiler.backends import Compiled


def dump(
    fn: Callable[..., Any],
    *args: Any,
    topology: str = "v5e:1x1",
    out: Path | str,
    **kwargs: Any,
) -> "Compiled":
    """Compiles a function for named chips and writes what a search reads: `compiler.backends.dump`.

    Args:
        fn: a function, or what `jax.jit` made of one.
        *args: arrays or `jax.ShapeDtypeStruct`s.
        topology: the chips, such as `v5e:1x1`, `v6e:1x1`, `h100` or `cpu`.
        out: folder, made if needed.
        **kwargs: `compiler_options`, `gz`, `cache`, and what `jax.jit` takes.

    Raises:
        CompilerError: the compiler is missing, or failed.
    """
    from compiler.backends import dump

    return dump(fn, *args, topology=topology, out=out, **kwargs)
