"""What a user calls the tensors of a compiled program.

Arguments carry their path (`state['m']['embed']`) in the dump. `checkpoint_name` leaves no trace in it,
so `record` writes down, from the function itself, which operations at which source places make the named values:

    mallocgame.offload.record(train_step, *args, out="dump")

and the search finds the tensors that come from the same places. A plan's names are then read with

    mallocgame.offload.names("out/mapping.json")
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compiler.hlo import Computation, Node, Program, ShapeIndex
from compiler.hlo.frames import Place
from mallocgame.offload.problem import PLUMBING, Candidate
from solvers.command.files import read_json, write_json

FILE = "checkpoint_names.json"
_SAME = frozenset(  # They hand on the data of their first operand, whatever its layout.
    {"bitcast", "copy", "copy-done", "copy-start", "convert", "reduce-precision"}
    | {"reshape", "transpose", "optimization-barrier"}
)
_STORES = frozenset({"broadcast", "dynamic-update-slice"})  # A loop's array of results.
_SAME_IN_JAX = frozenset(
    {"name", "convert_element_type", "reshape", "transpose", "squeeze"}
    | {"reduce_precision", "copy", "expand_dims", "optimization_barrier"}
)
_SUMMARY = re.compile(r"(?P<file>.*?):(?P<line>\d+)(:(?P<column>\d+))? \(.*\)")
_DEPTH = 200  # Of chains followed back.


class Maker(NamedTuple):
    """An operation of JAX, such as `dot_general`, at a place in the source."""

    place: Place
    operation: str


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """One `checkpoint_name` of a function, in the order in which the function makes them.

    Attributes:
        name: the name.
        makers: what may make the value, the nearest first.
        elements: of the array.
    """

    name: str
    makers: tuple[Maker, ...]
    elements: int


@dataclasses.dataclass(frozen=True)
class Names:
    """What to apply of a plan.

    Attributes:
        offload: for `names_which_can_be_offloaded` of
            `jax.checkpoint_policies.save_and_offload_only_these_names`.
        save: the other names, for `names_which_can_be_saved`.
        pinned_host: paths of arguments to place in `pinned_host` memory, as
            `jax.tree_util.keystr` writes them behind the argument's name.
    """

    offload: tuple[str, ...]
    save: tuple[str, ...]
    pinned_host: tuple[str, ...]

    def policy(self) -> Callable[..., Any]:
        """Returns the policy for `jax.checkpoint(..., policy=...)`."""
        import jax

        policy: Callable[..., Any] = (
            jax.checkpoint_policies.save_and_offload_only_these_names(
                names_which_can_be_saved=list(self.save),
                names_which_can_be_offloaded=list(self.offload),
                offload_src="device",
                offload_dst="pinned_host",
            )
        )
        return policy

    def on_host(self, argument: str, tree: Any) -> Any:
        """Returns a tree of bools: which leaves of an argument to place in `pinned_host` memory.

        Args:
            argument: the parameter's name in the jitted function, such as `state`.
            tree: what is passed for it.
        """
        import jax

        return jax.tree_util.tree_map_with_path(
            lambda path, _: (
                f"{argument}{jax.tree_util.keystr(path)}" in self.pinned_host
            ),
            tree,
        )


def names(mapping: Path | str) -> Names:
    """Returns what to apply of the plan in a `mapping.json`.

    Raises:
        Failure: it cannot be read.
        ValueError: it is no plan of an offload search.
    """
    found = read_json(Path(mapping))
    if not isinstance(found, dict) or found.get("kind") != "offload":
        raise ValueError(f"{mapping} holds no offload plan")
    part = found["names"]
    return Names(
        offload=tuple(part["offload"]),
        save=tuple(part["save"]),
        pinned_host=tuple(part["pinned_host"]),
    )


def record(
    fn: Callable[..., Any], *args: Any, out: Path | str, **jit_kwargs: Any
) -> Path:
    """Writes the `checkpoint_name`s of a function beside its dump; returns the file.

    Nothing is compiled or run.

    Args:
        fn: a function, or what `jax.jit` made of one (then without `jit_kwargs`).
        *args: arrays or `jax.ShapeDtypeStruct`s.
        out: the dump's folder.
        **jit_kwargs: as for `jax.jit`.
    """
    import jax

    jitted: Any = fn if hasattr(fn, "trace") else jax.jit(fn, **jit_kwargs)
    found = trace(jitted.trace(*args).jaxpr.jaxpr)
    Path(out).mkdir(parents=True, exist_ok=True)
    entries = [
        {
            "name": named.name,
            "elements": named.elements,
            "makers": [[*maker.place, maker.operation] for maker in named.makers],
        }
        for named in found
    ]
    return write_json(Path(out) / FILE, {"schema_version": 1, "names": entries})


def load(dump: Path) -> tuple[Named, ...] | None:
    """Returns what `record` wrote beside a dumped module, or None if it was not called.

    Raises:
        Failure: the file is there and cannot be read.
        ValueError: it is something else.
    """
    path = dump.parent / FILE
    if not path.is_file():
        return None
    found = read_json(path)
    try:
        return tuple(
            Named(
                name=entry["name"],
                makers=tuple(Maker(Place(*m[:3]), m[3]) for m in entry["makers"]),
                elements=entry["elements"],
            )
            for entry in found["names"]
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is not what mallocgame.offload.record writes") from (
            error
        )


def trace(jaxpr: Any) -> tuple[Named, ...]:
    """Returns the `checkpoint_name`s of a jaxpr and all that it calls, in order."""
    made: dict[Any, Any] = {}
    comes_from: dict[Any, list[Any]] = {}
    marks: list[Any] = []
    _collect(jaxpr, made, comes_from, marks)
    return tuple(
        Named(
            name=str(mark.params["name"]),
            makers=tuple(_makers(mark.invars[0], made, comes_from)),
            elements=math.prod(mark.outvars[0].aval.shape),
        )
        for mark in marks
    )


def _collect(
    jaxpr: Any, made: dict[Any, Any], comes_from: dict[Any, list[Any]], marks: list[Any]
) -> None:
    for equation in jaxpr.eqns:
        inner = [sub for value in equation.params.values() for sub in _jaxprs(value)]
        if equation.primitive.name == "name":
            marks.append(equation)
        for sub in inner:
            _collect(sub, made, comes_from, marks)
            # What is called takes the last operands and, in order, gives the results; a loop's
            # carry comes from its own results as well.
            for ours, theirs in zip(reversed(sub.invars), reversed(equation.invars)):
                comes_from.setdefault(ours, []).append(theirs)
            for ours, theirs in zip(equation.outvars, sub.outvars):
                comes_from.setdefault(ours, []).append(theirs)
            if equation.primitive.name == "scan":
                first, count = _carry(equation.params)
                for ours, theirs in zip(sub.invars[first : first + count], sub.outvars):
                    comes_from.setdefault(ours, []).insert(0, theirs)
        if not inner:
            for variable in equation.outvars:
                made[variable] = equation


def _carry(scan: Mapping[str, Any]) -> tuple[int, int]:
    """Returns where a scan's carry begins among the body's arguments, and how many there are."""
    if "num_consts" in scan:
        return scan["num_consts"], scan["num_carry"]
    consts, carry, _ = scan["ft_in"].unpack()  # From JAX 0.12 on.
    return len(consts), len(carry)


def _jaxprs(value: Any) -> Iterator[Any]:
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield value.jaxpr
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _jaxprs(entry)


def _makers(
    variable: Any, made: Mapping[Any, Any], comes_from: Mapping[Any, Sequence[Any]]
) -> Iterator[Maker]:
    from jax.extend import source_info_util

    queue = [variable]
    seen: set[int] = set()
    while queue and len(seen) < _DEPTH:
        now = queue.pop(0)
        if id(now) in seen or hasattr(now, "val"):  # A literal.
            continue
        seen.add(id(now))
        queue += comes_from.get(now, ())
        equation = made.get(now)
        if equation is None:
            continue
        match = _SUMMARY.fullmatch(source_info_util.summarize(equation.source_info))
        if match and equation.primitive.name != "name":
            column = int(match["column"] or 0)
            place = Place(Path(match["file"]).name, int(match["line"]), column)
            yield Maker(place, equation.primitive.name)
        if equation.primitive.name in _SAME_IN_JAX:
            queue += equation.invars


class Origins:
    """Follows the tensors of a compiled program back to the operations that made them."""

    def __init__(self, program: Program, places: Mapping[int, Place]) -> None:
        self._program = program
        self._places = places
        self._home: dict[Node, Computation] = {}
        self._loop: dict[str, Node] = {}
        for computation in program.module.computations:
            for node in computation.nodes:
                self._home[node] = computation
                if node.opcode == "while":
                    self._loop[node.called[0].name] = node

    def of(self, candidate: Candidate) -> list[Node]:
        """Returns the operations that may have made a candidate's data, the nearest first."""
        buffer = self._program.buffers[candidate.buffer]
        found: dict[Node, None] = {}
        for value in buffer.values:
            if not value.is_phi and value.node.opcode not in PLUMBING:
                self._follow(value.node, value.index, (), found, 0)
        return list(found)

    def place(self, node: Node) -> Place | None:
        """Returns where in the user's source an operation comes from."""
        return self._places.get(node.attributes.metadata.stack_frame_id)

    def _follow(
        self,
        node: Node,
        index: ShapeIndex,
        callers: tuple[Node, ...],
        found: dict[Node, None],
        depth: int,
    ) -> None:
        """Adds the operations on the way back from one result."""
        if depth > _DEPTH or (node in found and not node.shape.is_tuple):
            return

        def further(source: Node, at: ShapeIndex = ()) -> None:
            self._follow(source, at, callers, found, depth + 1)

        if node.opcode == "fusion":
            inner = (*callers, node)
            self._follow(node.called[0].root, index, inner, found, depth + 1)
            return
        if node.opcode == "tuple":
            if index:
                further(node.operands[index[0]], index[1:])
            return
        if node.opcode == "get-tuple-element":
            further(node.operands[0], (node.attributes.tuple_index, *index))
            return
        if node.opcode == "parameter":
            number = node.attributes.parameter_number
            if callers:
                source = callers[-1].operands[number]
                self._follow(source, index, callers[:-1], found, depth + 1)
                return
            loop = self._loop.get(self._home[node].name)
            if loop is not None:
                further(self._home[node].root, index)
                further(loop.operands[0], index)
            return
        if node.opcode == "while":
            further(node.called[0].root, index)
            return
        found[node] = None
        if node.opcode in _SAME:
            further(node.operands[0], index)
        elif node.opcode == "dynamic-update-slice":
            further(node.operands[1])


