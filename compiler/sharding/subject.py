"""What is cut: a function and the shapes of its arguments, by name, and plans written by hand for it."""

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from solvers.command.result import Exit, Failure

if TYPE_CHECKING:
    from compiler.sharding.cost import Choice
    from compiler.sharding.model import Model
    from compiler.sharding.plan import Plan


@dataclasses.dataclass(frozen=True)
class HandPlan:
    """A plan as people write it.

    Attributes:
        axes: classes assigned to each mesh axis, in order.
        turned: classes whose arrays the last one wins.
    """

    axes: Mapping[str, Sequence[str]]
    turned: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Subject:
    """A function to cut.

    Attributes:
        fn: what `jax.jit` takes.
        args: arrays or `jax.ShapeDtypeStruct`s, as the function takes them.
        plans: by hand, for a mesh of axes x and y, by name.
        donate_argnums: arguments whose memory the results may take.
        small: the same function on smaller arrays, to run where the real ones take too long.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    plans: Mapping[str, HandPlan] = dataclasses.field(default_factory=dict)
    donate_argnums: tuple[int, ...] = ()
    small: "Subject | None" = None


def load(name: str) -> Subject:
    """Returns the subject of a name `MODULE:FUNCTION`.

    MODULE is imported, from the working folder too. FUNCTION takes no arguments and returns a pair (fn, args): what
    `jax.jit` takes, and a tuple of arrays or `jax.ShapeDtypeStruct`s. Instead of a pair it may return any object with
    the attributes of `Subject`, of which all but `fn` and `args` may be missing. It may also be such a pair or object itself.

    Raises:
        Failure: status 2 if the name has another form, 3 if there is no such module or attribute, 4 if it is something
            else or raises.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise Failure("usage", f"{name}: write MODULE:FUNCTION", Exit.USAGE)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Failure("input_not_found", f"{name}: {error}", Exit.NOT_FOUND) from None
    except Exception as error:
        raise _invalid(name, "importing it", error) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise Failure(
                "input_not_found",
                f"{name}: {module} has no {attribute}",
                Exit.NOT_FOUND,
            )
        found = getattr(found, part)
    if callable(found) and not hasattr(found, "fn"):
        try:
            found = found()
        except Exception as error:
            raise _invalid(name, "calling it without arguments", error) from error
    return _subject(name, found)


def _invalid(name: str, doing: str, error: Exception) -> Failure:
    reason = str(error).strip().partition("\n")[0]
    return Failure(
        "invalid_function", f"{name}: {doing}: {type(error).__name__}: {reason}"
    )


def _subject(name: str, found: Any) -> Subject:
    if isinstance(found, tuple) and len(found) == 2 and callable(found[0]):
        fn, args = found
        found = Subject(fn, args)
    fn, args = getattr(found, "fn", None), getattr(found, "args", None)
    if not callable(fn) or not isinstance(args, tuple | list):
        raise Failure(
            "invalid_function",
            f"{name}: not a pair (fn, args) nor an object with .fn and .args, but {type(found).__name__}",
        )
    small = getattr(found, "small", None)
    return Subject(
        fn=fn,
        args=tuple(args),
        plans=getattr(found, "plans", {}),
        donate_argnums=tuple(getattr(found, "donate_argnums", ())),
        small=None if small is None else _subject(f"{name}.small", small),
    )


def choice(model: "Model", plan: HandPlan, mesh: int = 0) -> "Choice":
    """Returns a hand plan as the search has it.

    Raises:
        ValueError: the program has no class of a name, or the mesh no such axis, or it does not divide the class.
    """
    from compiler.sharding.cost import assigned

    known = [model.names.classes[c].name for c in model.classes]
    axes = dict(model.meshes[mesh].axes)
    parts = dict.fromkeys(known, 1)

    def place(name: str) -> int:
        if name not in known:
            raise ValueError(f"no class {name!r}; there are {', '.join(known)}")
        return known.index(name)

    order = {axis: [place(n) for n in names] for axis, names in plan.axes.items()}
    for axis, names in plan.axes.items():
        if axis not in axes:
            raise ValueError(f"no axis {axis!r} in the mesh {list(axes)}")
        for name in dict.fromkeys(names):
            parts[name] *= axes[axis]
            size = model.names.classes[model.classes[known.index(name)]].size
            if size % parts[name]:
                raise ValueError(
                    f"{name}: {size} can't be cut into {parts[name]} equal parts"
                )
    return assigned(model, order, mesh, turned=tuple(map(place, plan.turned)))


def resized(plan: "Plan", subject: Subject, small: Subject) -> "Plan":
    """Returns a plan for the same function on arrays of other sizes.

    Raises:
        ValueError: the functions differ in more than sizes, or a cut does not divide the new ones.
    """
    from compiler.sharding.flatten import trace

    old, new = (
        trace(one.fn, *one.args, donate_argnums=one.donate_argnums)
        for one in (subject, small)
    )
    plan.require_program(old.digest)
    for what in ("input_paths", "output_paths"):
        if getattr(old, what) != getattr(new, what):
            raise ValueError("the smaller function has other arguments or results")
    if [op.site for op in old.operations] != [op.site for op in new.operations]:
        raise ValueError("the smaller function has other operations")

    def leaves(old_leaves: Any, numbers: Any) -> Any:
        shapes = [new.values[v].shape if v >= 0 else () for v in numbers]
        return tuple(
            dataclasses.replace(leaf, shape=shape)
            for leaf, shape in zip(old_leaves, shapes, strict=True)
        )

    return dataclasses.replace(
        plan,
        program=new.digest,
        inputs=leaves(plan.inputs, new.inputs),
        outputs=leaves(plan.outputs, new.outputs),
    )
