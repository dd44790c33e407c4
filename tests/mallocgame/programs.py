"""Problems to play on: compiled programs from tests/golden, and random ones with nested control flow.

The random ones are made directly as `compiler.hlo.Program`s, with what memory mapping looks at
(times, computations, buffers, costs) and nothing else.
"""

import dataclasses
import functools
import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from compiler.cost import model
from compiler.cost.instruction import InstructionCosts, instruction_costs
from compiler.cost.slots import Slots
from compiler.hlo import (
    Buffer,
    Instruction,
    Node,
    Program,
    Region,
    Use,
    Value,
    build,
    load,
)
from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.module import Computation, Module
from compiler.hlo.program import Position
from compiler.hlo.shapes import Shape
from compiler.targets import TARGETS, Target
from mallocgame import instance
from mallocgame.instance import Problem

GOLDEN = Path(__file__).parents[1] / "golden"
V5E = TARGETS["tpu-v5e"]
_NO_SHAPE = Shape("token")
_MAX_DEPTH = 2


@functools.cache
def golden(
    name: str, share: float = 1.0, cross_program: frozenset[int] = frozenset()
) -> Problem:
    """Returns a compiled program's problem, with a share of the chip's fast memory."""
    program = build(load(GOLDEN / name / "scheduled.hlo.pb.gz"))
    costs = model.analytic(instruction_costs(program), V5E)
    capacity = int(V5E.capacity * share)
    return instance.build(
        program, costs, capacity=capacity, cross_program=cross_program
    )


@functools.cache
def synthetic(seed: int, accesses: int = 128, times: int = 64) -> Problem:
    """Returns a random problem whose arrays fit the given buckets."""
    rng = random.Random(seed)
    while True:
        program, costs = _Writer(rng).program()
        sizes = sum(buffer.size for buffer in program.buffers)
        problem = instance.build(
            program,
            costs,
            capacity=int(sizes * rng.uniform(0.1, 0.7)),
            cross_program=_crossing(program) if rng.random() < 0.5 else frozenset(),
        )
        shapes = problem.instance.order.shape[0], problem.instance.trip.shape[0]
        if shapes == (accesses, times):
            return problem


def straight(
    rows: Iterable[tuple[Iterable[int], Iterable[int], float]],
    sizes: list[int],
    *,
    parameters: Iterable[int] = (),
    live_out: Iterable[int] = (),
    capacity: int,
    target: Target = V5E,
    cross_program: Iterable[int] = (),
    opcodes: Iterable[str] = (),
) -> Problem:
    """Returns the problem of a program without control flow.

    Args:
        rows: per instruction the buffers it reads, those it writes, and its flops.
        sizes: bytes by buffer.
        parameters: buffers that hold arguments, there from time 0 on.
        live_out: buffers that hold results.
        capacity: bytes of fast memory.
        target: the chip.
        cross_program: arguments that the run before may prefetch.
        opcodes: of the rows, fusions by default.
    """
    writer = _Writer(random.Random(0), target)
    drafts = [_Draft(size) for size in sizes]
    writer.drafts += drafts
    region = writer.open("entry", None, None, 0, 1.0)
    held = [drafts[i] for i in parameters]
    writer.emit("parameter", region, values=held)
    for draft in held:
        draft.is_parameter = True
    names = itertools.chain(opcodes, itertools.repeat("fusion"))
    for (reads, writes, flops), opcode in zip(rows, names, strict=False):
        written = [drafts[i] for i in writes]
        writer.emit(opcode, region, [drafts[i] for i in reads], written, flops)
    results = [drafts[i] for i in live_out]
    writer.emit("tuple", region, passes=results)
    for draft in results:
        draft.is_live_out = True
    writer.close(region)
    program, costs = writer.finish()
    return instance.build(
        program, costs, capacity=capacity, cross_program=frozenset(cross_program)
    )


def _crossing(program: Program) -> frozenset[int]:
    fixed = [b for b in program.buffers if b.is_parameter and not b.is_live_out]
    return frozenset(
        b.id for b in fixed if all(v.node.opcode == "parameter" for v in b.values)
    )


@dataclasses.dataclass(eq=False)
class _Draft:
    """A buffer while the program is written."""

    size: int
    is_parameter: bool = False
    is_constant: bool = False
    is_live_out: bool = False
    never_fast: str | None = None
    uses: list[tuple[int, Node, int]] = dataclasses.field(default_factory=list)
    values: list[tuple[int, Node, int]] = dataclasses.field(default_factory=list)
    positions: list[tuple[int, Node]] = dataclasses.field(default_factory=list)


