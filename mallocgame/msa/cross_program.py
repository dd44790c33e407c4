"""Cross-program prefetch: the argument that the run before brings into fast memory."""

from collections.abc import Sequence

from compiler.hlo import Buffer, Node, Program
from compiler.hlo.module import Computation
from mallocgame.msa.segment import Segments

# A buffer that is in use for a larger share of the program stays for all of it.
_FREED_BELOW = 0.6
_PLUMBING = frozenset({"parameter", "get-tuple-element"})


def candidates(program: Program, capacity: int) -> list[Buffer]:
    """Returns the arguments that may be prefetched, the one that XLA likes best first."""
    users = _Users(program.module.entry)
    root = program.module.entry.root

    def eligible(buffer: Buffer) -> bool:
        first = buffer.values[0]
        return (
            first.node in program.module.entry.parameters
            and len(first.index) <= 1
            and first.shape.is_array
            and 0 < first.size <= capacity
            and bool(first.uses)
            and not any(p.node is root for v in buffer.values for p in v.positions)
            and all(
                _is_weight(use.node.operands[use.operand], users) for use in first.uses
            )
        )

    def key(buffer: Buffer) -> tuple[int, int, int, int]:
        uses = [use for value in buffer.values for use in value.uses]
        cumulative = sum(
            sum(leaf.num_elements for _, leaf in use.node.shape.leaves())
            for use in uses
        )
        latest = max(use.time for use in buffer.values[0].uses)
        return -buffer.values[0].size, -cumulative, latest, buffer.values[0].id

    return sorted(filter(eligible, program.buffers), key=key)


def reserve(
    segments: Segments, buffer: Buffer, times: int, pressure: int
) -> list[tuple[int, int, int]] | None:
    """Places a prefetched argument.

    Args:
        segments: memory, still empty.
        buffer: the argument.
        times: instructions of the program.
        pressure: bytes that the program would like to have in fast memory.

    Returns:
        `(offset, start, end)` of its stays, or None if it does not fit.
    """
    settings, size = segments.settings, buffer.values[0].size
    offset = segments.memory.best_fit([(0, times)], size)
    if offset + size > settings.capacity:
        return None
    last = max(use.time for value in buffer.values for use in value.uses)
    again = _end_of_program_start(segments, last, times, size)
    clock = segments.clock
    occupied = max(
        float(clock.between(again, times)), size / settings.slow_bandwidth
    ) + float(clock.between(0, last))
    freed = (
        settings.free_cross_program
        and pressure > settings.capacity
        and occupied / max(float(clock.between(0, times)), 1e-30) < _FREED_BELOW
        and last < again < times
    )
    stays = [(offset, 0, times)]
    if freed:
        stays = [(offset, 0, last), (offset, again, times)]
    for _, start, end in stays:
        segments.place(start, end, offset, size)
    segments.commit()
    return stays


def _end_of_program_start(segments: Segments, last: int, times: int, size: int) -> int:
    """When the copy for the next run would like to start: as far in front of the end as any prefetch."""
    until = segments.clock.until(times)
    settings = segments.settings
    size_that_counts = max(size * settings.prefetch_scale, settings.floor_bytes)
    wanted = settings.preferred_overlap * size_that_counts / settings.slow_bandwidth
    same = segments.clock.depth[: times + 1] == 0
    best = last
    for start in range(last + 1, times + 1):
        if same[start] and abs(wanted - until[start]) < abs(wanted - until[best]):
            best = start
    return best


class _Users:
    """Who uses an instruction, also inside of fusions."""

    def __init__(self, entry: Computation) -> None:
        self._users: dict[Node, list[Node]] = {}
        self._fusion_of_root: dict[Node, Node] = {}
        self._seen: set[Computation] = set()
        self._add(entry)

    def of(self, node: Node) -> Sequence[Node]:
        return self._users.get(node, ())

    def parameter(self, fusion: Node, operand: int) -> Node:
        """Returns what an operand is called inside of a fusion."""
        inner = fusion.called[0]
        self._add(inner)
        self._fusion_of_root[inner.root] = fusion
        return inner.parameters[operand]

    def fusion_with_root(self, node: Node) -> Node | None:
        """Returns the fusion whose result an instruction inside of it is."""
        return self._fusion_of_root.get(node)

    def _add(self, computation: Computation) -> None:
        if computation in self._seen:
            return
        self._seen.add(computation)
        for node in computation.nodes:
            for operand in dict.fromkeys(node.operands):
                self._users.setdefault(operand, []).append(node)


def _is_weight(source: Node, users: _Users) -> bool:
    """Whether what a use reads is an argument that does not look like an activation."""
    if source.opcode == "bitcast":
        origin = source.operands[0]
        inner = origin.operands[0] if origin.opcode == "get-tuple-element" else origin
        if inner.opcode == "parameter":
            return True
    return source.opcode in _PLUMBING and not _is_activation(source, users)


def _is_activation(node: Node, users: _Users) -> bool:
    """XLA's guess: whether data is computed on, rather than computed with."""
    for user in users.of(node):
        at = [k for k, operand in enumerate(user.operands) if operand is node]
        match user.opcode:
            case "convolution" | "dot":
                if user.operands[0] is node:
                    return True
            case "gather":
                if user.operands[1] is node:
                    return True
            case "fusion":
                if any(_is_activation(users.parameter(user, k), users) for k in at):
                    return True
            case "bitcast" | "broadcast" | "transpose":
                if _is_activation(user, users):
                    return True
            case "copy":
                fusion = users.fusion_with_root(user)
                if fusion is None or _is_activation(fusion, users):
                    return True
            case "dynamic-update-slice" | "dynamic-slice":
                if at[-1] > 0 or _is_activation(user, users):
                    return True
            case "reduce":
                if at[-1] >= len(user.operands) // 2 or _is_activation(user, users):
                    return True
            case _:
                return True
    return False
