"""A traced function as one list of operations: calls inlined, loops kept once with their trip count.

The body of a scan appears once. Its constants are the outer values themselves; a carry is one name for what goes in,
comes out and is carried; slices of stacks are operations of their own. The same holds for while loops, and for the
branches of a conditional.
"""

import dataclasses
import functools
import hashlib
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

from compiler.hlo.schedule import UNKNOWN_TRIP_COUNT
from compiler.sharding import rules
from compiler.sharding.labels import Rule

# Equations that stand for their inner jaxpr, and the parameter that holds it.
INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
LITERAL = -1  # In place of a value: a number in the program.


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the program.

    Attributes:
        shape: its extents.
        itemsize: bytes of an element.
        dtype: its name.
    """

    shape: tuple[int, ...]
    itemsize: int
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.itemsize


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of the flat program.

    Attributes:
        site: where it is: equation numbers and names down the nest, `"7:scan/0:dot_general"`.
        primitive: its name.
        operands: indices of values; `LITERAL` for numbers.
        results: indices of values.
        rule: how their dimensions are related.
        repeat: how often it runs.
        scope: site of the loop that it runs in, `""` outside.
        digest: of primitive, parameters and shapes, equal for repeated layers.
    """

    site: str
    primitive: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    rule: Rule
    repeat: float
    scope: str
    digest: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A flat program.

    Attributes:
        jaxpr: what was traced.
        values: arrays, by index.
        operations: in order; those whose results nobody needs are left out.
        inputs: values of the flat arguments.
        outputs: values of the flat results; `LITERAL` for numbers.
        input_paths: names of the arguments' leaves, such as `"params/w"`.
        output_paths: names of the results' leaves, such as `"0/w"`.
        output_tree: structure of the results.
        donated: whether each input's memory may be reused.
        stacks: (value, dimension) that loops go along; they can't be cut.
    """

    jaxpr: Any
    values: tuple[Value, ...]
    operations: tuple[Operation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_paths: tuple[str, ...]
    output_paths: tuple[str, ...]
    output_tree: Any
    donated: tuple[bool, ...]
    stacks: frozenset[tuple[int, int]]

    @functools.cached_property
    def digest(self) -> str:
        """Of the program's text and of its arguments' names: tells plans for it from others."""
        lines = [
            f"{op.site} {op.digest} {op.operands} {op.results}"
            for op in self.operations
        ]
        names = [*self.input_paths, *self.output_paths]
        text = "\n".join([*lines, *names, str(self.inputs), str(self.outputs)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def trace(
    fn: Callable[..., Any], *args: Any, donate_argnums: Sequence[int] = ()
) -> Program:
    """Returns the flat program of a function of arrays.

    Args:
        fn: what `jax.jit` takes.
        args: arrays or `jax.ShapeDtypeStruct`s, in any pytrees.
        donate_argnums: arguments whose memory the results may take.

    Raises:
        ValueError: it can't be traced.
    """
    try:
        jaxpr, out = jax.make_jaxpr(fn, return_shape=True)(*args)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"the function can't be traced: {type(error).__name__}: {reason}"
        ) from error
    leaves = jax.tree_util.tree_leaves_with_path(args)
    donated = tuple(path[0].idx in donate_argnums for path, _ in leaves)
    names = argument_names(fn, len(args))
    outs = jax.tree_util.tree_leaves_with_path(out)
    flat = _Flat()
    inputs = tuple(flat.value(var.aval) for var in jaxpr.jaxpr.invars)
    outputs = flat.walk(jaxpr, list(inputs), "", 1.0, "")
    return Program(
        jaxpr=jaxpr,
        values=tuple(flat.values),
        operations=_live(flat.operations, outputs),
        inputs=inputs,
        outputs=tuple(outputs),
        input_paths=tuple(
            "/".join(filter(None, [names[path[0].idx], _name(path[1:])]))
            for path, _ in leaves
        ),
        output_paths=tuple(_name(path) for path, _ in outs),
        output_tree=jax.tree.structure(out),
        donated=donated,
        stacks=frozenset(flat.stacks),
    )


def argument_names(fn: Callable[..., Any], count: int) -> list[str]:
    """Returns the names of a function's first arguments; their numbers where it does not say."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return [named[i] if i < len(named) else str(i) for i in range(count)]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _live(operations: list[Operation], outputs: Sequence[int]) -> tuple[Operation, ...]:
    """Returns the operations that a result depends on; loops' carries depend on themselves."""
    made: dict[int, list[Operation]] = {}
    for op in operations:
        for result in op.results:
            made.setdefault(result, []).append(op)
    needed: set[int] = set()
    stack = list(outputs)
    while stack:
        value = stack.pop()
        if value in needed:
            continue
        needed.add(value)
        for op in made.get(value, ()):
            stack.extend(op.operands)
    return tuple(op for op in operations if not needed.isdisjoint(op.results))


