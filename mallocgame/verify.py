"""The production compiler's word: recompile with the overrides, judge what it made of them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from compiler.backends import Compiled, CompilerError, Source, compile_source, from_dump
from compiler.backends.overrides import (
    CROSS_PROGRAM_OPTION,
    OPTION,
    Override,
    Prefetch,
    Rejection,
    SortOverride,
    UseAt,
    is_of_a_kind,
    rejection,
)
from compiler.backends.repair import apply
from compiler.cost.judge import Verdict, judge
from compiler.hlo import Program, build
from compiler.targets import Target
from mallocgame import overrides
from mallocgame.instance import Problem
from mallocgame.knobs import LOOP_OPTIMIZER, MIN_OVERLAP
from mallocgame.mapping import Mapping

# What the compiler refuses is given up, kind by kind, a compile each.
_CONCESSIONS = 8
# Takes everything out of fast memory.
_ALL_SLOW = {
    OPTION: "overrides { hlo_position_matcher { size_gte: 1 } keep_in_default_memory {} }",
    CROSS_PROGRAM_OPTION: "0",
}
# What lets the decisions through: the share of a copy's time that the compiler wants in front of a
# use (the game knows what waiting costs), and no planning of repeated layers ahead of them.
_FREE = {MIN_OVERLAP: "0.01", LOOP_OPTIMIZER: "enabled: false"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verified:
    """A mapping that the compiler took.

    Attributes:
        compiled: the compile.
        program: its final module.
        verdict: its judged time.
        options: what it was compiled with.
        decisions: overrides that were emitted.
        honoured: of them, those that the compiler followed.
        refused: those of them that had to be given up for the compiler to take the program.
        instead: for each that it did not, the decision and what it did.
        kept: the overrides that it followed.
        order: how the cross-program prefetches were chosen.
        compiles: how many it took.
    """

    compiled: Compiled
    program: Program
    verdict: Verdict
    options: dict[str, str]
    decisions: int
    honoured: int
    instead: tuple[tuple[str, str], ...]
    refused: tuple[tuple[Override, str], ...] = ()
    kept: tuple[Override, ...] = ()
    order: tuple[SortOverride, ...] = ()
    compiles: int = 1

    @property
    def share(self) -> float:
        """Share of the emitted decisions that were honoured."""
        return self.honoured / self.decisions if self.decisions else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiler:
    """One program before one production compiler.

    Attributes:
        source: the program as the user wrote it.
        topology: chips to compile for.
        target: the chip.
        timeout: seconds per compile.
        base: compile options that hold for every compile, such as the scoped-memory limit.
    """

    source: Source
    topology: str
    target: Target
    timeout: float = 600.0
    base: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_dump(
        cls, path: Path, target: Target, timeout: float = 600.0
    ) -> "Compiler":
        """Returns the compiler for a dump's `before_optimizations` file."""
        if target.topology is None:
            raise CompilerError(
                "unknown-topology", f"{target.name} is no chip of the compiler's"
            )
        return cls(
            source=from_dump(path),
            topology=target.topology,
            target=target,
            timeout=timeout,
        )

    def compile(self, options: dict[str, str]) -> Compiled:
        """Compiles with options on top of the base ones."""
        return compile_source(
            self.source,
            self.topology,
            {**dict(self.base), **options},
            timeout=self.timeout,
        )

    def default(self) -> Verified:
        """Returns what the compiler does by itself."""
        return self.own({})

    def all_slow(self) -> Verified:
        """Returns the program with everything in slow memory."""
        return self.own(_ALL_SLOW)

    def own(self, options: dict[str, str]) -> Verified:
        """Returns what the compiler does by itself under some options."""
        compiled = self.compile(options)
        program = build(compiled.module)
        return Verified(
            compiled=compiled,
            program=program,
            verdict=judge(program, self.target),
            options={**dict(self.base), **options},
            decisions=0,
            honoured=0,
            instead=(),
        )

    def verify(self, problem: Problem, mapping: Mapping) -> Verified:
        """Recompiles with a mapping's overrides; those that the compiler refuses are given up.

        A prefetch that it does not make at all (for an in-place update of an argument, say) it
        makes at no place of that kind, so all of the kind are given up together.

        Raises:
            CompilerError: it refused the program for another reason, or too often.
        """
        kinds = Kinds(problem)

        def related(said: Rejection, override: Override) -> bool:
            where = override.where
            if not is_of_a_kind(said.why) or not isinstance(override.action, Prefetch):
                return False
            return isinstance(where, UseAt) and kinds.same(where, said.use)

        order = overrides.cross_program(problem, mapping)
        try:
            return self._apply(overrides.overrides(problem, mapping), order, related)
        except CompilerError as error:
            if rejection(str(error)) is not None or error.reason == "timeout":
                raise
        # It stumbles over decisions on arguments that results are written over.
        donated = {
            buffer.id
            for buffer in problem.program.buffers
            if buffer.is_parameter and buffer.is_live_out
        }
        decisions = overrides.overrides(problem, mapping, leave_out=donated)
        again = self._apply(decisions, order, related)
        return dataclasses.replace(again, compiles=again.compiles + 1)

    def settle(self, found: Verified) -> Verified:
        """Recompiles with nothing but the overrides that were followed.

        Raises:
            CompilerError: it refused those.
        """
        return self._apply(found.kept, found.order, lambda *_: False)

    def _apply(
        self,
        decisions: Sequence[Override],
        order: Sequence[SortOverride],
        related: Callable[[Rejection, Override], bool],
    ) -> Verified:
        applied = apply(
            self.source,
            self.topology,
            decisions,
            knobs=dict(self.base) | _FREE,
            order=order,
            cross_program_prefetches=len(order),
            max_repairs=_CONCESSIONS,
            related=related,
            timeout=self.timeout,
        )
        program = build(applied.compiled.module)
        kept = [o.override for o in applied.outcomes if o.is_honoured]
        instead = [
            (_describe(o.override), o.instead)
            for o in applied.outcomes
            if not o.is_honoured
        ]
        refused = [
            (_describe(override), f"refused: {why}")
            for override, why in applied.refused
        ]
        return Verified(
            compiled=applied.compiled,
            program=program,
            verdict=judge(program, self.target),
            options=applied.options,
            decisions=len(applied.outcomes) + len(refused),
            honoured=len(kept),
            instead=(*refused, *instead),
            refused=tuple(applied.refused),
            kept=tuple(kept),
            order=tuple(order),
            compiles=applied.compiles,
        )