def label(
    program: Program,
    candidates: Sequence[Candidate],
    named: Sequence[Named],
    places: Mapping[int, Place],
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Returns the candidates with the user's names, and names of which no tensor was found.

    Layers that a Python loop unrolls name different values at one source place: they get the names
    in the order of the schedule. Where more tensors come from the place than there are names, those
    that wait longest are meant.
    """
    origins = Origins(program, places)
    alike: dict[tuple[Maker, ...], list[Named]] = {}
    for entry in named:
        alike.setdefault(entry.makers, []).append(entry)
    # Tensors by what made their data: one may have been copied.
    made: dict[tuple[Maker, ...], dict[Node, list[int]]] = {key: {} for key in alike}
    result = list(candidates)
    for number, candidate in enumerate(candidates):
        if candidate.kind == "argument":
            path = _path(program, candidate)
            result[number] = dataclasses.replace(candidate, name=path)
            continue
        match = _match(origins, candidate, alike)
        if match is not None:
            key, node = match
            made[key].setdefault(node, []).append(number)
    missed = []
    for key, entries in alike.items():
        tensors = [_originals(program, candidates, n) for n in made[key].values()]
        if len({entry.name for entry in entries}) == 1 and tensors:
            entries = entries[:1] * len(tensors)
        if len(tensors) < len(entries):
            missed += [entry.name for entry in entries]
            continue

        def waits(numbers: Sequence[int]) -> int:
            return max(candidates[n].last - candidates[n].first for n in numbers)

        def start(numbers: Sequence[int]) -> int:
            buffers = (program.buffers[candidates[n].buffer] for n in numbers)
            return min(buffer.definition_time for buffer in buffers)

        # The last layer's result, say, waits for nobody.
        meant = sorted(tensors, key=waits, reverse=True)[: len(entries)]
        for entry, numbers in zip(entries, sorted(meant, key=start)):
            for n in numbers:
                result[n] = dataclasses.replace(result[n], name=entry.name)
    return tuple(_longest_gaps(result)), tuple(dict.fromkeys(missed))


def site(origins: Origins, candidate: Candidate) -> str:
    """Returns where a candidate is made, for a person: `model.py:17 add`, or HLO's name of it."""
    nodes = origins.of(candidate)
    for node in sorted(nodes, key=lambda n: n.opcode in _STORES):
        where = origins.place(node)
        if where is not None and not _is_backward(node):
            operation = node.attributes.metadata.op_name.rpartition("/")[2]
            return f"{where} {operation}".strip()
    return origins._program.buffers[candidate.buffer].name


def is_residual(origins: Origins, candidate: Candidate) -> bool:
    """Whether the forward pass made a candidate, which then waits for the backward pass."""
    nodes = origins.of(candidate)
    known = [n for n in nodes if n.attributes.metadata.op_name]
    return bool(known) and not any(map(_is_backward, known))


def _match(
    origins: Origins,
    candidate: Candidate,
    alike: Mapping[tuple[Maker, ...], Sequence[Named]],
) -> tuple[tuple[Maker, ...], Node] | None:
    """Returns the makers of a name, and which operation of them made a candidate's data."""
    found: tuple[tuple[Maker, ...], Node] | None = None
    for node in origins.of(candidate):
        if _is_backward(node) or node.shape.is_tuple:
            continue
        where = origins.place(node)
        if where is None:
            continue
        maker = Maker(where, node.attributes.metadata.op_name.rpartition("/")[2])
        for key, entries in alike.items():
            fits = maker in key and entries[0].elements == node.shape.num_elements
            if fits and (found is None or found[0] == key):
                found = key, node
    return found


def _originals(
    program: Program, candidates: Sequence[Candidate], numbers: Sequence[int]
) -> list[int]:
    """Of candidates with the same data: all stacks, or those of the tensor that was made first."""
    stacks = [n for n in numbers if candidates[n].kind == "stack"]
    if stacks:
        return stacks

    def start(number: int) -> tuple[int, int]:
        buffer = program.buffers[candidates[number].buffer]
        return buffer.definition_time, buffer.id

    first = min(map(start, numbers))
    return [n for n in numbers if start(n) == first]


def _is_backward(node: Node) -> bool:
    path = node.attributes.metadata.op_name
    return "transpose(" in path or "rematted_computation" in path


def _path(program: Program, argument: Candidate) -> str:
    """The argument's path in the user's pytree, HLO's name where the dump has none."""
    node = program.buffers[argument.buffer].values[0].node
    return str(node.attributes.metadata.op_name) or node.name


def _longest_gaps(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leaves of each named tensor's gaps the longest: a policy sends it out once, behind the forward pass."""
    best: dict[int, Candidate] = {}
    for c in candidates:
        if c.kind == "gap" and c.name is not None:
            other = best.get(c.buffer)
            if other is None or c.last - c.first > other.last - other.first:
                best[c.buffer] = c
    return [c for c in candidates if best.get(c.buffer, c) is c]
