"""A function with a plan's constraints in it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
from jax.sharding import NamedSharding

from compiler.sharding.flatten import INLINED, trace
from compiler.sharding.plan import Plan, partition_spec


def apply(fn: Callable[..., Any], plan: Plan, mesh: Any) -> Callable[..., Any]:
    """Returns a function that computes the same, its arrays put where the plan says.

    It runs under `jax.jit`, and is not meant to be differentiated: plan the training step, not the loss.

    Args:
        fn: the function that the plan was made for.
        plan: the plan.
        mesh: a mesh with the plan's axes, concrete or abstract.

    Raises:
        ValueError: the mesh is another; when it is called, that the plan is for another program.
    """
    plan.require_mesh(mesh)
    constraints = {
        site: [NamedSharding(mesh, partition_spec(spec)) for spec in way]
        for site, way in plan.sites.items()
    }

    @functools.wraps(fn)
    def constrained(*args: Any) -> Any:
        shapes = jax.tree.map(_abstract, args)
        program = trace(fn, *shapes)
        plan.require_program(program.digest)
        leaves = jax.tree.leaves(args)
        out = _evaluate(program.jaxpr, leaves, "", constraints)
        return jax.tree.unflatten(program.output_tree, out)

    return constrained


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(leaf)
    weak = getattr(aval, "weak_type", False)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=weak)


_Constraints = Mapping[str, Sequence[NamedSharding]]


def _evaluate(
    closed: Any, args: Sequence[Any], site: str, constraints: _Constraints
) -> list[Any]:
    """Runs a jaxpr, with constraints put on what goes in and out of equations."""
    jaxpr = getattr(closed, "jaxpr", closed)
    names: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
    names.update(zip(jaxpr.constvars, getattr(closed, "consts", ())))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, jex.Literal) else names[var]

    for number, eqn in enumerate(jaxpr.eqns):
        here = f"{site}{number}:{eqn.primitive.name}"
        operands = [
            _constrain(read(var), f"{here}:in{i}", constraints)
            for i, var in enumerate(eqn.invars)
        ]
        params = eqn.primitive.get_bind_params(_inner(eqn, here, constraints))
        results = eqn.primitive.bind(*operands, **params)
        if not eqn.primitive.multiple_results:
            results = [results]
        for i, (var, result) in enumerate(zip(eqn.outvars, results, strict=True)):
            names[var] = _constrain(result, f"{here}:out{i}", constraints)
    return [read(var) for var in jaxpr.outvars]


def _constrain(value: Any, site: str, constraints: _Constraints) -> Any:
    for sharding in constraints.get(site, ()):
        value = jax.lax.with_sharding_constraint(value, sharding)
    return value


def _inner(eqn: Any, site: str, constraints: _Constraints) -> dict[str, Any]:
    """Returns the parameters of an equation, constraints put into its jaxprs."""
    params = dict(eqn.params)
    name = eqn.primitive.name
    if name in INLINED and INLINED[name] in params:
        parts = {INLINED[name]: f"{site}/"}
    elif name == "scan":
        parts = {"jaxpr": f"{site}/"}
    elif name == "while":
        parts = {"cond_jaxpr": f"{site}/cond/", "body_jaxpr": f"{site}/body/"}
    elif name == "cond":
        params["branches"] = tuple(
            _rewritten(branch, f"{site}/{i}/", constraints)
            for i, branch in enumerate(params["branches"])
        )
        return params
    else:
        return params
    for key, prefix in parts.items():
        params[key] = _rewritten(params[key], prefix, constraints)
    return params


def _rewritten(closed: Any, site: str, constraints: _Constraints) -> Any:
    """Returns a jaxpr with its constraints in it; itself if it has none."""
    if not any(key.startswith(site) for key in constraints):
        return closed
    shapes = [
        jax.ShapeDtypeStruct(
            var.aval.shape,
            var.aval.dtype,
            weak_type=getattr(var.aval, "weak_type", False),
        )
        for var in getattr(closed, "jaxpr", closed).invars
    ]
    new = jax.make_jaxpr(lambda *args: _evaluate(closed, args, site, constraints))(
        *shapes
    )
    return new if hasattr(closed, "jaxpr") else new.jaxpr
