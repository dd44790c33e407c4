"""Loops and conditionals: where XLA lets a buffer go into them in fast memory."""

from compiler.hlo import Node, Program, Use
from mallocgame.msa.requirements import Required, Requirements
from mallocgame.msa.segment import Segments
from mallocgame.msa.values import (
    PLUMBING,
    Allocation,
    AllocationValue,
    ServedUse,
    corrected_time,
)


class ControlFlow:
    """Answers questions about the uses of one program."""

    def __init__(
        self, program: Program, segments: Segments, required: Requirements
    ) -> None:
        self._program = program
        self._segments = segments
        self._required = required

    def forbids(self, value: AllocationValue, use: Use) -> bool:
        """Whether a use has to be in slow memory."""
        if use.node.opcode == "while":
            return self._loop_is_slow(use) or not self._loop_is_worthwhile(use)
        if use.node.opcode == "conditional":
            if self._branch_is_worthwhile(value, use):
                return False
            time = corrected_time(self._program, use.node)
            existing = self._required.at(value.value, time)
            return existing is None or not existing.is_fast
        return False

    def _loop_is_slow(self, use: Use) -> bool:
        required = self._required.at_place((use.node, use.index))
        return required is not None and not required.is_fast

    def _loop_is_worthwhile(self, use: Use) -> bool:
        """Whether the body uses it soon enough for it to stay until then."""
        body = use.node.called[0]
        root = self._program.times[body.root.name]
        start, first = self._first_use(body.parameters[0], use, root, within=None)
        return first != root and self._segments.may_stay(start, first)

    def _branch_is_worthwhile(self, value: AllocationValue, use: Use) -> bool:
        """Whether some branch that gets it uses it soon."""
        for served in value.uses:
            other = served.use
            if other.node is not use.node or other.operand == 0:
                continue
            parameter = use.node.called[other.operand - 1].parameters[0]
            start, first = self._first_use(
                parameter, other, other.time, within=parameter
            )
            if self._segments.may_stay(start, first):
                return True
        return False

    def _first_use(
        self, parameter: Node, use: Use, latest: int, within: Node | None
    ) -> tuple[int, int]:
        """Returns a parameter's time and that of the first use that is more than plumbing."""
        program = self._program
        start = program.times[parameter.name]
        region = program.instructions[start].region
        first = min(
            (
                u.time
                for u in program.value_at(parameter, use.index).uses
                if u.node.opcode not in PLUMBING
                and (
                    u.time > start
                    if within is None
                    else program.instructions[u.time].region == region
                )
            ),
            default=latest,
        )
        return start, min(first, latest)

    def needs_eviction(
        self,
        value: AllocationValue,
        served: ServedUse,
        previous: ServedUse | None,
        values: list[AllocationValue],
    ) -> bool:
        """Whether a buffer cannot stay in fast memory over the conditional that used it last."""
        if previous is None or previous.use.node.opcode != "conditional":
            return False
        caller = previous.use.node
        end = self._program.times[caller.name]
        if served.use.node is caller or end > corrected_time(
            self._program, served.use.node
        ):
            return False
        start = corrected_time(self._program, caller)
        for inner in values:
            if not start <= inner.time < end:
                continue
            definition = self._required.at(inner.value, inner.time)
            for used in inner.uses:
                time = corrected_time(self._program, used.use.node)
                of_use = self._required.at(inner.value, time)
                of_aliases = self._segments.required_of_aliases(used)
                slow = any(
                    r is not None and not r.is_fast
                    for r in (of_use, of_aliases, definition)
                )
                if slow or (
                    used.use.node.opcode == "conditional"
                    and not self._branch_is_worthwhile(inner, used.use)
                ):
                    return True
        return False

    def mirror_in_branches(
        self,
        value: AllocationValue,
        served: ServedUse,
        previous: ServedUse | None,
        values: list[AllocationValue],
    ) -> list[AllocationValue]:
        """Lets branches use a buffer where it lies, if it stays there over the whole conditional.

        Returns:
            The allocation values that are served by that.
        """
        if (
            previous is None
            or previous.use.node.opcode != "conditional"
            or served.use.node is previous.use.node
            or not value.allocations
            or not value.allocations[-1].is_fast
        ):
            return []
        last, caller = value.allocations[-1], previous.use.node
        start = corrected_time(self._program, caller)
        end = self._program.times[caller.name]
        now = corrected_time(self._program, served.use.node)
        if previous.use not in last.uses or not (
            last.available <= start and end <= now <= last.end
        ):
            return []
        inner = [item for item in values if start <= item.time < end]
        for item in inner:
            until = max([item.time, *(used.use.time for used in item.uses)])
            item.allocations.append(
                Allocation(
                    kind="mirrored",
                    place=item.place,
                    is_fast=True,
                    start=item.time,
                    end=until,
                    available=item.time,
                    size=item.value.size,
                    offset=last.offset,
                    uses=[used.use for used in item.uses],
                )
            )
        return inner

    def read_only_loop(
        self, value: AllocationValue, served: ServedUse, values: list[AllocationValue]
    ) -> None:
        """Gives a loop that only reads a buffer the slow copy that there is, inside and behind."""
        loop, index = served.use.node, served.use.index
        carried = any(
            p.node is loop and p.index == index for p in value.value.positions
        )
        source = next(
            (
                a
                for a in reversed(value.allocations)
                if not a.is_fast and a.place == value.place
            ),
            None,
        )
        if not carried or source is None:
            return
        parameter = loop.called[0].parameters[0]
        for item in values:
            if item.place[0] not in (parameter, loop):
                continue
            item.allocations.append(
                Allocation(
                    kind="parent" if item.place[0] is parameter else "mirrored",
                    place=item.place if item.place[0] is parameter else source.place,
                    is_fast=False,
                    start=item.time,
                    end=item.time,
                    available=item.time,
                    size=item.value.size,
                )
            )

    def require_outputs(self, value: AllocationValue) -> None:
        """Requires a conditional's result in slow memory if a branch cannot leave it in the fast one."""
        for position in value.value.positions:
            node = position.node
            if node.opcode != "conditional":
                continue
            roots = [(branch.root, position.index) for branch in node.called]
            ends = [self._required.at_place((node, position.index))]
            ends += [self._required.at_place(root) for root in roots]
            plain = any(root.opcode != "tuple" for root, _ in roots)
            if plain or any(r is not None and not r.is_fast for r in ends):
                self._required.add_at_place((node, position.index), Required(False))
                for root in roots:
                    self._required.add_at_place(root, Required(False))