class Kinds:
    """Which uses are alike to the compiler, as far as it refuses prefetches by kind."""

    def __init__(self, problem: Problem) -> None:
        self._of: dict[tuple[str, int], tuple[object, ...]] = {}
        self._accesses: dict[tuple[object, ...], set[int]] = {}
        for access in problem.accesses:
            buffer = problem.program.buffers[access.buffer]
            for use in access.uses:
                kind = (
                    use.node.opcode,
                    use.operand,
                    buffer.is_parameter,
                    buffer.is_live_out,
                    access.writes,
                )
                self._of[use.node.name, use.operand] = kind
                self._accesses.setdefault(kind, set()).add(access.number)

    def same(self, one: UseAt, other: UseAt) -> bool:
        """Returns whether two uses are of one kind."""
        kind = self._of.get(one[:2])
        return kind is not None and kind == self._of.get(other[:2])

    def accesses(self, use: UseAt) -> set[int]:
        """Returns the accesses of a use's kind."""
        kind = self._of.get(use[:2])
        return set() if kind is None else set(self._accesses[kind])


def same_schedule(program: Program, compiled: Compiled) -> str | None:
    """Returns why a dump's scheduled program is not the one that was recompiled, or None.

    Overrides go by name, so every instruction that has to do with a buffer that may be in fast
    memory must bear the same name at the same time. (Scalars inside reducers may not.)
    """
    again = build(compiled.scheduled_module)
    if len(again.instructions) != len(program.instructions):
        return f"{len(again.instructions)} instructions instead of {len(program.instructions)}"
    movable = [buffer for buffer in program.buffers if buffer.never_fast_reason is None]
    matter = {use.time for buffer in movable for use in buffer.uses}
    matter |= {value.time for buffer in movable for value in buffer.values}
    renamed = [
        ours.name
        for ours, theirs in zip(program.instructions, again.instructions, strict=True)
        if ours.name != theirs.name
        and (ours.time in matter or ours.opcode != theirs.opcode)
    ]
    if renamed:
        return f"{len(renamed)} instructions differ, the first is {renamed[0]}"
    return None


def _describe(override: Override) -> str:
    where, action = override
    if isinstance(where, UseAt):
        place = f"{where.instruction} operand {where.operand}"
    else:
        place = f"{where.instruction} {list(where.tuple_index) or ''}".strip()
    return f"{place}: {type(action).__name__.lower()} {tuple(action) or ''}".strip()
