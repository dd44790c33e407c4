"""The judge of plans: the production compiler's schedule of the cut program, walked by the reference simulator.

judge = Judge(fn=fn, args=args, topology="v5e:2x4")
found = judge(plan)
found.timeline.total, found.compiled.memory, found.arguments

Cheaper words on the same plan: `Judge.structure`, the collectives that XLA makes of it for CPUs in a second or two, and
`differences`, whether it computes what the uncut function does.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from compiler import backends
from compiler.backends import Compiled
from compiler.backends.meshes import num_devices
from compiler.cost import links, timeline
from compiler.cost.timeline import Timeline
from compiler.hlo.collectives import collective
from compiler.sharding.layout import Predicted
from compiler.sharding.plan import Plan, jit

MIB = float(1 << 20)


class Judged(NamedTuple):
    """What the compiler made of a plan."""

    timeline: Timeline  # Cycles of one device.
    compiled: Compiled

    @property
    def arguments(self) -> float:
        """MiB of the arguments on one device."""
        return self.compiled.memory.argument / MIB

    @property
    def memory(self) -> float:
        """MiB of arguments, results and temporaries on one device."""
        return self.compiled.memory.total / MIB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """Compiles plans for real chips.

    Attributes:
        fn: the function that is cut.
        args: shapes of its arguments.
        topology: such as `v5e:2x4`.
        donate_argnums: arguments whose memory the results may take.
        latency: seconds that each collective takes besides its bytes.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    topology: str
    donate_argnums: tuple[int, ...] = ()
    latency: float = 0.0

    def __call__(self, plan: Plan) -> Judged:
        """Returns the timeline of the program under a plan.

        Raises:
            CompilerError: the compiler is missing, failed, or finds no room ("out-of-memory": `shortage` says how much
                would do).
            ValueError: the plan is for another program, or for another number of devices.
        """
        compiled = self._compile(plan, self.topology, plan.compiler_options)
        prices = links.of_topology(self.topology)
        found = timeline.simulate(
            compiled.module, prices, latency=prices.cycles(self.latency)
        )
        return Judged(found, compiled)

    def structure(self, plan: Plan) -> dict[str, int]:
        """Returns the bytes of the collectives that XLA makes for CPUs, by kind, loops counted once.

        A second or two. CPUs have no reduce-scatter, but an all-reduce of which each device keeps its part
        (`structure_of` says the same of a prediction), and arrays of bfloat16 may travel as float32.
        """
        compiled = self._compile(plan, f"cpu:{plan.devices}", {})
        found: collections.Counter[str] = collections.Counter()
        for node in compiled.module.nodes():
            if moved := collective(node):
                found[moved.kind] += moved.result_bytes
        return dict(found)

    def _compile(
        self, plan: Plan, topology: str, options: Mapping[str, Any]
    ) -> Compiled:
        backends.backend_of(topology).environment(topology)  # Is there such a one?
        devices = num_devices(topology)
        if plan.devices != devices:
            raise ValueError(
                f"the plan is for {plan.devices} devices; {topology} has {devices}"
            )
        cut = jit(
            self.fn,
            dataclasses.replace(plan, compiler_options={}),
            abstract_mesh(plan),
            *self.args,
            donate_argnums=self.donate_argnums,
        )
        with backends.without_locations():
            source = backends.from_function(cut, *self.args, topology=topology)
        return backends.compile_source(source, topology, options)


def abstract_mesh(plan: Plan) -> AbstractMesh:
    """Returns the plan's mesh, without devices."""
    names, sizes = zip(*plan.mesh)
    return AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))


def structure_of(predicted: Sequence[Predicted]) -> dict[str, int]:
    """Returns the bytes of predicted collectives by kind, as `Judge.structure` counts those of a program without loops."""
    found: collections.Counter[str] = collections.Counter()
    for one in predicted:
        if one.kind == "reduce-scatter":
            found["all-reduce"] += round(one.result_bytes * one.devices)
        else:
            found[one.kind] += round(one.result_bytes)
    return dict(found)


class Difference(NamedTuple):
    """How far the results of a cut program are from those of the uncut one.

    Attributes:
        largest: over all results, in units of each one's largest element.
        tolerance: what rounding explains; whole numbers must be equal.
        equal: whether it explains all.
    """

    largest: float
    tolerance: float
    equal: bool


def differences(fn: Callable[..., Any], args: Any, plan: Plan) -> Difference:
    """Runs the function cut and uncut on random numbers, on this process's devices.

    Args:
        fn: the function that the plan was made for.
        args: shapes of its arguments.
        plan: the plan.

    Raises:
        ValueError: there are too few devices, or the plan is for another program.
    """
    devices = jax.devices()
    if len(devices) < plan.devices:
        raise ValueError(f"the plan needs {plan.devices} devices, not {len(devices)}")
    drawn = draw(args)
    want = jax.jit(fn)(*drawn)
    mesh = plan.make_mesh(devices[: plan.devices])
    got = jit(fn, plan, mesh, *args)(*drawn)
    tolerance = _ROUNDINGS * _epsilon(drawn, want)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    errors = [(apart(a, b), 0.0 if _whole(b) else tolerance) for a, b in pairs]
    return Difference(
        max((error for error, _ in errors), default=0.0),
        tolerance,
        all(error <= allowed for error, allowed in errors),
    )


def _whole(array: jax.Array) -> bool:
    return not jnp.issubdtype(array.dtype, jnp.inexact)


def apart(got: jax.Array, want: jax.Array) -> float:
    """Returns the largest difference in units of the largest element; infinite where only one is finite."""
    if jnp.issubdtype(want.dtype, jax.dtypes.prng_key):
        got, want = jax.random.key_data(got), jax.random.key_data(want)
    a, b = np.asarray(got).astype(np.float64), np.asarray(want).astype(np.float64)
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    size = np.abs(b).max(initial=0.0)
    error = np.abs(a - b).max() / size if size else math.inf
    return float(error) if np.isfinite(error) else math.inf


# Sums in another order, several in a row: 1.2e-5 of float32's results, and no more than 5 % of bfloat16's.
_ROUNDINGS = 100.0
_MOST = 0.05


def _epsilon(*trees: Any) -> float:
    """Returns the coarsest rounding among arrays."""
    kinds = {x.dtype for x in jax.tree.leaves(trees)}
    found = [
        float(jnp.finfo(kind).eps)
        for kind in kinds
        if jnp.issubdtype(kind, jnp.inexact)
    ]
    return min(max(found, default=0.0), _MOST / _ROUNDINGS)


def draw(args: Any, seed: int = 0) -> Any:
    """Returns random arrays of given shapes: normal numbers, or small whole ones."""
    rng = np.random.default_rng(seed)

    def one(shape: Any) -> jax.Array:
        dtype, dims = shape.dtype, shape.shape
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            keys = jax.random.split(jax.random.key(seed), max(1, math.prod(dims)))
            return keys.reshape(dims)
        if jnp.issubdtype(dtype, jnp.inexact):
            return jnp.asarray(0.3 * rng.normal(size=dims), dtype)
        return jnp.asarray(rng.integers(0, 2, size=dims), dtype)

    return jax.tree.map(one, args)
