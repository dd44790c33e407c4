"""The plan: where the arrays of one program go on one mesh, as a file holds it and JAX takes it."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Spec = tuple[tuple[str, ...], ...]  # Mesh axes that cut each dimension, major first.

SCHEMA_VERSION = 1
_KIND = "sharding.plan"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """A class of dimensions, and the axes that cut it.

    Attributes:
        name: of the class, after an argument's dimension: `"params/w1.0"`.
        size: its extent.
        axes: (axis, level): where classes of several levels meet on one axis, the lowest is cut.
    """

    name: str
    size: int
    axes: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """An argument or a result.

    Attributes:
        path: in its tree, such as `"params/w1"`.
        shape: its extents.
        classes: names of its dimensions; `""` for those without.
        spec: axes that cut them.
    """

    path: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    spec: Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search decides about one program.

    Attributes:
        program: digest of the program (`flatten.Program.digest`).
        mesh: axis names and sizes, in the mesh's order.
        cuts: classes that are cut.
        inputs: arguments, flat, in order.
        outputs: results, the same.
        sites: specs of arrays inside, by `"SITE:in0"` or `"SITE:out0"`; several are gone through in order.
        compiler_options: for `jax.jit(..., compiler_options=...)` on the machine that the plan is for.
        provenance: what found the plan and what is predicted of it.
    """

    program: str
    mesh: tuple[tuple[str, int], ...]
    cuts: tuple[Cut, ...]
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    sites: Mapping[str, tuple[Spec, ...]]
    compiler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = dict(self.mesh)
        if len(sizes) != len(self.mesh) or min(sizes.values(), default=0) < 1:
            raise ValueError(
                f"a mesh has axes of different names and positive sizes, not {self.mesh}"
            )
        for leaf in (*self.inputs, *self.outputs):
            if len(leaf.spec) != len(leaf.shape):
                raise ValueError(f"{leaf.path}: spec {leaf.spec} of shape {leaf.shape}")
            for size, axes in zip(leaf.shape, leaf.spec):
                if missing := [axis for axis in axes if axis not in sizes]:
                    raise ValueError(
                        f"{leaf.path}: no axis {missing[0]!r} in the mesh {list(sizes)}"
                    )
                parts = math.prod(sizes[axis] for axis in axes)
                if size % parts:
                    raise ValueError(
                        f"{leaf.path}: {size} can't be cut into {parts} equal parts"
                    )

    @property
    def devices(self) -> int:
        """Of the mesh."""
        return math.prod(size for _, size in self.mesh)

    def make_mesh(self, devices: Sequence[Any] | None = None) -> Mesh:
        """Returns the plan's mesh.

        Args:
            devices: to take; None for all of this process.
        """
        names, sizes = zip(*self.mesh)
        types = (AxisType.Auto,) * len(names)
        return jax.make_mesh(sizes, names, axis_types=types, devices=devices)

    def require_mesh(self, mesh: Any) -> None:
        """Raises ValueError if a mesh has other axes than the plan's, or shardings as types."""
        theirs = tuple(zip(mesh.axis_names, mesh.axis_sizes))
        if theirs != self.mesh:
            raise ValueError(f"the plan is for a mesh {self.mesh}, not {theirs}")
        if any(kind != AxisType.Auto for kind in mesh.axis_types):
            raise ValueError(
                f"the plan needs a mesh whose axes are of type Auto (Plan.make_mesh), not {mesh.axis_types}"
            )

    def require_program(self, digest: str) -> None:
        """Raises ValueError if a program is not the plan's."""
        if digest != self.program:
            raise ValueError(f"the plan is for program {self.program}, not {digest}")

    def in_shardings(self, mesh: Any, *args: Any) -> tuple[Any, ...]:
        """Returns the shardings of arguments, for `jax.jit(in_shardings=...)`.

        Args:
            mesh: with the plan's axes.
            args: arrays or shapes, as the function takes them.

        Raises:
            ValueError: they are not those of the plan, or the mesh is not.
        """
        return self._shardings(mesh, args, self.inputs, "arguments")

    def out_shardings(self, mesh: Any, out: Any) -> Any:
        """Returns the shardings of results, for `jax.jit(out_shardings=...)`.

        Args:
            mesh: with the plan's axes.
            out: the results' shapes, from `jax.eval_shape`.

        Raises:
            ValueError: as `in_shardings`.
        """
        return self._shardings(mesh, out, self.outputs, "results")

    def _shardings(
        self, mesh: Any, tree: Any, leaves: tuple[Leaf, ...], what: str
    ) -> Any:
        self.require_mesh(mesh)
        flat, structure = jax.tree.flatten(tree)
        shapes = [tuple(jax.numpy.shape(leaf)) for leaf in flat]
        wanted = [leaf.shape for leaf in leaves]
        if shapes != wanted:
            raise ValueError(
                f"the plan is for another program: its {what} have shapes {wanted}, not {shapes}"
            )
        found = [NamedSharding(mesh, partition_spec(leaf.spec)) for leaf in leaves]
        return jax.tree.unflatten(structure, found)

    def logical_axis_rules(self) -> tuple[tuple[str, Any], ...]:
        """Returns the plan as rules for Flax, names of dimensions to mesh axes: `flax.core.spmd.logical_axis_rules`.

        The names are those of `dimension_names`.
        """
        rules = {
            name: axes[0] if len(axes) == 1 else axes or None
            for leaf in (*self.inputs, *self.outputs)
            for name, axes in zip(self._logical(leaf), leaf.spec)
            if name
        }
        return tuple(rules.items())

    def dimension_names(self, path: str) -> tuple[str | None, ...]:
        """Returns the logical names of an argument's dimensions, for `nnx.with_partitioning`.

        They are the classes' names; `"NAME@AXES"` where another class of the same array takes some of the axes, since
        a rule of NNX gives a name the same axes everywhere.

        Raises:
            ValueError: there is no such argument.
        """
        for leaf in self.inputs:
            if leaf.path == path:
                return self._logical(leaf)
        known = ", ".join(leaf.path for leaf in self.inputs)
        raise ValueError(f"no argument {path!r}; there are {known}")

    def _logical(self, leaf: Leaf) -> tuple[str | None, ...]:
        full = {cut.name: tuple(axis for axis, _ in cut.axes) for cut in self.cuts}
        return tuple(
            None
            if not name
            else name
            if axes == full.get(name, ())
            else f"{name}@{','.join(axes) or 'none'}"
            for name, axes in zip(leaf.classes, leaf.spec)
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as a JSON object."""
        fields = dataclasses.asdict(self)
        return {"schema_version": SCHEMA_VERSION, "kind": _KIND, **fields}


def partition_spec(spec: Spec) -> PartitionSpec:
    """Returns a spec as JAX has it."""
    return PartitionSpec(
        *(axes[0] if len(axes) == 1 else axes or None for axes in spec)
    )


def jit(
    fn: Callable[..., Any], plan: Plan, mesh: Any, *args: Any, **kwargs: Any
) -> Any:
    """Returns `jax.jit` of a function with all that the plan says.

    Compile options are for the machine that the plan was made for; they are left out where the mesh is of CPUs.

    Args:
        fn: the function that the plan was made for.
        plan: the plan.
        mesh: with the plan's axes.
        args: arrays or shapes, as the function takes them.
        kwargs: further ones for `jax.jit`, such as `donate_argnums`.

    Raises:
        ValueError: plan, mesh and arguments do not fit.
    """
    from compiler.sharding.apply import apply

    out = jax.eval_shape(fn, *args)
    cpu = isinstance(mesh, Mesh) and mesh.devices.flat[0].platform == "cpu"
    options = {} if cpu else dict(plan.compiler_options)
    return jax.jit(
        apply(fn, plan, mesh),
        in_shardings=plan.in_shardings(mesh, *args),
        out_shardings=plan.out_shardings(mesh, out),
        compiler_options=options or None,
        **kwargs,
    )


def from_json(document: Any) -> Plan:
    """Returns the plan that `Plan.to_json` wrote.

    Raises:
        ValueError: in one line, what is wrong with it.
    """
    if not isinstance(document, Mapping) or document.get("kind") != _KIND:
        raise ValueError(f"not a plan: its kind is not {_KIND!r}")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {document.get('schema_version')!r}; this reads {SCHEMA_VERSION}"
        )
    fields = {k: v for k, v in document.items() if k not in ("schema_version", "kind")}
    try:
        fields["mesh"] = tuple((str(name), int(size)) for name, size in fields["mesh"])
        fields["cuts"] = tuple(
            Cut(
                name=str(cut["name"]),
                size=int(cut["size"]),
                axes=tuple((str(axis), int(level)) for axis, level in cut["axes"]),
            )
            for cut in fields["cuts"]
        )
        for name in ("inputs", "outputs"):
            fields[name] = tuple(
                Leaf(
                    path=str(leaf["path"]),
                    shape=tuple(map(int, leaf["shape"])),
                    classes=tuple(map(str, leaf["classes"])),
                    spec=_spec(leaf["spec"]),
                )
                for leaf in fields[name]
            )
        fields["sites"] = {
            site: tuple(map(_spec, way)) for site, way in fields["sites"].items()
        }
        return Plan(**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a plan: {type(error).__name__}: {error}") from None
    except ValueError as error:
        raise ValueError(f"not a plan: {error}") from None


def _spec(value: Any) -> Spec:
    return tuple(tuple(map(str, axes)) for axes in value)


def read(path: Path | str) -> Plan:
    """Returns the plan in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no plan.
    """
    try:
        return from_json(json.loads(Path(path).read_text()))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
