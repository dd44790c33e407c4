"""Recompile a program with a mapping's decisions, giving up those that the compiler refuses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from compiler.backends import honour
from compiler.backends import overrides as ov
from compiler.backends.base import Compiled, Source
from compiler.backends.compile import compile_source
from compiler.backends.errors import CompilerError


class Applied(NamedTuple):
    """A program compiled with decisions.

    Attributes:
        compiled: the result.
        overrides: the decisions that the compiler accepted; the ones to hand over.
        options: the compile options that hold them.
        outcomes: what became of each of them.
        refused: decisions that had to be given up, with the compiler's reason.
        compiles: how many it took.
    """

    compiled: Compiled
    overrides: list[ov.Override]
    options: dict[str, str]
    outcomes: list[honour.Outcome]
    refused: list[tuple[ov.Override, str]]
    compiles: int = 1

    @property
    def honoured(self) -> float:
        """Share of all decisions asked for that the compiler accepted and kept to; 1 if there were none."""
        asked = len(self.outcomes) + len(self.refused)
        return (
            sum(outcome.is_honoured for outcome in self.outcomes) / asked
            if asked
            else 1.0
        )


def apply(
    source: Source,
    topology: str,
    overrides: Sequence[ov.Override],
    *,
    knobs: Mapping[str, Any] | None = None,
    order: Sequence[ov.SortOverride] = (),
    cross_program_prefetches: int | None = None,
    outstanding_prefetches: int | None = 1000,
    max_repairs: int = 16,
    related: Callable[[ov.Rejection, ov.Override], bool] = lambda *_: False,
    compile_fn: Callable[..., Compiled] = compile_source,
    **compile_arguments: Any,
) -> Applied:
    """Compiles with decisions; each time the compiler refuses one, gives that one up and tries again.

    Args:
        source: the program.
        topology: the chips.
        overrides: the decisions.
        knobs: further compile options.
        order: changes of the order of assignment.
        cross_program_prefetches: as for `overrides.options`.
        outstanding_prefetches: as for `overrides.options`.
        max_repairs: compiles that may fail before the last error is raised.
        related: tells which further decisions to give up together with a refused one.
        compile_fn: instead of `compile_source` (tests).
        **compile_arguments: for `compile_source`: `timeout`, `cache`.

    Raises:
        CompilerError: another failure, or too many refusals.
    """
    left = list(overrides)
    refused: list[tuple[ov.Override, str]] = []
    compiles = 0
    while True:
        compiles += 1
        options = {
            **(knobs or {}),
            **ov.options(left, order, cross_program_prefetches, outstanding_prefetches),
        }
        try:
            compiled = compile_fn(source, topology, options, **compile_arguments)
        except CompilerError as error:
            said = ov.rejection(str(error))
            dropped = [o for o in left if said and said.concerns(o)]
            if not said or not dropped or compiles > max_repairs:
                raise
            dropped += [o for o in left if o not in dropped and related(said, o)]
            refused += [(o, said.why) for o in dropped]
            left = [o for o in left if o not in dropped]
        else:
            kept = honour.outcomes(left, compiled)
            return Applied(compiled, left, options, kept, refused, compiles)