class _Writer:
    """Writes one program from front to back."""

    def __init__(self, rng: random.Random, target: Target | None = None) -> None:
        self.rng = rng
        self.target = target or dataclasses.replace(
            V5E,
            max_outstanding=rng.choice([2, 3, 40]),
            min_overlap=rng.choice([0.2, 1.0]),
            max_overlap=rng.choice([0.02, 8.0]),
        )
        self.drafts: list[_Draft] = []
        self.instructions: list[Instruction] = []
        self.regions: list[Region] = []
        self.slots: list[Slots] = []
        self.flops: list[float] = []

    def program(self) -> tuple[Program, model.CostModel]:
        rng = self.rng
        entry = self.open("entry", None, None, 0, 1.0)
        held = [self.draft() for _ in range(rng.randint(1, 4))]
        for draft in held:
            draft.is_parameter = True
            self.emit("parameter", entry, values=[draft])
        donated = [draft for draft in held if rng.random() < 0.3]
        known = self.block(entry, held, donated, rng.randint(6, 12), 0)
        mutable = [draft for draft in known if draft not in held or draft in donated]
        results = rng.sample(mutable, min(len(mutable), rng.randint(1, 3)))
        for draft in results:
            draft.is_live_out = True
        self.emit("tuple", entry, passes=results)
        self.close(entry)
        return self.finish()

    def draft(self) -> _Draft:
        """Makes a new buffer, now and then one that may not be in fast memory."""
        made = _Draft(int(2 ** self.rng.uniform(13, 19)))
        if self.rng.random() < 0.05:
            made.never_fast = "a scalar"
        self.drafts.append(made)
        return made

    def open(
        self,
        kind: str,
        parent: int | None,
        caller: Node | None,
        nest: int,
        trips: float,
    ) -> int:
        position = len(self.regions)
        above = 1.0 if parent is None else self.regions[parent].trip_count
        computation = Computation(
            f"{kind}.{position}", (), _node("none", "none"), (), True
        )
        self.regions.append(
            Region(
                name=computation.name,
                kind=kind,
                computation=computation,
                parent=parent,
                caller=caller,
                depth=0 if parent is None else self.regions[parent].depth + 1,
                while_nest=nest,
                own_trip_count=trips,
                trip_count=above * trips,
                start=len(self.instructions),
                end=-1,
            )
        )
        return position

    def close(self, region: int) -> None:
        end = len(self.instructions)
        self.regions[region] = dataclasses.replace(self.regions[region], end=end)

    def emit(
        self,
        opcode: str,
        region: int,
        reads: Iterable[_Draft] = (),
        values: Iterable[_Draft] = (),
        flops: float = 0.0,
        passes: Iterable[_Draft] = (),
        node: Node | None = None,
    ) -> None:
        """Appends an instruction; `passes` are buffers that go through it untouched."""
        time = len(self.instructions)
        node = node or _node(f"{opcode}.{time}", opcode)
        operands, outputs = {}, {}
        for k, draft in enumerate(reads):
            draft.uses.append((time, node, k))
            operands[k, ()] = draft.size * self.rng.choice([1.0, 1.0, 0.1])
        for k, draft in enumerate(values):
            draft.values.append((time, node, k))
            draft.positions.append((time, node))
            outputs[(k,)] = float(draft.size)
        if opcode in ("parameter", "constant"):
            outputs = {}
        for draft in passes:
            draft.positions.append((time, node))
            if opcode in ("while", "conditional", "call"):
                draft.uses.append((time, node, 0))
        home = self.regions[region]
        self.instructions.append(
            Instruction(time, node, region, home.while_nest, home.trip_count)
        )
        self.slots.append(
            Slots(operands, outputs, sum(operands.values()) + sum(outputs.values()))
        )
        self.flops.append(flops)

    def block(
        self,
        region: int,
        readable: list[_Draft],
        mutable: list[_Draft],
        count: int,
        depth: int,
        owed: Iterable[_Draft] = (),
    ) -> list[_Draft]:
        """Writes instructions into a computation; returns what is readable at its end.

        Args:
            region: the computation.
            readable: buffers that hold a value.
            mutable: of them, those that may be written.
            count: how many instructions.
            depth: of control flow.
            owed: buffers that have to be written for the first time.
        """
        rng, owed = self.rng, list(owed)
        readable, mutable = list(readable), list(mutable)
        kinds = ["new"] * 4 + ["update", "update", "overwrite", "constant"]
        kinds += ["while", "conditional", "call"] if depth < _MAX_DEPTH else []
        for left in reversed(range(count)):
            if owed and (rng.random() < 0.3 or left < len(owed)):
                draft = owed.pop()
                self.work(region, readable, draft)
                readable.append(draft)
                mutable.append(draft)
                continue
            match rng.choice(kinds):
                case "new":
                    draft = self.draft()
                    self.work(region, readable, draft)
                    readable.append(draft)
                    mutable.append(draft)
                case "update" if mutable:
                    draft = rng.choice(mutable)
                    others = [other for other in readable if other is not draft]
                    self.work(region, others, draft, also=[draft])
                case "overwrite" if mutable:
                    draft = rng.choice(mutable)
                    self.work(region, [r for r in readable if r is not draft], draft)
                case "constant":
                    draft = self.draft()
                    draft.is_constant = True
                    self.emit("constant", region, values=[draft])
                    readable.append(draft)
                case "while" if readable:
                    self.loop(region, readable, mutable, depth)
                case ("conditional" | "call") as kind if readable:
                    new = self.choice(kind, region, readable, mutable, depth)
                    readable += new
                    mutable += new
        return readable

    def work(
        self,
        region: int,
        readable: list[_Draft],
        draft: _Draft,
        also: Iterable[_Draft] = (),
    ) -> None:
        rng = self.rng
        reads = [*also, *rng.sample(readable, min(len(readable), rng.randint(1, 3)))]
        flops = 10 ** rng.uniform(5, 8) if rng.random() < 0.5 else 0.0
        self.emit("fusion", region, reads, [draft], flops)

    def _passed(
        self, readable: list[_Draft], mutable: list[_Draft]
    ) -> tuple[list[_Draft], list[_Draft]]:
        passed = self.rng.sample(readable, self.rng.randint(1, min(len(readable), 5)))
        changed = [d for d in passed if d in mutable and self.rng.random() < 0.6]
        return passed, changed

    def loop(
        self, region: int, readable: list[_Draft], mutable: list[_Draft], depth: int
    ) -> None:
        rng, nest = self.rng, self.regions[region].while_nest + 1
        carried, changed = self._passed(readable, mutable)
        node = _node(f"while.at{len(self.instructions)}", "while")
        trips = float(rng.randint(1, 20))
        condition = self.open("condition", region, node, nest, trips)
        self.emit("parameter", condition, passes=carried)
        self.emit("fusion", condition, rng.sample(carried, 1))
        self.close(condition)
        body = self.open("body", region, node, nest, trips)
        self.emit("parameter", body, passes=carried)
        self.block(body, carried, changed, rng.randint(1, 5), depth + 1)
        self.emit("tuple", body, passes=carried)
        self.close(body)
        self.emit("while", region, passes=carried, node=node)

    def choice(
        self,
        kind: str,
        region: int,
        readable: list[_Draft],
        mutable: list[_Draft],
        depth: int,
    ) -> list[_Draft]:
        """Writes a conditional or a call; returns the buffers that come out of it new."""
        rng, nest = self.rng, self.regions[region].while_nest
        passed, changed = self._passed(readable, mutable)
        made = [self.draft() for _ in range(rng.randint(0, 2))]
        node = _node(f"{kind}.at{len(self.instructions)}", kind)
        for _ in range(rng.randint(2, 3) if kind == "conditional" else 1):
            inner = "branch" if kind == "conditional" else "call"
            branch = self.open(inner, region, node, nest, 1.0)
            self.emit("parameter", branch, passes=passed)
            count = max(rng.randint(0, 3), len(made))
            self.block(branch, passed, changed, count, depth + 1, made)
            self.emit("tuple", branch, passes=[*passed, *made])
            self.close(branch)
        self.emit(kind, region, passes=[*passed, *made], node=node)
        return made

    def finish(self) -> tuple[Program, model.CostModel]:
        drafts = [draft for draft in self.drafts if draft.values]
        drafts.sort(key=lambda draft: draft.values[0][0])
        buffers, values = [], []
        for number, draft in enumerate(drafts):
            uses = tuple(Use(time, node, k, ()) for time, node, k in draft.uses)
            positions = tuple(
                Position(time, node, ()) for time, node in draft.positions
            )
            own = []
            for place, (time, node, k) in enumerate(draft.values):
                own.append(
                    Value(
                        id=len(values) + place,
                        time=time,
                        node=node,
                        index=(k,),
                        is_phi=False,
                        shape=_NO_SHAPE,
                        size=draft.size,
                        live=(time, time),
                        buffer=number,
                        positions=positions if place == 0 else (),
                        uses=uses if place == 0 else (),
                    )
                )
            values += own
            buffers.append(
                Buffer(
                    id=number,
                    name=f"buffer.{number}",
                    size=draft.size,
                    values=tuple(own),
                    definition_time=own[0].time,
                    uses=uses,
                    is_parameter=draft.is_parameter,
                    is_constant=draft.is_constant,
                    is_live_out=draft.is_live_out,
                    never_fast_reason=draft.never_fast,
                )
            )
        entry = self.regions[0].computation
        program = Program(
            name="synthetic",
            module=Module("synthetic", (), entry, (), ()),
            instructions=tuple(self.instructions),
            regions=tuple(self.regions),
            values=tuple(values),
            buffers=tuple(buffers),
            aliases=(),
            donated=(),
        )
        return program, self._costs()

    def _costs(self) -> model.CostModel:
        listed = self.instructions
        control = [i.opcode in ("while", "conditional", "call") for i in listed]
        counts = InstructionCosts(
            flops=np.array(self.flops),
            transcendentals=np.zeros(len(listed)),
            bytes_total=np.array([slots.total for slots in self.slots]),
            while_nest=np.array([i.while_nest for i in listed], np.int32),
            trip_count=np.array([i.trip_count for i in listed]),
            is_control=np.array(control),
            slots=tuple(self.slots),
        )
        return model.analytic(counts, self.target)


def _node(name: str, opcode: str) -> Node:
    return Node(
        name=name,
        opcode=opcode,
        shape=_NO_SHAPE,
        operands=(),
        control_predecessors=(),
        called=(),
        attributes=pb.Instruction(),
        position=0,
    )
