"""What the compiler made of a program: cycles and memory spaces.

Reads the final module of a compilation (`after_codegen`, the only dump with
cycles in it) and says it in terms of the program that memory-space assignment
was given.
"""

import dataclasses
from collections.abc import Iterator

from compiler.hlo import (
    Instruction,
    Module,
    Node,
    Program,
    ShapeIndex,
    Value,
    build,
    padded_bytes,
)
from compiler.hlo.loops import backend_config

FAST_SPACE = 1
# What has no work of its own; the compiler moves it about freely.
_WEIGHTLESS = frozenset(
    {"bitcast", "constant", "get-tuple-element", "parameter", "tuple"}
)


def measured_cycles(final: Module) -> dict[str, int]:
    """Returns the cycles that the compiler estimates for each instruction.

    Args:
        final: the module after code generation.

    Returns:
        Instruction name -> cycles of one execution, with operands where the
        module has them. Some instructions have none (kernels, in-place updates,
        scalar arithmetic, copies).
    """
    found = {}
    for node in final.nodes():
        window = backend_config(node).get("window_config")
        cycles = window.get("estimated_cycles") if isinstance(window, dict) else None
        if isinstance(cycles, str) and cycles.isdecimal() and len(cycles) < 19:
            found[node.name] = int(cycles)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """One transfer between the memories that the compiler put in.

    Attributes:
        name: of the instruction that starts it.
        source: name of the value that is copied, as the program defines it;
            None if it is none of the program's.
        buffer: position of its buffer in `Program.buffers`, or None.
        start: the program's instruction after which it starts; the time
            before the region for one that starts before everything.
        done: the program's instruction before which it must be done; the time
            after the region for one that nothing follows.
        bytes: moved, with padding.
        to_fast: whether into fast memory, else out of it.
        slices: into how many parts the transfer of the buffer is cut, of
            which this is one; 1 for a whole one.
        cross_program: whether it is for the next run of the program, or from
            the run before.
    """

    name: str
    source: str | None
    buffer: int | None
    start: int
    done: int
    bytes: int
    to_fast: bool
    slices: int
    cross_program: bool


@dataclasses.dataclass(frozen=True, slots=True)
class CompilerMapping:
    """Where the compiler's own mapping keeps what instructions read and write.

    Attributes:
        operands: `(name, operand, index)` -> whether read from fast memory.
        outputs: `(name, index)` -> whether written to fast memory.
        copies: by time of start.
        missing: instructions of the program that the final module has not.
    """

    operands: dict[tuple[str, int, ShapeIndex], bool]
    outputs: dict[tuple[str, ShapeIndex], bool]
    copies: tuple[Copy, ...]
    missing: tuple[str, ...]


def compiler_mapping(program: Program, final: Module) -> CompilerMapping:
    """Reads the compiler's memory mapping out of its final module.

    Instructions are found by name; those the compiler has added (copies,
    slices) appear as copies, and those it has dropped as missing.

    Args:
        program: before memory-space assignment.
        final: the final module of the same compilation.
    """
    compiled = build(final)
    operands: dict[tuple[str, int, ShapeIndex], bool] = {}
    outputs: dict[tuple[str, ShapeIndex], bool] = {}
    for instruction in compiled.instructions:
        node = instruction.node
        if node.name not in program.times:
            continue
        for index, leaf in node.shape.leaves():
            outputs[node.name, index] = leaf.memory_space == FAST_SPACE
        for i, operand in enumerate(node.operands):
            for index, leaf in operand.shape.leaves():
                operands[node.name, i, index] = leaf.memory_space == FAST_SPACE
    copies = tuple(
        sorted(
            _Copies(program, compiled),
            key=lambda copy: (copy.start, copy.done, copy.name),
        )
    )
    missing = tuple(
        i.name for i in program.instructions if i.name not in compiled.times
    )
    return CompilerMapping(operands, outputs, copies, missing)


def _joins_slices(node: Node) -> bool:
    return node.attributes.custom_call_target == "ConcatBitcast"


class _Copies:
    """Finds the transfers in a compiled program."""

    def __init__(self, program: Program, compiled: Program) -> None:
        self._program = program
        self._compiled = compiled
        self._regions = {region.name: region for region in program.regions}
        self._before, self._after = self._neighbours()

    def __iter__(self) -> Iterator[Copy]:
        users: dict[Node, list[Instruction]] = {}
        for instruction in self._compiled.instructions:
            for operand in dict.fromkeys(instruction.node.operands):
                users.setdefault(operand, []).append(instruction)
        for start in self._compiled.instructions:
            if (
                start.opcode not in ("copy-start", "async-start")
                or start.name in self._program.times
            ):
                continue
            done = next(
                (u for u in users.get(start.node, []) if u.opcode.endswith("-done")),
                None,
            )
            if done is None or not done.node.shape.is_array:
                continue
            joined = [u.node for u in users.get(done.node, []) if _joins_slices(u.node)]
            yield self._copy(start, done, len(joined[0].operands) if joined else 1)

    def _copy(self, start: Instruction, done: Instruction, slices: int) -> Copy:
        source = self._source(start.node.operands[0], ())
        return Copy(
            name=start.name,
            source=source.name if source else None,
            buffer=source.buffer if source else None,
            start=self._before[start.time],
            done=self._after[done.time],
            bytes=padded_bytes(done.node.shape),
            to_fast=done.node.shape.memory_space == FAST_SPACE,
            slices=slices,
            cross_program=start.node.attributes.HasField(
                "cross_program_prefetch_index"
            ),
        )

    def _source(self, node: Node, index: ShapeIndex) -> Value | None:
        """Follows a value back through copies to where the program makes it."""
        for _ in self._compiled.instructions:
            value = self._compiled.value_at(node, index)
            times = self._program.times
            if value.node.name in times:
                original = self._program.instructions[times[value.node.name]].node
                try:
                    return self._program.value_at(original, value.index)
                except KeyError:
                    return None
            if not value.node.operands:
                return None
            node, index = value.node.operands[0], ()
        return None

    def _neighbours(self) -> tuple[list[int], list[int]]:
        """Times in the program of the last instruction before and the first one after.

        Both are of the same computation, and of instructions with weight.
        """
        count = len(self._compiled.instructions)
        before, after = [-1] * count, [len(self._program.instructions)] * count
        by_region: dict[int, list[Instruction]] = {}
        for instruction in self._compiled.instructions:
            by_region.setdefault(instruction.region, []).append(instruction)
        for number, inside in by_region.items():
            region = self._regions.get(self._compiled.regions[number].name)
            self._sweep(inside, region.start - 1 if region else -1, before)
            self._sweep(inside[::-1], region.end if region else count, after)
        return before, after

    def _sweep(
        self, instructions: list[Instruction], time: int, result: list[int]
    ) -> None:
        for instruction in instructions:
            result[instruction.time] = time
            if instruction.opcode not in _WEIGHTLESS:
                time = self._program.times.get(instruction.name, time)
