"""What a compiled module says: order, costs, memory spaces, copies."""

from collections.abc import Iterator
from typing import NamedTuple

from compiler.hlo import Module, Node, Shape, ShapeIndex
from compiler.hlo.estimates import estimated_cycles
from compiler.hlo.schedule import flatten

FAST = 1  # XLA's number for the alternate memory of a TPU.


class Copy(NamedTuple):
    """One asynchronous copy; a sliced prefetch is several.

    Attributes:
        start: instruction that starts it.
        done: instruction that waits for it.
        start_time: logical time of `start` in the final schedule.
        done_time: logical time of `done`.
        source: name of the instruction that it reads.
        source_space: memory space that it reads (0: default memory).
        target_space: memory space that it writes.
        shape: what is written.
        cross_program_index: number of the cross-program prefetch, or None.
    """

    start: str
    done: str
    start_time: int
    done_time: int
    source: str
    source_space: int
    target_space: int
    shape: Shape
    cross_program_index: int | None


def schedule(module: Module) -> tuple[str, ...]:
    """Returns instruction names by logical time."""
    return tuple(instruction.name for instruction in flatten(module)[0])


def cycles(module: Module) -> dict[str, int]:
    """Returns the estimated cycles of the scheduled instructions that carry a figure, for one run of each."""
    found: dict[str, int] = {}
    for instruction in flatten(module)[0]:
        figure = estimated_cycles(instruction.node)
        if figure is not None:
            found[instruction.name] = figure
    return found


def memory_spaces(module: Module) -> dict[tuple[str, ShapeIndex], int]:
    """Returns the memory space of each array that is not in the default memory, scheduled instructions only."""
    return {
        (instruction.name, index): leaf.memory_space
        for instruction in flatten(module)[0]
        for index, leaf in leaves(instruction.node.shape)
        if leaf.memory_space
    }


def leaves(shape: Shape, index: ShapeIndex = ()) -> Iterator[tuple[ShapeIndex, Shape]]:
    """Yields the arrays of a shape with their indices."""
    if shape.element_type == "tuple":
        for number, element in enumerate(shape.elements):
            yield from leaves(element, (*index, number))
    else:
        yield index, shape


def copies(module: Module) -> tuple[Copy, ...]:
    """Returns the copies that `copy-start` or an async-wrapped slice starts, in order of their start."""
    instructions = flatten(module)[0]
    time = {instruction.node: instruction.time for instruction in instructions}
    done = {
        instruction.node.operands[0]: instruction.node
        for instruction in instructions
        if instruction.opcode in ("copy-done", "async-done")
        and instruction.node.operands
    }
    found = []
    for instruction in instructions:
        node = instruction.node
        if instruction.opcode == "copy-start":
            source, target = node.operands[0], node.shape.elements[0]
        elif instruction.opcode == "async-start" and _is_slice(node) and node.operands:
            source, target = (
                node.operands[0],
                done[node].shape if node in done else node.shape,
            )
        else:
            continue
        if node not in done:
            continue
        index = node.attributes
        crossing = (
            index.cross_program_prefetch_index
            if index.HasField("cross_program_prefetch_index")
            else None
        )
        found.append(
            Copy(
                node.name,
                done[node].name,
                instruction.time,
                time[done[node]],
                source.name,
                source.shape.memory_space,
                target.memory_space,
                target,
                crossing,
            )
        )
    return tuple(found)


def _is_slice(node: Node) -> bool:
    return any(
        called.root.opcode in ("slice", "dynamic-slice") for called in node.called
    )


def settings(text: str) -> dict[str, str]:
    """Returns the settings of a `tpu_comp_env.txt`: top-level fields, nested messages as text without line breaks."""
    found: dict[str, str] = {}
    depth, name = 0, ""
    for line in text.splitlines():
        body = line.strip()
        if depth == 0:
            name, _, value = body.rstrip("{").strip().partition(": ")
            found[name] = "" if body.endswith("{") else value.strip('"')
        elif not (depth == 1 and body == "}"):
            found[name] = f"{found[name]} {body}".strip()
        depth += body.endswith("{") - (body == "}")
    return found