class _Flat:
    """Collects values and operations while jaxprs are walked."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.operations: list[Operation] = []
        self.stacks: set[tuple[int, int]] = set()

    def value(self, aval: Any) -> int:
        """Returns a new value of this type."""
        dtype = getattr(aval, "dtype", np.dtype("float32"))
        # Random keys and other extended types have no size of their own to speak of.
        itemsize = int(getattr(dtype, "itemsize", 8))
        shape = tuple(getattr(aval, "shape", ()))
        self.values.append(Value(shape, itemsize, str(dtype)))
        return len(self.values) - 1

    def emit(
        self,
        site: str,
        primitive: str,
        operands: Sequence[int],
        results: Sequence[int],
        rule: Rule,
        repeat: float,
        scope: str,
        params: str = "",
    ) -> None:
        """Appends an operation."""
        shapes = [self.values[v] for v in (*operands, *results) if v != LITERAL]
        digest = hashlib.sha256(f"{primitive} {params} {shapes}".encode()).hexdigest()
        self.operations.append(
            Operation(
                site,
                primitive,
                tuple(operands),
                tuple(results),
                rule,
                repeat,
                scope,
                digest[:16],
            )
        )

    def walk(
        self, closed: Any, arguments: list[int], site: str, repeat: float, scope: str
    ) -> list[int]:
        """Appends the operations of a jaxpr and returns the values of its results."""
        jaxpr = getattr(closed, "jaxpr", closed)
        names: dict[Any, int] = dict(zip(jaxpr.invars, arguments, strict=True))
        for var, const in zip(jaxpr.constvars, getattr(closed, "consts", ())):
            names[var] = self.value(jax.typeof(const))

        def read(var: Any) -> int:
            return LITERAL if isinstance(var, jex.Literal) else names[var]

        for number, eqn in enumerate(jaxpr.eqns):
            here = f"{site}{number}:{eqn.primitive.name}"
            operands = [read(var) for var in eqn.invars]
            results = self.equation(eqn, operands, here, repeat, scope)
            names.update(zip(eqn.outvars, results, strict=True))
        return [read(var) for var in jaxpr.outvars]

    def equation(
        self, eqn: Any, operands: list[int], site: str, repeat: float, scope: str
    ) -> list[int]:
        """Appends what an equation stands for."""
        name, params = eqn.primitive.name, eqn.params
        if name in INLINED and INLINED[name] in params:
            return self.walk(params[INLINED[name]], operands, f"{site}/", repeat, scope)
        if name == "scan":
            return self.scan(eqn, operands, site, repeat)
        if name == "while":
            return self.loop(eqn, operands, site, repeat)
        if name == "cond":
            return self.branches(eqn, operands, site, repeat, scope)
        results = [self.value(var.aval) for var in eqn.outvars]
        rule = rules.rule_of(eqn)
        inner = any(map(_has_jaxpr, params.values()))
        text = "" if inner else str(sorted(params.items(), key=lambda kv: kv[0]))
        text = re.sub("0x[0-9a-f]+", "", text)  # Addresses of functions.
        self.emit(site, name, operands, results, rule, repeat, scope, text)
        return results

    def tie(
        self, values: Sequence[int], result: int, site: str, repeat: float, scope: str
    ) -> None:
        """Gives several values one name."""
        known = [value for value in values if value != LITERAL]
        rule = rules.identity(self.values[result].shape, len(known))
        self.emit(site, "tie", known, [result], rule, repeat, scope)

    def scan(
        self, eqn: Any, operands: list[int], site: str, repeat: float
    ) -> list[int]:
        """Appends the body of a scan."""
        closed, params = eqn.params["jaxpr"], eqn.params
        consts, carries = params["num_consts"], params["num_carry"]
        trips = repeat * params["length"]
        arguments = operands[:consts]
        body = [self.value(var.aval) for var in closed.jaxpr.invars[consts:]]
        for outer, inner in zip(operands[consts:][:carries], body):
            self.tie([outer], inner, f"{site}/in", repeat, site)
        for outer, inner in zip(operands[consts + carries :], body[carries:]):
            self._stack(outer, inner, f"{site}/slice", trips, site, stack=False)
        out = self.walk(closed, arguments + body, f"{site}/", trips, site)
        results = [self.value(var.aval) for var in eqn.outvars]
        for inner, carried, outer in zip(out, body[:carries], results):
            # The last result is the next one's argument.
            self.tie([inner, carried], outer, f"{site}/carry", repeat, site)
            self.tie([outer], carried, f"{site}/next", repeat, site)
        for inner, outer in zip(out[carries:], results[carries:]):
            self._stack(inner, outer, f"{site}/stack", trips, site, stack=True)
        return results

    def _stack(
        self, source: int, result: int, site: str, trips: float, scope: str, stack: bool
    ) -> None:
        if LITERAL in (source, result):
            return
        slice_, whole = (source, result) if stack else (result, source)
        self.stacks.add((whole, 0))
        rule = rules.stacked(self.values[slice_].shape, stack)
        name = "scan_stack" if stack else "scan_slice"
        self.emit(site, name, [source], [result], rule, trips, scope)

    def loop(
        self, eqn: Any, operands: list[int], site: str, repeat: float
    ) -> list[int]:
        """Appends condition and body of a while loop, which says nothing of its trips."""
        cond, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
        split = eqn.params["cond_nconsts"]
        end = split + eqn.params["body_nconsts"]
        carried = [self.value(var.aval) for var in eqn.outvars]
        for outer, inner in zip(operands[end:], carried):
            self.tie([outer], inner, f"{site}/in", repeat, site)
        trips = repeat * UNKNOWN_TRIP_COUNT
        self.walk(cond, operands[:split] + carried, f"{site}/cond/", trips, site)
        out = self.walk(
            body, operands[split:end] + carried, f"{site}/body/", trips, site
        )
        results = [self.value(var.aval) for var in eqn.outvars]
        for inner, before, outer in zip(out, carried, results):
            self.tie([inner, before], outer, f"{site}/carry", repeat, site)
            self.tie([outer], before, f"{site}/next", repeat, site)
        return results

    def branches(
        self, eqn: Any, operands: list[int], site: str, repeat: float, scope: str
    ) -> list[int]:
        """Appends all branches of a conditional; the longest counts, the others run 0 times."""
        closed = eqn.params["branches"]
        longest = max(range(len(closed)), key=lambda i: len(closed[i].jaxpr.eqns))
        outs = [
            self.walk(
                branch,
                operands[1:],
                f"{site}/{i}/",
                repeat if i == longest else 0.0,
                scope,
            )
            for i, branch in enumerate(closed)
        ]
        results = [self.value(var.aval) for var in eqn.outvars]
        for values, result in zip(zip(*outs), results):
            self.tie(values, result, f"{site}/join", repeat, scope)
        return results


def _has_jaxpr(param: Any) -> bool:
    return "Jaxpr" in type(param).__name__
